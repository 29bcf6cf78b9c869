"""Uniform numbers -> the indices of visible tokens and of hidden tokens.

Their numbers follow the rounding of the published code.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssvid.errors import UserError
from ssvid.randomness import draw
from ssvid.shapes import Batch, Dropped, Grid, Index, Tokens

Kind = Literal["tube", "random", "frame", "block", "bevt"]


def take(tokens: Tokens, index: Index) -> Float[Tensor, "B K D"]:
    """Tokens at `index`, in its order: B N D, B K -> B K D."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


class Mask:
    """Draws the visible tokens of each clip of a batch from the coordinates of the clip."""

    def __init__(self, owner: str, flag: str, kind: Kind, ratio: float, grid: Grid) -> None:
        """`owner` and `flag` name the mask in a UserError.

        It is raised if no token of a clip with this grid is visible, or none is hidden.
        """
        self.kind, self.ratio = kind, ratio
        # The number of units (tubes, frames or tokens) that are hidden as a whole.
        n = {"tube": grid.h * grid.w, "frame": grid.t}.get(kind, grid.n)
        n_visible = int(n * (1 - ratio)) if kind == "random" else n - int(n * ratio)
        if kind == "bevt":
            n_visible = n - round(n * ratio)
        if not 0 < n_visible < n:
            raise UserError(
                f"{owner}: {flag} {ratio} keeps {n_visible} of {n}: some must be visible, some "
                "hidden."
            )

    def __call__(self, batch: Batch, grid: Grid) -> tuple[Index, Dropped]:
        """Indices of visible and hidden tokens. The clips of a sample are adjacent rows."""
        u = draw_for_clips(batch, "mask", self.count_draws(grid))
        if self.kind == "random":
            return random_mask(u, self.ratio)
        masks = {"tube": tube_mask, "frame": frame_mask, "block": block_mask, "bevt": bevt_mask}
        return masks[self.kind](u, grid, self.ratio)

    def count_draws(self, grid: Grid) -> int:
        """How many uniform numbers a clip needs."""
        counts = {
            "tube": grid.h * grid.w,
            "random": grid.n,
            "frame": grid.t,
            "block": BLOCK_DRAWS + grid.n,
            "bevt": BEVT_DRAWS + grid.n,
        }
        return counts[self.kind]


def draw_for_clips(batch: Batch, stream: str, n: int) -> Float[Tensor, "B n"]:
    """n uniform numbers for each clip. The clips of a sample are adjacent rows."""
    views = batch["clips"].shape[1]
    return rearrange(draw(batch, stream, views * n), "B (V n) -> (B V) n", V=views)


def random_mask(u: Float[Tensor, "B N"], ratio: float) -> tuple[Index, Dropped]:
    """mae_st: the int(N * (1 - ratio)) tokens with the smallest numbers are visible.

    Indices have the (shuffled) order of the numbers.
    """
    order = u.argsort(dim=1, stable=True)
    n_visible = int(u.shape[1] * (1 - ratio))
    return order[:, :n_visible], order[:, n_visible:]


def tube_mask(u: Float[Tensor, "B HW"], grid: Grid, ratio: float) -> tuple[Index, Dropped]:
    """VideoMAE: int(ratio * h * w) positions are hidden, the same ones in every time slot.

    Indices ascend.
    """
    order = u.argsort(dim=1, stable=True)
    n_hidden = int(ratio * u.shape[1])
    time = torch.arange(grid.t, device=u.device)[:, None] * (grid.h * grid.w)  # t 1

    def extend_tubes(space: Tensor) -> Tensor:
        return (time + space.sort(dim=1).values[:, None]).flatten(1)  # B (t s)

    return extend_tubes(order[:, n_hidden:]), extend_tubes(order[:, :n_hidden])


def frame_mask(u: Float[Tensor, "B t"], grid: Grid, ratio: float) -> tuple[Index, Dropped]:
    """int(ratio * t) whole time slots are hidden. Indices ascend."""
    order = u.argsort(dim=1, stable=True)
    n_hidden = int(ratio * u.shape[1])
    space = torch.arange(grid.h * grid.w, device=u.device)

    def fill_slots(time: Tensor) -> Tensor:
        starts = time.sort(dim=1).values[..., None] * (grid.h * grid.w)  # B t 1
        return (starts + space).flatten(1)  # B (t hw)

    return fill_slots(order[:, n_hidden:]), fill_slots(order[:, :n_hidden])


