"""Clip -> Features: the picture side of CLIP (arXiv:2103.00020), frame by frame."""

import math
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.encoders.frames import FrameEncoder, check_all_visible
from ssvid.errors import UserError, check_positive
from ssvid.nn.clip import ClipBlock, Gelu, init_blocks
from ssvid.nn.linear import apply_linear, map_linear
from ssvid.nn.patches import patches
from ssvid.nn.position import resize_square
from ssvid.registry import encoders
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@encoders.register("clip_vit")
class ClipViT(FrameEncoder):
    """A vision transformer with a class token for each frame. The defaults are those of ViT-B/32.

    `tokens` and the class features are projected to the width `dim` that pictures share with
    sentences. `pooled` is the mean over frames of the class features.
    """

    has_layers = True
    takes_adapters = True
    tiny_kwargs = {"width": 24, "depth": 2, "heads": 2, "patch": 8, "dim": 16}
    tiny_kwargs |= {"frames": 2, "size": 16}

    def __init__(
        self,
        *,
        width: int = 768,  # of a token in the blocks
        depth: int = 12,  # transformer blocks
        heads: int = 12,  # of attention; they divide width
        patch: int = 32,  # pixels
        dim: int = 512,  # of the space that pictures share with sentences
        gelu: Gelu = "quick",  # of OpenAI; exact: of most nets of open_clip, which no tensor shows
        frames: int = 8,  # of a clip, spread over the whole video
        size: int = 224,  # pixels of a side
        mean: tuple[float, float, float] = CLIP_MEAN,  # of the pixels of each channel
        std: tuple[float, float, float] = CLIP_STD,  # of the pixels of each channel
    ) -> None:
        super().__init__()
        check_positive(width=width, depth=depth, patch=patch, dim=dim)
        if size < patch:
            raise UserError(f"A frame of {size} pixels holds no patch of {patch}.")
        self.dim, self.width, self.layer_dim, self.depth = dim, width, width, depth
        self.cell, self.block_dims = (1, patch, patch), (width,) * depth
        self.mean, self.std = mean, std
        self.spec = ClipSpec(frames=frames, whole=True, size=size)
        self.patch = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.cls = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positions = nn.Parameter(width**-0.5 * torch.randn(1 + (size // patch) ** 2, width))
        self.norm_pre = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(ClipBlock(width, heads, gelu) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, dim, bias=False)
        nn.init.normal_(self.project.weight, std=width**-0.5)
        init_blocks(self.blocks, width)

    def grid(self, T: int, H: int, W: int) -> Grid:
        return Grid(T, H // self.cell[1], W // self.cell[2])

    def rename_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The names stay. A table of positions for frames of another size is resized."""
        return resize_positions(state, len(self.positions))

    def begin(self, clip: Clip) -> Float[Tensor, "BT N D"]:
        """The tokens of every frame before the first block; the class token is the first."""
        grid = self.grid(*clip.shape[2:])
        return self.norm_pre(embed_frames(clip, grid, self.patch, self.cls, self.positions))

    def finish(self, x: Float[Tensor, "BT N D"]) -> Float[Tensor, "BT N E"]:
        """The tokens after the last block, in the space of sentences."""
        return apply_linear(self.project, self.norm(x))

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
        pooled = join_frames(x[:, :1], grid.t).mean(1)
        tokens = join_frames(x[:, 1:], grid.t)
        return Features(tokens, pooled, grid, tuple(maps[n] for n in layers or ()))


def embed_frames(
    clip: Clip,
    grid: Grid,
    patch: nn.Conv2d,
    cls: Float[Tensor, " D"],
    positions: Float[Tensor, "P D"],
) -> Float[Tensor, "BT N D"]:
    """The patches of every frame behind its class token, with positions for its size."""
    height, width = patch.kernel_size
    pixels = rearrange(
        patches(clip, (1, height, width)), "B (t n) C p q r -> (B t) n (C p q r)", t=grid.t
    )
    x = map_linear(pixels, patch.weight.flatten(1), patch.bias)
    x = torch.cat([cls.expand(len(x), 1, -1), x], 1)
    return x + resize_square(positions, grid.h, grid.w)


def resize_positions(state: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """A state whose table of positions has these rows: of a class token and a square."""
    table = state.get("positions")
    if table is None or table.ndim != 2 or len(table) == rows:
        return state
    side = math.isqrt(rows)
    return {**state, "positions": resize_square(table, side, side)}


def join_frames(x: Float[Tensor, "BT N D"], frames: int) -> Float[Tensor, "B TN D"]:
    """The tokens of a video's frames one after the other."""
    return rearrange(x, "(B T) N D -> B (T N) D", T=frames)


@encoders.register("clip_vit_b32")
def clip_vit_b32(
    *,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    patch: int = 32,
    dim: int = 512,
    **kwargs: Any,
) -> ClipViT:
    return ClipViT(width=width, depth=depth, heads=heads, patch=patch, dim=dim, **kwargs)


@encoders.register("clip_vit_b16")
def clip_vit_b16(
    *,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    patch: int = 16,
    dim: int = 512,
    **kwargs: Any,
) -> ClipViT:
    return ClipViT(width=width, depth=depth, heads=heads, patch=patch, dim=dim, **kwargs)


@encoders.register("clip_vit_h14")
def clip_vit_h14(
    *,
    width: int = 1280,
    depth: int = 32,
    heads: int = 16,
    patch: int = 14,
    dim: int = 1024,
    gelu: Gelu = "exact",
    **kwargs: Any,
) -> ClipViT:
    """Of open_clip (arXiv:2212.07143). Its heads are 80 wide, and its GELU is the exact one."""
    sizes: dict[str, Any] = {"width": width, "depth": depth, "heads": heads}
    return ClipViT(**sizes, patch=patch, dim=dim, gelu=gelu, **kwargs)


@encoders.register("clip_vit_l14")
def clip_vit_l14(
    *,
    width: int = 1024,
    depth: int = 24,
    heads: int = 16,
    patch: int = 14,
    dim: int = 768,
    **kwargs: Any,
) -> ClipViT:
    return ClipViT(width=width, depth=depth, heads=heads, patch=patch, dim=dim, **kwargs)
