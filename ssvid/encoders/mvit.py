"""A stranger's multiscale ViT -> Encoder (MViT, arXiv:2104.11227). Used by the pytorchvideo and torchvision nets."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.encoders.convnet import Normalisation, halved, layout_of, renamed
from ssvid.errors import UserError
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index

DEPTHS = (
    1,
    2,
    11,
    2,
)  # blocks of each stage, of MViT-B and MViTv2-S; each stage but the first halves H and W


class MViT(Encoder):
    """`tokens`: the last map after the final norm. `pooled`: the class token, which is what the published heads read.

    `layers` are the blocks of the last stage: those before stand on finer grids, with fewer channels.
    """

    has_layers = True
    tiny_kwargs = {"width": 8, "depths": (1, 1, 1, 2), "frames": 4, "size": 32}

    def __init__(
        self,
        net: Any,  # as the library makes it, with `blocks`: x, (t, h, w) -> x, (t, h, w)
        stem: nn.Module,  # clip -> B 1+N D, grid: of the net's own parameters, for a clip of any size
        norm: nn.LayerNorm,
        depths: Sequence[int],
        spec: ClipSpec,
        normalisation: Normalisation,
    ) -> None:
        super().__init__()
        self.stem, self.blocks, self.norm = stem, net.blocks, norm
        self.dim, self.depth, self.spec = norm.normalized_shape[0], depths[-1], spec
        self.mean, self.std = normalisation
        self.layout = layout_of(net, self)

    def grid(self, T: int, H: int, W: int) -> Grid:
        return Grid(halved(T, 1), halved(H, 5), halved(W, 5))

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        if visible is not None:
            raise UserError(
                f"{self.name} pools tokens with their neighbours: it cannot leave tokens out."
            )
        x, grid = self.stem(clip)
        kept_layers = {}
        for number, block in enumerate(
            self.blocks, 1 + self.depth - len(self.blocks)
        ):  # 1 opens the last stage
            x, grid = block(x, grid)  # B 1+N D
            if layers and number in layers:
                kept_layers[number] = x[:, 1:]
        x = self.norm(x)
        return Features(x[:, 1:], x[:, 0], Grid(*grid), tuple(kept_layers[n] for n in layers or ()))

    def rename_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return renamed(state, self.layout, self.name)


def tokens_of(x: Tensor) -> tuple[Tensor, Grid]:
    """A map `B D t h w` -> tokens `B N D` and their grid."""
    return x.flatten(2).transpose(1, 2), Grid(*x.shape[2:])


def with_class(cls: Tensor, tokens: Tensor) -> Tensor:
    return torch.cat([cls.expand(len(tokens), -1, -1), tokens], dim=1)
