"""Grid -> the position embeddings of its tokens, fixed or learnt.

Encoders and decoders use them.
"""

import functools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ssvid.shapes import Grid

Kind = Literal["sincos", "sincos3d", "separable", "joint"]


def sincos(n: int, dim: int, device: torch.device | str = "cpu") -> Tensor:
    """VideoMAE's table, n dim: one sinusoid over the *flattened* token index.

    It is computed in float64. Even columns are sines, odd columns cosines.
    """
    column = torch.arange(dim, device=device)
    period = torch.pow(10000.0, (column // 2 * 2).double() / dim)
    angle = torch.arange(n, device=device)[:, None] / period
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def sincos3d(grid: Grid, dim: int, device: torch.device | str = "cpu") -> Tensor:
    """A table, N dim, with V-JEPA's split of its columns.

    Half of the columns hold the time slot, a quarter the row and a quarter the column of a token.
    """
    space = dim // 8 * 2
    widths = (dim - 2 * space, space, space)
    tables = []
    for axis, (n, width) in enumerate(zip(grid, widths, strict=True)):
        shape = [1, 1, 1, width]
        shape[axis] = n
        tables.append(sincos(n, width, device).view(*shape).expand(*grid, width))
    return torch.cat(tables, dim=-1).flatten(0, 2)


def make_table(kind: Kind, grid: Grid, dim: int, device: torch.device) -> Tensor:
    return sincos(grid.n, dim, device) if kind == "sincos" else sincos3d(grid, dim, device)


@functools.lru_cache(maxsize=16)
def cached_table(kind: Kind, grid: Grid, dim: int, device: torch.device) -> Tensor:
    """`make_table`, kept on its device, so that no step waits for a copy."""
    with torch.inference_mode(False):  # training may use the table after inference has made it
        return make_table(kind, grid, dim, device)


class Positions(nn.Module):
    """Position embeddings of four kinds.

    `sincos` (one axis, VideoMAE) and `sincos3d` (three axes) have no parameters and are computed
    for any grid. `separable` (space + time) and `joint` (one table) are learnt (mae_st) and
    interpolated to other grids.
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
            # A compiled graph has no cache, so it makes the table itself.
            get = make_table if torch.compiler.is_compiling() else cached_table
            return get(self.kind, grid, self.dim, like.device).to(like)
        return self.interpolate(grid).to(like)

    def interpolate(self, grid: Grid) -> Tensor:
        """The learnt positions N D of a grid."""
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


def resize_square(table: Tensor, h: int, w: int) -> Tensor:
    """A learnt table of a class token and a square of patches, 1+P D, for h x w patches.

    It is resized bicubically, as CLIP's and BLIP's users do; the row of the class token stays.
    """
    cls, patches = table[:1], table[1:]
    side = math.isqrt(len(patches))
    if (h, w) == (side, side):
        return table
    square = rearrange(patches, "(h w) D -> 1 D h w", h=side)
    square = F.interpolate(square, (h, w), mode="bicubic", align_corners=False)
    return torch.cat([cls, rearrange(square, "1 D h w -> (h w) D")])


def resize_rows(table: Tensor, rows: int) -> Tensor:
    """A learnt table N D -> rows D: bilinear, with antialiasing where it shrinks.

    This is what `jax.image.resize` does. The table is resized as a picture of D columns, because
    torch 2.15 gives wrong values for a picture of one column on a CPU.
    """
    if len(table) == rows:
        return table
    size = (rows, table.shape[1])
    picture = table[None, None]
    return F.interpolate(picture, size, mode="bilinear", align_corners=False, antialias=True)[0, 0]


def resize_grid(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """A learnt table of h x w positions, (h w) D, for another h x w; see `resize_rows`."""
    if (old.h, old.w) == (new.h, new.w):
        return table
    rows = resize_rows(rearrange(table, "(h w) D -> h (w D)", h=old.h), new.h)
    columns = rearrange(rows, "h (w D) -> w (h D)", w=old.w)
    return rearrange(resize_rows(columns, new.w), "w (h D) -> (h w) D", h=new.h)
