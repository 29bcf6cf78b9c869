"""cells of a sweep -> the mean scores of each pair of axes, as a table of colours."""

import statistics
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import matplotlib
from matplotlib.colors import to_hex

from benchmarks.reports.figure_style import INK
from benchmarks.reports.sweep_figures import NAMES, cut
from benchmarks.reports.sweep_rows import SEED, Cell
from ssvid.results.rows import RowScore

Pair = tuple[str, str]  # axes: down, across


class PairMean(NamedTuple):
    test: float
    val: float | None


class HeatCell(NamedTuple):
    text: str
    val: str = ""  # empty: none
    colour: str = "#ffffff"  # by the mean of test
    ink: str = INK


class Heat(NamedTuple):
    name: str
    caption: str
    head: list[str]
    rows: list[tuple[str, list[HeatCell]]]


def average_pairs(pair: Pair, cells: Sequence[Cell], suite_cell: str) -> dict[Pair, PairMean]:
    """(value on the first axis, on the second) -> means over the other axes."""
    down, across = pair
    scores: dict[Pair, list[RowScore]] = {}
    for cell in cells:
        if suite_cell in cell.scores and down in cell.axes and across in cell.axes:
            values = (cell.axes[down], cell.axes[across])
            scores.setdefault(values, []).append(cell.scores[suite_cell])
    return dict(zip(scores, map(average_scores, scores.values()), strict=True))


def average_scores(scores: Sequence[RowScore]) -> PairMean:
    test = statistics.fmean(map(attrgetter("test"), scores))
    val = [score.val for score in scores if score.val is not None]
    return PairMean(test, statistics.fmean(val) if val else None)


def make_heat(pair: Pair, axes: dict[str, list[str]], means: dict[Pair, PairMean]) -> Heat:
    """The mean of test, and below it that of val."""
    down, across = pair
    tests = list(map(attrgetter("test"), means.values()))
    low, high = min(tests), max(tests)
    rows = []
    for value in axes[down]:
        line = [_colour_mean(means.get((value, column)), low, high) for column in axes[across]]
        rows.append((cut(value), line))
    caption = f"{down} (down) by {across} (across)"
    return Heat(f"{down} by {across}", caption, list(map(cut, axes[across])), rows)


def _colour_mean(mean: PairMean | None, low: float, high: float) -> HeatCell:
    if mean is None:
        return HeatCell("-")
    share = 0.1 + 0.75 * ((mean.test - low) / (high - low) if high > low else 0.5)
    ink = "#ffffff" if share > 0.55 else INK
    val = f"val {100 * mean.val:.1f}" if mean.val is not None else ""
    colour = to_hex(matplotlib.colormaps["Blues"](share))
    return HeatCell(f"{100 * mean.test:.1f}", val, colour, ink)


def list_pairs(axes: dict[str, list[str]], cells: Sequence[Cell]) -> list[Pair]:
    """Of axes whose combinations are a grid, more or less; seeds only where few axes are left."""
    names = [axis for axis, values in axes.items() if 1 < len(values) <= NAMES]
    if len(names) > 2 and SEED in names:
        names.remove(SEED)
    pairs = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            longer_first = len(axes[second]) > len(axes[first])  # the longer one goes down
            pair = (second, first) if longer_first else (first, second)
            if _is_grid(pair, axes, cells):
                pairs.append(pair)
    return pairs


def _is_grid(pair: Pair, axes: dict[str, list[str]], cells: Sequence[Cell]) -> bool:
    """More than half of the combinations have a score."""
    down, across = pair
    present = set()
    for cell in cells:
        if cell.scores:
            present.add((cell.axes.get(down), cell.axes.get(across)))
    return 2 * len(present) > len(axes[down]) * len(axes[across])
