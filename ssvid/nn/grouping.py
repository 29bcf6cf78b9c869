"""Visible tokens of clips -> groups that attend to each other: of a frame, or of a position.

Where tokens are left out, groups have different lengths. Rows are then ordered so that groups of
equal length lie one after the other, and no token stands for padding.
"""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ssvid.nn.capped import Run
from ssvid.shapes import Grid, Index


class Grouping(NamedTuple):
    """`order`: of the rows, so that groups lie together; None: they do.

    `arrange` and `restore` take tensors of R rows.
    """

    runs: list[Run]
    order: Int[Tensor, " R"] | None = None
    inverse: Int[Tensor, " R"] | None = None

    def arrange(self, x: Tensor) -> Tensor:
        return x if self.order is None else x.index_select(0, self.order)

    def restore(self, x: Tensor) -> Tensor:
        return x if self.inverse is None else x.index_select(0, self.inverse)


def group_space(clips: int, grid: Grid, visible: Index | None) -> Grouping:
    """The tokens of each frame are a group. Rows are `clips` times the visible tokens."""
    if visible is None:
        return Grouping([Run(clips * grid.t, grid.h * grid.w)])
    frames = visible // (grid.h * grid.w)
    return group_rows(number_groups(frames, grid.t))


def group_time(clips: int, grid: Grid, visible: Index | None, device: torch.device) -> Grouping:
    """The tokens at each position of a clip are a group."""
    places = grid.h * grid.w
    if visible is not None:
        return group_rows(number_groups(visible % places, places))
    rows = torch.arange(clips * grid.n, device=device).view(clips, grid.t, places)
    order = rows.transpose(1, 2).flatten()
    inverse = rows.view(clips, places, grid.t).transpose(1, 2).flatten()
    return Grouping([Run(clips * places, grid.t)], order, inverse)


def number_groups(groups: Index, count: int) -> Int[Tensor, " R"]:
    """Groups are numbered over all clips: `count` numbers for each."""
    clips = torch.arange(len(groups), device=groups.device)[:, None]
    return (groups + clips * count).flatten()


def group_rows(groups: Int[Tensor, " R"]) -> Grouping:
    """Order rows by the length of their group, then by group."""
    counts = torch.bincount(groups)
    lengths = counts[groups]
    order = (lengths * len(counts) + groups).argsort(stable=True)
    runs = []
    histogram = torch.bincount(counts).tolist()
    for length, number in enumerate(histogram):
        if length and number:
            runs.append(Run(number, length))
    if torch.equal(order, torch.arange(len(order), device=order.device)):
        return Grouping(runs)
    return Grouping(runs, order, order.argsort())