def block_mask(u: Float[Tensor, "B n"], grid: Grid, ratio: float) -> tuple[Index, Dropped]:
    """One box in space and time is hidden: the int(ratio * N) tokens nearest to a random centre.

    The distance is the largest along the three axes. Their scales are random too, so that boxes
    are long or short, wide or tall. Boxes are cut off at the border. Indices ascend. `u`:
    BLOCK_DRAWS + N uniform numbers, of which the last N order tokens with equal distances.
    """
    axes = [torch.arange(length, device=u.device) for length in grid]
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)  # N 3
    size = torch.stack([torch.full_like(u[0, 0], length) for length in grid])  # 3
    centre = u[:, None, :3] * size  # B 1 3
    scale = size * torch.exp2(2 * u[:, None, 3:6] - 1)  # B 1 3, half to double of the grid's own
    distance = ((position + 0.5 - centre).abs() / scale).amax(-1)  # B N
    order = (distance + 1e-6 * u[:, 6:]).argsort(dim=1, stable=True)
    n_hidden = int(ratio * grid.n)
    return order[:, n_hidden:].sort(dim=1).values, order[:, :n_hidden].sort(dim=1).values


BLOCK_DRAWS = 6  # uniform numbers for a box; those for its tokens follow


def bevt_mask(u: Float[Tensor, "B n"], grid: Grid, ratio: float) -> tuple[Index, Dropped]:
    """BEVT (arXiv:2112.01529): the same blocks are hidden in a window of consecutive frames.

    The blocks hide `ratio` of a frame, as in BEiT. The window has 50 to 75 % of the frames and
    wraps around the end. That hides too little of the clip, so random other tokens are hidden too,
    until there are exactly round(ratio * N).
    Indices ascend. `u`: BEVT_DRAWS + N uniform numbers, of which the last N order tokens.
    """
    window, boxes, order = u[:, :2], u[:, 2:BEVT_DRAWS], u[:, BEVT_DRAWS:]
    low, high = WINDOW
    length = (grid.t * (low + (high - low) * window[:, :1])).round().clamp(min=1)  # B 1
    first = (grid.t * window[:, 1:]).floor()
    is_in_window = (torch.arange(grid.t, device=u.device) - first) % grid.t < length  # B t
    blocks = draw_blocks(rearrange(boxes, "B (n four) -> B n four", four=4), grid, ratio)
    in_block = (is_in_window[:, :, None] & blocks.flatten(1)[:, None]).flatten(1)  # B N
    ranks = torch.where(in_block, order, 1 + order).argsort(dim=1, stable=True)
    n_hidden = round(ratio * grid.n)
    return ranks[:, n_hidden:].sort(dim=1).values, ranks[:, :n_hidden].sort(dim=1).values


def draw_blocks(u: Float[Tensor, "B n 4"], grid: Grid, ratio: float) -> Bool[Tensor, "B h w"]:
    """BEiT's blocks (arXiv:2106.08254): boxes are hidden until `ratio` of a frame is.

    A box that does not fit into the frame, hides nothing new or hides too much is left out. BEiT
    ends after ten such boxes in a row; here the number of boxes is fixed. `u`: of each box its
    area, its aspect, its row and its column.
    """
    rows, columns = torch.arange(grid.h, device=u.device), torch.arange(grid.w, device=u.device)
    blocks = torch.zeros(len(u), grid.h, grid.w, dtype=torch.bool, device=u.device)
    goal = round(ratio * grid.h * grid.w)
    left = torch.full((len(u),), goal, device=u.device)  # tokens of a frame to hide yet
    for area_u, aspect_u, row_u, column_u in u.permute(1, 2, 0):
        area = left.clamp(max=LEAST_AREA) + (left - LEAST_AREA).clamp(min=0) * area_u
        aspect = torch.exp((2 * aspect_u - 1) * math.log(WIDEST))
        height, width = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        top = ((grid.h - height + 1) * row_u).floor()[:, None]
        start = ((grid.w - width + 1) * column_u).floor()[:, None]
        in_rows = (rows >= top) & (rows < top + height[:, None])
        in_columns = (columns >= start) & (columns < start + width[:, None])
        box = in_rows[:, :, None] & in_columns[:, None]
        added = (box & ~blocks).sum((1, 2))
        fits = (height <= grid.h) & (width <= grid.w) & (added > 0) & (added <= left)
        blocks |= box & fits[:, None, None]
        left = left - added * fits
    return blocks


WINDOW = 0.5, 0.75  # fractions of the frames: the shortest and the longest window
LEAST_AREA, WIDEST = 4, 1 / 0.3  # of a box: tokens, and height / width (or the inverse) at most
BOXES = 24  # that are drawn for a clip; on 16 x 16 tokens they hide the goal, less 1 % of it
BEVT_DRAWS = 2 + 4 * BOXES  # uniform numbers for the window and the boxes; those of tokens follow


def choose_some(
    draws: Callable[[int], Float[Tensor, "B M"]], index: Dropped, n: int
) -> Int[Tensor, "B part"]:
    """n random ones of the indices; all in their order if there are only n.

    `draws`: a number -> that many uniform numbers for each clip.
    """
    if n == index.shape[1]:
        return index
    return index.gather(1, draws(index.shape[1]).argsort(dim=1, stable=True)[:, :n])
