"""Clip -> Features: the picture side of BLIP (arXiv:2201.12086), frame by frame."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.encoders.clip import (
    CLIP_MEAN,
    CLIP_STD,
    embed_frames,
    join_frames,
    resize_positions,
)
from ssvid.encoders.frames import FrameEncoder, check_all_visible
from ssvid.errors import UserError, check_positive
from ssvid.nn.clip import ClipBlock
from ssvid.nn.transformer import EPS
from ssvid.registry import encoders
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index


@encoders.register("blip_vit")
class BlipViT(FrameEncoder):
    """A vision transformer with a class token for each frame. The defaults are those of BLIP-base.

    `pooled` is the mean over frames of the class features, and `cls` are these features.
    """

    has_layers = has_cls = True
    takes_adapters = True
    tiny_kwargs = {"dim": 24, "depth": 2, "heads": 2, "patch": 8, "frames": 2, "size": 16}

    def __init__(
        self,
        *,
        dim: int = 768,  # of a token
        depth: int = 12,  # transformer blocks
        heads: int = 12,  # of attention; they divide dim
        patch: int = 16,  # pixels
        frames: int = 8,  # of a clip, spread over the whole video
        size: int = 224,  # pixels of a side; published: 384 for retrieval, 480 for questions
        mean: tuple[float, float, float] = CLIP_MEAN,  # of the pixels of each channel
        std: tuple[float, float, float] = CLIP_STD,  # of the pixels of each channel
    ) -> None:
        super().__init__()
        check_positive(dim=dim, depth=depth, patch=patch)
        if size < patch:
            raise UserError(f"A frame of {size} pixels holds no patch of {patch}.")
        self.dim, self.width, self.depth = dim, dim, depth
        self.cell, self.block_dims = (1, patch, patch), (dim,) * depth
        self.mean, self.std = mean, std
        self.spec = ClipSpec(frames=frames, whole=True, size=size)
        self.patch = nn.Conv2d(3, dim, patch, stride=patch)
        self.cls = nn.Parameter(torch.empty(dim))
        self.positions = nn.Parameter(torch.empty(1 + (size // patch) ** 2, dim))
        self.blocks = nn.ModuleList(ClipBlock(dim, heads, "exact", EPS) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.apply(init_picture)
        for table in (self.cls, self.positions):
            nn.init.normal_(table, std=0.02)

    def grid(self, T: int, H: int, W: int) -> Grid:
        return Grid(T, H // self.cell[1], W // self.cell[2])

    def rename_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The names stay. A table of positions for frames of another size is resized."""
        return resize_positions(state, len(self.positions))

    def begin(self, clip: Clip) -> Float[Tensor, "BT N D"]:
        """The tokens of every frame before the first block; the class token is the first."""
        grid = self.grid(*clip.shape[2:])
        return embed_frames(clip, grid, self.patch, self.cls, self.positions)

    def finish(self, x: Float[Tensor, "BT N D"]) -> Float[Tensor, "BT N D"]:
        """The tokens after the last block, normalised."""
        return self.norm(x)

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        check_all_visible(self, visible)
        grid = self.grid(*clip.shape[2:])
        x = self.begin(clip)
        maps = {}
        for number, block in enumerate(self.blocks, 1):
            x = self.adapt(number - 1, block(x))
            if layers and number in layers:
                maps[number] = join_frames(x[:, 1:], grid.t)
        x = self.finish(x)
        cls = join_frames(x[:, :1], grid.t)
        tokens = join_frames(x[:, 1:], grid.t)
        return Features(tokens, cls.mean(1), grid, tuple(maps[n] for n in layers or ()), cls)


def init_picture(module: nn.Module) -> None:
    """The initialisation of BLIP's pictures, for `nn.Module.apply`.

    Published: a normal distribution cut at 2, which is 100 standard deviations.
    """
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@encoders.register("blip_vit_b16")
def blip_vit_b16(
    *, dim: int = 768, depth: int = 12, heads: int = 12, patch: int = 16, **kwargs: Any
) -> BlipViT:
    return BlipViT(dim=dim, depth=depth, heads=heads, patch=patch, **kwargs)


@encoders.register("blip_vit_l16")
def blip_vit_l16(
    *, dim: int = 1024, depth: int = 24, heads: int = 16, patch: int = 16, **kwargs: Any
) -> BlipViT:
    return BlipViT(dim=dim, depth=depth, heads=heads, patch=patch, **kwargs)
