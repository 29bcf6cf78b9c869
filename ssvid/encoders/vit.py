"""Clip -> Features: a ViT with joint space-time attention.

It is the encoder of VideoMAE (arXiv:2203.12602) and mae_st (arXiv:2205.09113).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ssvid.encoder import IMAGENET, Encoder
from ssvid.errors import UserError, check_positive
from ssvid.nn.patches import patches
from ssvid.nn.position import Kind, Positions
from ssvid.nn.transformer import EPS, Bias, Block, init_transformer
from ssvid.registry import encoders
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index


@encoders.register("vit")
class ViT(Encoder):
    """Each tubelet of pixels is a token, and each block attends over space and time together.

    The defaults are VideoMAE-S; mae_st has `positions="separable", cls=True, bias="qkv"`. `tokens`
    are taken after the final norm, and `pooled` is their mean.
    """

    can_skip = True
    has_layers = True
    takes_adapters = True
    tubelet: tuple[int, int, int]
    cls: nn.Parameter | None
    tiny_kwargs = {"dim": 24, "depth": 2, "heads": 2, "patch": 8, "frames": 4, "size": 16}

    def __init__(
        self,
        *,
        dim: int = 384,  # of a token
        depth: int = 12,  # transformer blocks
        heads: int = 6,  # of attention; they divide dim
        patch: int = 16,  # pixels
        tubelet: int = 2,  # frames
        mlp_ratio: float = 4.0,  # hidden width of the MLPs, as a multiple of dim
        bias: Bias = "qv",  # which of query, key and value have a bias
        positions: Kind = "sincos",  # kind of position embeddings
        cls: bool = False,  # add a class token, which is attended but not returned
        dropout: float = 0.0,  # in attention and MLPs
        layer_scale: float = 0.0,  # first scale of the residual branches; 0: none
        frames: int = 16,  # of a clip
        stride: int = 4,  # of the file's frames
        size: int = 224,  # pixels
        mean: tuple[float, float, float] = IMAGENET[0],  # of the pixels of each channel
        std: tuple[float, float, float] = IMAGENET[1],  # of the pixels of each channel
    ) -> None:
        super().__init__()
        check_positive(dim=dim, depth=depth, patch=patch, tubelet=tubelet)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise UserError(
                "mean and std are three numbers each, and those of std are more than 0: not "
                f"{mean} and {std}."
            )
        self.mean, self.std = mean, std
        self.dim, self.depth, self.tubelet = dim, depth, (tubelet, patch, patch)
        self.block_dims = (dim,) * depth
        self.spec = ClipSpec(frames=frames, stride=stride, size=size)
        if not self.grid(frames, size, size).n:
            raise UserError(
                f"A clip of {frames} frames, {size} pixels holds no token of {tubelet} frames, "
                f"{patch} pixels."
            )
        self.patch = nn.Conv3d(3, dim, self.tubelet, stride=self.tubelet)
        self.positions = Positions(positions, dim, self.grid(frames, size, size), cls)
        self.register_parameter("cls", nn.Parameter(torch.zeros(1, 1, dim)) if cls else None)
        self.blocks = nn.ModuleList(
            Block(
                dim, heads, mlp_ratio=mlp_ratio, bias=bias, dropout=dropout, layer_scale=layer_scale
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.apply(init_transformer)
        if self.cls is not None:
            nn.init.trunc_normal_(self.cls, std=0.02, a=-0.02, b=0.02)

    def grid(self, T: int, H: int, W: int) -> Grid:
        return Grid(T // self.tubelet[0], H // self.tubelet[1], W // self.tubelet[2])

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        grid = self.grid(*clip.shape[2:])
        # B K P, where P has the order of the weights of a Conv3d
        x = patches(clip, self.tubelet, visible).flatten(2)
        positions = self.positions(grid, clip)  # N D
        if visible is not None:
            positions = positions[visible]  # B K D
        # This product is the convolution `patch`; hidden tokens are never embedded.
        x = F.linear(x, self.patch.weight.flatten(1), self.patch.bias) + positions
        if self.cls is not None:
            cls = self.cls if self.positions.cls is None else self.cls + self.positions.cls
            x = torch.cat([cls.expand(len(x), -1, -1), x], dim=1)  # B 1+K D
        first = 0 if self.cls is None else 1
        maps = {}
        for number, block in enumerate(self.blocks, 1):
            x = self.adapt(number - 1, block(x))
            if layers and number in layers:
                maps[number] = x[:, first:]
        tokens = self.norm(x)[:, first:]
        return Features(tokens, tokens.mean(1), grid, tuple(maps[n] for n in layers or ()))


@encoders.register("vit_tiny")
def vit_tiny(*, dim: int = 192, depth: int = 12, heads: int = 3, **kwargs: Any) -> ViT:
    return ViT(dim=dim, depth=depth, heads=heads, **kwargs)


@encoders.register("vit_small")
def vit_small(*, dim: int = 384, depth: int = 12, heads: int = 6, **kwargs: Any) -> ViT:
    return ViT(dim=dim, depth=depth, heads=heads, **kwargs)


@encoders.register("vit_base")
def vit_base(*, dim: int = 768, depth: int = 12, heads: int = 12, **kwargs: Any) -> ViT:
    return ViT(dim=dim, depth=depth, heads=heads, **kwargs)


@encoders.register("vit_large")
def vit_large(*, dim: int = 1024, depth: int = 24, heads: int = 16, **kwargs: Any) -> ViT:
    return ViT(dim=dim, depth=depth, heads=heads, **kwargs)


@encoders.register("vit_huge")
def vit_huge(*, dim: int = 1280, depth: int = 32, heads: int = 16, **kwargs: Any) -> ViT:
    return ViT(dim=dim, depth=depth, heads=heads, **kwargs)
