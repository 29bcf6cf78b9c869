"""Grid -> positions of its tokens, fixed or learnt. Used by encoders and by decoders."""

import functools
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ssvid.shapes import Grid

Kind = Literal["sincos", "sincos3d", "separable", "joint"]


def sincos(n: int, dim: int, device: torch.device | str = "cpu") -> Tensor:
    """VideoMAE's table `n dim`: one sinusoid over the *flattened* token index; float64 inside, sin on even columns."""
    column = torch.arange(dim, device=device)
    each = torch.pow(10000.0, (column // 2 * 2).double() / dim)
    angle = torch.arange(n, device=device)[:, None] / each
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def sincos3d(grid: Grid, dim: int, device: torch.device | str = "cpu") -> Tensor:
    """`N dim`: half of the columns tell the time slot, a quarter each the row and the column (V-JEPA's split)."""
    space = dim // 8 * 2
    widths = (dim - 2 * space, space, space)
    axes = [
        sincos(n, width, device)
        .view(*(n if a == axis else 1 for a in range(3)), width)
        .expand(*grid, width)
        for axis, (n, width) in enumerate(zip(grid, widths, strict=True))
    ]
    return torch.cat(axes, dim=-1).flatten(0, 2)


def fixed(kind: Kind, grid: Grid, dim: int, device: torch.device) -> Tensor:
    return sincos(grid.n, dim, device) if kind == "sincos" else sincos3d(grid, dim, device)


@functools.lru_cache(maxsize=16)
def held(kind: Kind, grid: Grid, dim: int, device: torch.device) -> Tensor:
    """On its device: no step waits for a copy."""
    with torch.inference_mode(False):  # whoever asks first, training may ask next
        return fixed(kind, grid, dim, device)


class Positions(nn.Module):
    """`sincos` (one axis, VideoMAE) and `sincos3d` (three axes) have no parameters and are recomputed for any grid.

    `separable` (space + time) and `joint` (one table) are learnt (mae_st) and interpolated to other grids.
    """

    space: nn.Parameter
    time: nn.Parameter
    table: nn.Parameter
    cls: nn.Parameter | None

    def __init__(self, kind: Kind, dim: int, grid: Grid, cls: bool = False) -> None:
        super().__init__()
        self.kind, self.dim, self.trained = kind, dim, grid
        learnt = {
            "separable": {"space": grid.h * grid.w, "time": grid.t},
            "joint": {"table": grid.n},
        }.get(kind, {})
        for name, rows in learnt.items():
            self.register_parameter(name, nn.Parameter(_small(1, rows, dim)))
        self.register_parameter("cls", nn.Parameter(_small(1, 1, dim)) if cls and learnt else None)

    def forward(self, grid: Grid, like: Tensor) -> Tensor:
        """N D for every token of the grid, on the device and of the type of `like`."""
        if self.kind in ("sincos", "sincos3d"):
            make = (
                fixed if torch.compiler.is_compiling() else held
            )  # a graph has no cache: it makes the table itself
            return make(self.kind, grid, self.dim, like.device).to(like)
        return self.learnt(grid).to(like)

    def learnt(self, grid: Grid) -> Tensor:
        if self.kind == "joint":
            return self._resize(self.table, self.trained, grid)
        space = self._resize(self.space, self.trained._replace(t=1), grid._replace(t=1))
        time = self._resize(self.time, Grid(self.trained.t, 1, 1), Grid(grid.t, 1, 1))
        return rearrange(time[:, None] + space, "t s D -> (t s) D")

    def _resize(self, table: Tensor, old: Grid, new: Grid) -> Tensor:
        if old == new:
            return table[0]
        cube = rearrange(table, "1 (t h w) D -> 1 D t h w", t=old.t, h=old.h)
        return rearrange(
            F.interpolate(cube, tuple(new), mode="trilinear"), "1 D t h w -> (t h w) D"
        )


def _small(*shape: int) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(*shape), std=0.02, a=-0.02, b=0.02)
