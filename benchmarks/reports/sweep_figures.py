"""cells of a sweep -> a chart of scores against each axis."""

import math
import statistics
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from benchmarks.reports.figure_style import BLUE, COLOURS, GREY, INK, in_house_style
from benchmarks.reports.sweep_rows import SEED, Cell, numeric_values
from ssvid.results.rows import RowScore

VAL = COLOURS[1]
LOG = 30  # times between the least and the largest value: more have a log scale
FEW = 30  # cells in a chart: each has its interval
NAMES = 40  # of one axis in a chart
LINE = 12  # values that stand once each: more are no line but a cloud
CROWD = 200  # cells in a chart: more have small dots
LONG_NAME = 30  # characters
EDGE = [withStroke(linewidth=3.6, foreground="white")]  # means stand out of the dots
MEANS = (("random", GREY, "--", 1.6), ("val", VAL, ":", 1.2), ("test", BLUE, "-", 1.6))


class Point(NamedTuple):
    value: str  # on the axis
    score: RowScore
    best: bool


def make_points(
    cells: Iterable[Cell], axis: str, suite_cell: str, best: Sequence[Cell] = ()
) -> list[Point]:
    hashes = {cell.hash for cell in best}
    points = []
    for cell in cells:
        if axis in cell.axes and suite_cell in cell.scores:
            score = cell.scores[suite_cell]
            points.append(Point(cell.axes[axis], score, cell.hash in hashes))
    return points


def scores_of_points(points: Sequence[Point], key: str) -> list[float]:
    """Of those that have such a score."""
    scores = map(attrgetter(f"score.{key}"), points)
    return [score for score in scores if score is not None]


def average_points(points: Sequence[Point], key: str) -> dict[str, float]:
    """Value -> mean over the other axes, for the values that have such a score."""
    scores: dict[str, list[float]] = {}
    for point in points:
        scores.setdefault(point.value, []).extend(scores_of_points([point], key))
    return {value: statistics.fmean(members) for value, members in scores.items() if members}


@in_house_style
def draw_axis(axis: str, values: Sequence[str], points: Sequence[Point]) -> Figure:
    """Scores against one axis: on its own scale where it is of numbers, else a line of names."""
    numbers = {} if axis == SEED else numeric_values(values)  # a seed is a name
    metric = f"{points[0].score.metric}, %"
    if numbers:
        figure = Figure(figsize=(5.6, 3.1), layout="constrained")
        axes = figure.subplots()
        _draw_numbers(axes, numbers, points)
        axes.set_xlabel(axis)
        axes.set_ylabel(metric)
        axes.grid(axis="y")
    else:
        shown = list(values[:NAMES])
        figure = Figure(figsize=(5.6, 0.75 + 0.46 * len(shown)), layout="constrained")
        axes = figure.subplots()
        _draw_names(axes, shown, points)
        axes.set_xlabel(metric)
        axes.set_title(axis)
        axes.grid(axis="x")
    return figure


def _draw_numbers(axes: Axes, numbers: dict[str, float], points: Sequence[Point]) -> None:
    x = [numbers[point.value] for point in points]
    for key in ("val", "test"):
        _draw_dots(axes, x, points, key, len(points), flip=False)
    if len(set(x)) < len(x) or len(x) <= LINE:
        for key, colour, dashes, width in MEANS:
            means = average_points(points, key)
            line = np.array([(numbers[value], 100 * means[value]) for value in means])
            line = line[np.argsort(line[:, 0])] if len(line) else line
            look: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": width}
            axes.plot(*line.reshape(-1, 2).T, path_effects=EDGE, zorder=3, **look)
    else:
        untrained = scores_of_points(points, "random")
        if untrained:
            axes.axhline(100 * statistics.fmean(untrained), color=GREY, linestyle="--")
    for chance in list_chances(points):
        axes.axhline(100 * chance, color=INK, linestyle="--", linewidth=0.9)
    _set_scale(axes, sorted(set(x)))


def list_chances(points: Sequence[Point]) -> list[float]:
    """One for each data set; of many the mean."""
    chances = sorted(set(scores_of_points(points, "chance")))
    return chances if len(chances) <= 3 else [statistics.fmean(chances)]


