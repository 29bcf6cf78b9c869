"""uniforms -> which tokens are kept and which are dropped. Counts follow the published code's own rounding."""

from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ssvid.errors import UserError
from ssvid.randomness import draw
from ssvid.shapes import Batch, Dropped, Grid, Index, Tokens

Kind = Literal["tube", "random", "frame", "block"]


def take(tokens: Tokens, index: Index) -> Float[Tensor, "B K D"]:
    """Tokens at `index`, in its order: B N D, B K -> B K D."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


class Mask:
    """Which tokens of each clip of a batch an objective keeps, drawn from the clip's own coordinates."""

    def __init__(self, who: str, flag: str, kind: Kind, ratio: float, grid: Grid) -> None:
        """Refused where nothing is kept, or nothing dropped, of a clip of this grid."""
        self.kind, self.ratio = kind, ratio
        n = {"tube": grid.h * grid.w, "frame": grid.t}.get(
            kind, grid.n
        )  # things kept or dropped each by itself
        kept = int(n * (1 - ratio)) if kind == "random" else n - int(n * ratio)
        if not 0 < kept < n:
            raise UserError(
                f"{who}: {flag} {ratio} keeps {kept} of {n}: some must be seen, some hidden."
            )

    def __call__(self, batch: Batch, grid: Grid) -> tuple[Index, Dropped]:
        """Rows are clips, those of a sample side by side."""
        u = draw_for_clips(batch, "mask", self.draws(grid))
        if self.kind == "random":
            return random_mask(u, self.ratio)
        return {"tube": tube_mask, "frame": frame_mask, "block": block_mask}[self.kind](
            u, grid, self.ratio
        )

    def draws(self, grid: Grid) -> int:
        counts = {
            "tube": grid.h * grid.w,
            "random": grid.n,
            "frame": grid.t,
            "block": BLOCK_DRAWS + grid.n,
        }
        return counts[self.kind]


def draw_for_clips(batch: Batch, stream: str, n: int) -> Float[Tensor, "B n"]:
    """n uniforms of each clip, those of a sample side by side."""
    views = batch["clips"].shape[1]
    return rearrange(draw(batch, stream, views * n), "B (V n) -> (B V) n", V=views)


def random_mask(u: Float[Tensor, "B N"], ratio: float) -> tuple[Index, Dropped]:
    """mae_st: the int(N * (1 - ratio)) smallest are kept, in the (shuffled) order of their uniforms."""
    order = u.argsort(dim=1, stable=True)
    kept = int(u.shape[1] * (1 - ratio))
    return order[:, :kept], order[:, kept:]


def tube_mask(u: Float[Tensor, "B HW"], grid: Grid, ratio: float) -> tuple[Index, Dropped]:
    """VideoMAE: int(ratio * h * w) places hidden, the same ones in every time slot; indices ascend."""
    order = u.argsort(dim=1, stable=True)
    hidden = int(ratio * u.shape[1])
    time = torch.arange(grid.t, device=u.device)[:, None] * (grid.h * grid.w)  # t 1

    def tubes(space: Tensor) -> Tensor:
        return (time + space.sort(dim=1).values[:, None]).flatten(1)  # B (t s)

    return tubes(order[:, hidden:]), tubes(order[:, :hidden])


def frame_mask(u: Float[Tensor, "B t"], grid: Grid, ratio: float) -> tuple[Index, Dropped]:
    """Whole time slots hidden: int(ratio * t) of them; indices ascend."""
    order = u.argsort(dim=1, stable=True)
    hidden = int(ratio * u.shape[1])
    space = torch.arange(grid.h * grid.w, device=u.device)

    def slots(time: Tensor) -> Tensor:
        return (time.sort(dim=1).values[..., None] * (grid.h * grid.w) + space).flatten(
            1
        )  # B (t hw)

    return slots(order[:, hidden:]), slots(order[:, :hidden])


def block_mask(u: Float[Tensor, "B n"], grid: Grid, ratio: float) -> tuple[Index, Dropped]:
    """One box in space and time hidden: the int(ratio * N) tokens nearest to a random place, by the longest of three
    axes whose scales are random too, so that boxes are long or short, wide or tall. Indices ascend.

    `u`: BLOCK_DRAWS + N uniforms; the last N order tokens that are equally far. Boxes are cut off at the border.
    """
    axes = [torch.arange(length, device=u.device) for length in grid]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)  # N 3
    size = torch.stack([torch.full_like(u[0, 0], length) for length in grid])  # 3
    centre = u[:, None, :3] * size  # B 1 3
    stretch = size * torch.exp2(
        2 * u[:, None, 3:6] - 1
    )  # of each axis: half to double of the grid's own
    far = ((place + 0.5 - centre).abs() / stretch).amax(-1)  # B N
    order = (far + 1e-6 * u[:, 6:]).argsort(dim=1, stable=True)
    hidden = int(ratio * grid.n)
    return order[:, hidden:].sort(dim=1).values, order[:, :hidden].sort(dim=1).values


BLOCK_DRAWS = 6  # uniforms of a box, before those of its tokens


def choose_some(
    draws: Callable[[int], Float[Tensor, "B M"]], index: Dropped, n: int
) -> Int[Tensor, "B part"]:
    """n of them by lot; all, as they stand, where there are no more."""
    if n == index.shape[1]:
        return index
    return index.gather(1, draws(index.shape[1]).argsort(dim=1, stable=True)[:, :n])
