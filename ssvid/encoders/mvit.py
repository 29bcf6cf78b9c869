"""A multiscale ViT of another library -> Encoder (MViT, arXiv:2104.11227).

The MViTs of pytorchvideo and torchvision use this wrapper.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.encoders.convnet import Normalisation, halve, map_tensor_names, rename_tensors
from ssvid.errors import UserError
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index

# Blocks of each stage of MViT-B and MViTv2-S. Each stage but the first halves H and W.
DEPTHS = (1, 2, 11, 2)


class MViT(Encoder):
    """`tokens` are the last map after the final norm.

    `pooled` is the class token, which the published heads read. `layers` are the blocks of the last
    stage: earlier blocks have finer grids and fewer channels.
    """

    has_layers = True
    takes_adapters = True
    tiny_kwargs = {"width": 8, "depths": (1, 1, 1, 2), "frames": 4, "size": 32}

    def __init__(
        self,
        net: Any,  # as the library makes it, with `blocks`: x, (t, h, w) -> x, (t, h, w)
        # clip of any size -> B 1+N D, grid; made of the parameters of `net`
        stem: nn.Module,
        norm: nn.LayerNorm,
        depths: Sequence[int],
        spec: ClipSpec,
        normalisation: Normalisation,
    ) -> None:
        super().__init__()
        self.stem, self.blocks, self.norm = stem, net.blocks, norm
        self.dim, self.depth, self.spec = norm.normalized_shape[0], depths[-1], spec
        self.mean, self.std = normalisation
        # A block's first norm is as wide as its input, which the block before it gave.
        norms = [block.norm1 for block in self.blocks][1:]
        self.block_dims = tuple(after.normalized_shape[0] for after in [*norms, norm])
        self.layout = map_tensor_names(net, self)

    def grid(self, T: int, H: int, W: int) -> Grid:
        return Grid(halve(T, 1), halve(H, 5), halve(W, 5))

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        if visible is not None:
            raise UserError(
                f"{self.name} pools tokens with their neighbours: it cannot leave tokens out."
            )
        x, grid = self.stem(clip)
        maps = {}
        first = 1 + self.depth - len(self.blocks)  # the blocks of the last stage count from 1
        for number, block in enumerate(self.blocks, first):
            x, grid = block(x, grid)  # B 1+N D
            x = self.adapt(number - first, x)
            if layers and number in layers:
                maps[number] = x[:, 1:]
        x = self.norm(x)
        return Features(x[:, 1:], x[:, 0], Grid(*grid), tuple(maps[n] for n in layers or ()))

    def rename_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return rename_tensors(state, self.layout, self.name)


def flatten_map(x: Tensor) -> tuple[Tensor, Grid]:
    """The tokens B N D of a map B D t h w, and their grid."""
    return x.flatten(2).transpose(1, 2), Grid(*x.shape[2:])


def prepend_class_token(cls: Tensor, tokens: Tensor) -> Tensor:
    """1 1 D, B N D -> B 1+N D."""
    return torch.cat([cls.expand(len(tokens), -1, -1), tokens], dim=1)