def _set_scale(axes: Axes, x: Sequence[float]) -> None:
    kind = scale_of(x)
    if kind == "symlog":
        axes.set_xscale("symlog", linthresh=min(value for value in x if value > 0), linscale=0.5)
    else:
        axes.set_xscale(kind)
    transform = axes.xaxis.get_transform()
    positions = transform.transform(np.array(x, dtype=float))
    margin = 0.06 * float(np.ptp(positions) or 1.0)
    ends = np.array([positions.min() - margin, positions.max() + margin], dtype=float)
    axes.set_xlim(*transform.inverted().transform(ends))
    if len(x) > LINE:
        write_plain_numbers(axes.xaxis)
        return
    # The values themselves. One that would stand upon another keeps its mark alone.
    texts, last = [], -math.inf
    for value, position in zip(x, positions, strict=True):
        free = position - last >= 2.1 * margin
        texts.append(f"{value:g}" if free else "")
        last = position if free else last
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator(list(x)))
    axes.set_xticks(list(x), texts)


def write_plain_numbers(axis: Axis) -> None:
    """Numbers as they are typed: 0.001, 1e-05."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def scale_of(x: Sequence[float]) -> str:
    positive = [value for value in x if value > 0]
    wide = bool(positive) and max(positive) > LOG * min(positive) and min(x) >= 0
    return ("symlog" if min(x) == 0 else "log") if wide else "linear"


def _draw_names(axes: Axes, values: Sequence[str], points: Sequence[Point]) -> None:
    """A row for each name: val above, test below, each with its mean as a bar."""
    for i, value in enumerate(values):
        members = [point for point in points if point.value == value]
        for key, middle, colour in (("val", i - 0.19, VAL), ("test", i + 0.19, BLUE)):
            width = 0.11 if len(members) > 1 else 0.0
            y = np.linspace(middle - width, middle + width, len(members)).tolist()
            _draw_dots(axes, y, members, key, len(points), flip=True)
            mean = average_points(members, key).get(value)
            if mean is not None:
                ends = [middle - 0.17, middle + 0.17]
                look: dict[str, Any] = {"color": colour, "linewidth": 2.2, "zorder": 3}
                axes.plot([100 * mean] * 2, ends, path_effects=EDGE, **look)
        mean = average_points(members, "random").get(value)
        if mean is not None:
            axes.plot([100 * mean] * 2, [i - 0.42, i + 0.42], color=GREY, linestyle="--")
    for chance in list_chances(points):
        axes.axvline(100 * chance, color=INK, linestyle="--", linewidth=0.9)
    axes.set_yticks(range(len(values)), list(map(cut, values)))
    axes.set_ylim(len(values) - 0.5, -0.5)


def _draw_dots(
    axes: Axes,
    positions: Sequence[float],
    points: Sequence[Point],
    key: str,
    total: int,
    *,
    flip: bool,
) -> None:
    """One dot for each cell that has the score, hollow for val.

    `flip`: the score is x. `total`: cells in the chart.
    """

    def draw(x: Sequence[float], shares: Sequence[float], form: str, **look: Any) -> None:
        percent = 100 * np.array(shares)
        axes.plot(*((percent, x) if flip else (x, percent)), form, **look)

    x, shares = [], []
    for position, point in zip(positions, points, strict=True):
        share = getattr(point.score, key)
        if share is not None:
            x.append(position)
            shares.append(share)
    look = _look_of_dots(key, total)
    if not flip and key == "val" and len(set(positions)) < len(positions):
        # Of the same value: val stands beside the dots of test, and would be cut off.
        axes.update_datalim(np.column_stack([x, 100 * np.array(shares)]))
        shift = ScaledTranslation(6 / 72, 0, axes.figure.dpi_scale_trans)
        look["transform"] = axes.transData + shift
    draw(x, shares, "o", **look)
    if key == "val":
        return
    for position, point in zip(positions, points, strict=True):
        if total <= FEW and point.score.interval:
            ends = [position, position]
            draw(ends, point.score.interval, "-", color=BLUE, linewidth=0.8, alpha=0.6)
        if point.best:
            ring = {"markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.4}
            draw([position], [point.score.test], "o", color=INK, **ring)


def _look_of_dots(key: str, total: int) -> dict[str, Any]:
    many = total > CROWD
    look: dict[str, Any] = {"markersize": 3 if many else 5, "alpha": 0.4 if many else 0.75}
    if key == "test":
        return look | {"color": BLUE, "markeredgewidth": 0.0}
    edge = 0.6 if many else 1.0
    return look | {"color": VAL, "markerfacecolor": "none", "markeredgewidth": edge}


def cut(text: str) -> str:
    return text if len(text) <= LONG_NAME else text[: LONG_NAME - 3] + "..."
