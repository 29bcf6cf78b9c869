"""metrics.jsonl -> a figure with a small panel for each number that a run logged."""

import re
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from benchmarks.reports.figure_style import BLUE, GREY, PALE, in_house_style

COLUMNS = 3
FEW = 15  # points: drawn one by one, not smoothed
LONG_TITLE = 29  # characters
PROBE = "probe/"
WORDS = {
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "clips_per_s": "clips a second",
    "data_wait": "waiting for data",
    "padded": "clips longer than their video",
    "dropped": "videos left out as too short",
    "effective_rank": "effective rank",
    "feature_std": "feature std",
}
# Numbers that are shown in per cent.
SHARE = re.compile(r"(^|/)(top\d+|\w*acc(uracy)?\d*|data_wait|padded)$|^probe/")
# The order of a page. Numbers of the objective match none of these and have the place OBJECTIVE.
ORDER = (
    r"probe/",
    r"loss$",
    None,
    r"(.*/)?(effective_rank|feature_std)$",
    r"(lr|grad_norm)$",
    r"(clips_per_s|data_wait|padded|dropped)$",
)
LOSS, OBJECTIVE = 1, 2
COST = {"cpu_s", "wall_s"}  # sums, not curves


class Curve(NamedTuple):
    name: str
    steps: np.ndarray
    values: np.ndarray
    also: tuple[str, ...] = ()  # other names of the same numbers

    @property
    def is_probe(self) -> bool:
        return self.name.startswith(PROBE)

    @property
    def title(self) -> str:
        group, _, last = self.name.removeprefix(PROBE).rpartition("/")
        words = "online probe " * self.is_probe + WORDS.get(last, last)
        if group:
            words += f", {group}"
        return f"{words} (= {', '.join(self.also)})" if self.also else words

    @property
    def share(self) -> bool:
        """The values are shares of 1."""
        return bool(SHARE.search(self.name)) and bool((abs(self.values) <= 1).all())

    def text(self, value: float) -> str:
        return f"{100 * value:.1f} %" if self.share else f"{value:.4g}"


def make_curves(rows: list[dict[str, Any]]) -> list[Curve]:
    """Every finite number by name, those with equal numbers as one, in the order of a page.

    Scores of `--probe_every` come first: they say whether the features get better.
    """
    points = read_points(rows)
    curves: list[Curve] = []
    for name in sorted(points, key=_rank):
        twin = None
        if _rank(name)[0] in (LOSS, OBJECTIVE):
            twin = next((i for i, c in enumerate(curves) if points[c.name] == points[name]), None)
        if twin is not None:
            curves[twin] = curves[twin]._replace(also=(*curves[twin].also, name))
        else:
            steps = sorted(points[name])
            values = np.array([points[name][step] for step in steps])
            curves.append(Curve(name, np.array(steps), values))
    return curves


def read_points(rows: list[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Name -> step -> value. A step that a restart made again counts once."""
    points: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            if name in COST or name == "step" or not isinstance(value, int | float):
                continue
            if np.isfinite(value):
                points.setdefault(name, {})[row["step"]] = float(value)
    return points


def _rank(name: str) -> tuple[int, bool, str]:
    """By ORDER; of the objective's numbers accuracies come last."""
    for i, pattern in enumerate(ORDER):
        if pattern is not None and re.match(pattern, name):
            return i, bool(SHARE.search(name)), name
    return OBJECTIVE, bool(SHARE.search(name)), name


@in_house_style
def draw_panels(curves: list[Curve]) -> Figure:
    rows = -(-len(curves) // COLUMNS)
    layout = ConstrainedLayoutEngine(hspace=0.08, wspace=0.05)
    figure = Figure(figsize=(11.2, 2.1 * rows), layout=layout)
    grid = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    last = max(int(curve.steps[-1]) for curve in curves)
    for axes, curve in zip(grid, curves, strict=False):
        _draw_panel(axes, curve, last)
    for axes in grid[len(curves) :]:
        axes.set_visible(False)
    return figure


def _draw_panel(axes: Axes, curve: Curve, last: int) -> None:
    many = len(curve.steps) > FEW
    smooth = many and curve.name != "lr"  # the rate is a plan, without noise
    values = curve.values * (100 if curve.share else 1)
    axes.plot(curve.steps, values, color=PALE if smooth else BLUE, linewidth=1 if smooth else 1.5)
    if smooth:
        axes.plot(curve.steps, smooth_values(values), color=BLUE)
    if not many:
        axes.plot(curve.steps, values, "o", color=BLUE, markersize=3)
    if (values > 0).all() and values.max() > 30 * np.median(values) and not curve.share:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], min_n_ticks=2))
    unit = " %" if curve.share else ""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{_short(y)}{unit}"))
    axes.set_xlim(0, max(1, last) * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(x)))
    axes.set_title(_cut(curve.title), loc="left")
    axes.set_title(curve.text(curve.values[-1]), loc="right", color=BLUE)
    axes.set_xlabel("step", fontsize=8, color=GREY, labelpad=1)


def smooth_values(values: np.ndarray) -> np.ndarray:
    """The mean of a twentieth of the curve around each point, of less at its ends."""
    around = max(1, len(values) // 40)
    kernel = np.ones(2 * around + 1)
    sums = np.convolve(values, kernel)[around:-around]
    counts = np.convolve(np.ones(len(values)), kernel)[around:-around]
    return sums / counts


def _short(value: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e3 if name == 'k' else unit):g}{name}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:g}"


def _cut(text: str) -> str:
    return text if len(text) <= LONG_TITLE else text[: LONG_TITLE - 3] + "..."
