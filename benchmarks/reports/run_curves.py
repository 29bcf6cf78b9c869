"""metrics.jsonl -> a small panel for each number that a run logged, all in one figure with one axis of steps."""

import re
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from benchmarks.reports.page import BLUE, GREY, INK, PALE

COLUMNS = 3
FEW = 15  # points: drawn one by one, not smoothed
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
SHARE = re.compile(
    r"(^|/)(top\d+|\w*acc(uracy)?\d*|data_wait|padded)$|^probe/"
)  # shown in per cent
REST = (
    r"probe/",
    r"(.*/)?(effective_rank|feature_std)$",
    r"(lr|grad_norm)$",
    r"(clips_per_s|data_wait|padded|dropped)$",
)
COST = {"cpu_s", "wall_s"}  # sums, not curves


class Curve(NamedTuple):
    name: str
    steps: np.ndarray
    values: np.ndarray
    also: tuple[str, ...] = ()  # other names of the same numbers

    @property
    def title(self) -> str:
        room, _, last = self.name.removeprefix("probe/").rpartition("/")
        word = (
            "online probe " * self.name.startswith("probe/")
            + WORDS.get(last, last)
            + (f", {room}" if room else "")
        )
        return f"{word} (= {', '.join(self.also)})" if self.also else word

    @property
    def share(self) -> bool:
        return bool(SHARE.search(self.name)) and bool((abs(self.values) <= 1).all())

    def text(self, value: float) -> str:
        return f"{100 * value:.1f} %" if self.share else f"{value:.4g}"


def curves(rows: list[dict[str, Any]]) -> list[Curve]:
    """Every finite number by name, those with equal numbers as one, in the order of a page."""
    points: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            if (
                isinstance(value, int | float)
                and np.isfinite(value)
                and name not in COST | {"step"}
            ):
                points.setdefault(name, {})[row["step"]] = float(value)
    found: list[Curve] = []
    for name in sorted(points, key=_place):
        at = points[name]
        twin = next(
            (
                i
                for i, other in enumerate(found)
                if points[other.name] == at and _place(name)[0] < 2
            ),
            None,
        )
        if twin is None:
            steps = sorted(at)
            found.append(Curve(name, np.array(steps), np.array([at[step] for step in steps])))
        else:
            found[twin] = found[twin]._replace(also=(*found[twin].also, name))
    return found


def _place(name: str) -> tuple[int, bool, str]:
    """The loss, its parts with accuracies last, then what is not the objective's, in the order of REST."""
    part = next((i for i, pattern in enumerate(REST, start=2) if re.match(pattern, name)), 1)
    return 0 if name == "loss" else part, bool(SHARE.search(name)), name


def panels(found: list[Curve]) -> Figure:
    rows = -(-len(found) // COLUMNS)
    figure = Figure(
        figsize=(9.6, 1.95 * rows), layout=ConstrainedLayoutEngine(hspace=0.08, wspace=0.05)
    )
    grid = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    last = max(int(curve.steps[-1]) for curve in found)
    for axes, curve in zip(grid, found, strict=False):
        _panel(axes, curve, last)
    for axes in grid[len(found) :]:
        axes.set_visible(False)
    return figure


def _panel(axes: Axes, curve: Curve, last: int) -> None:
    many = len(curve.steps) > FEW
    smooth = many and curve.name != "lr"  # a plan, without noise
    values = curve.values * (100 if curve.share else 1)
    axes.plot(curve.steps, values, color=PALE if smooth else BLUE, linewidth=1 if smooth else 1.5)
    if smooth:
        axes.plot(curve.steps, smoothed(values), color=BLUE, linewidth=1.6)
    if not many:
        axes.plot(curve.steps, values, "o", color=BLUE, markersize=3)
    if (values > 0).all() and values.max() > 30 * np.median(values) and not curve.share:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], min_n_ticks=2))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda y, _: f"{_short(y)} %" if curve.share else _short(y))
    )
    axes.set_xlim(0, max(1, last) * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(x)))
    axes.set_title(_cut(curve.title), loc="left", fontsize=9, color=INK, parse_math=False)
    axes.set_title(curve.text(curve.values[-1]), loc="right", fontsize=9, color=BLUE)
    axes.set_xlabel("step", fontsize=8, color=GREY, labelpad=1)
    axes.tick_params(length=2, labelsize=8, colors=INK, color=PALE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(PALE)


def smoothed(values: np.ndarray) -> np.ndarray:
    """The mean of a twentieth of the curve around each point, of less at its ends."""
    around = max(1, len(values) // 40)
    kernel = np.ones(2 * around + 1)
    return (
        np.convolve(values, kernel)[around:-around]
        / np.convolve(np.ones(len(values)), kernel)[around:-around]
    )


def _short(value: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e3 if name == 'k' else unit):g}{name}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:g}"


def _cut(text: str, most: int = 29) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
