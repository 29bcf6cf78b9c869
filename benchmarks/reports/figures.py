"""results -> figures: the confusion of classes, and accuracy against cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.reports.cell_titles import group_cells
from benchmarks.reports.figure_style import BLUE, GREY, INK, in_house_style
from benchmarks.reports.page_heads import title_of
from ssvid.results import Result

NAMED = 60  # classes whose names fit beside a confusion matrix
COUNTED = 20  # classes whose counts fit in it
WORST = 10  # pairs of classes in the table
COMPARED = 4  # encoders: fewer give no picture of accuracy against cost
SHARES = LinearSegmentedColormap.from_list(
    "shares", ["#ffffff", "#e3edf7", "#8db4dc", BLUE, "#0b2545"]
)
AXES_OF_COST = ("GFLOPs a clip", "CPU-seconds")


@in_house_style
def draw_confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Figure:
    """Rows are labels; colours are shares of a row, with their scale. Numbers are counts of clips.

    More than NAMED classes have no names: see `worst_pairs`.
    """
    table, n = np.array(counts, dtype=float), len(names)
    share = 100 * table / table.sum(1, keepdims=True).clip(min=1)
    side = _side_of(n)
    figure = Figure(figsize=(side + 0.9, side))
    axes = figure.subplots()
    shown = axes.imshow(share, cmap=SHARES, vmin=0, vmax=100, interpolation="nearest")
    bar = figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.03, ticks=[0, 25, 50, 75, 100])
    bar.set_label("% of the label's test clips", fontsize=8)
    bar.outline.set_visible(False)
    size = 9 if n <= COUNTED else 7
    if n <= NAMED:
        axes.set_xticks(range(n), names, rotation=90, fontsize=size)
        axes.set_yticks(range(n), names, fontsize=size)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.tick_params(length=0)
    axes.set_xlabel("predicted" if n <= NAMED else f"predicted ({n} classes)")
    axes.set_ylabel("label")
    if n <= COUNTED:
        _write_counts(axes, table, share)
    axes.spines[:].set_visible(True)
    return figure


def _side_of(classes: int) -> float:
    """Inches."""
    if classes > NAMED:
        return 5.0
    return 2.2 + 0.42 * classes if classes <= 6 else min(9.0, 3.4 + 0.22 * classes)


def _write_counts(axes: Axes, table: np.ndarray, share: np.ndarray) -> None:
    """Small shares are written pale."""
    for y, x in zip(*table.nonzero(), strict=True):
        colour = INK if share[y, x] >= 15 else GREY
        if share[y, x] > 55:
            colour = "white"
        axes.text(x, y, f"{table[y, x]:.0f}", ha="center", va="center", color=colour, fontsize=8)


def worst_pairs(
    counts: Sequence[Sequence[int]], names: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Label, class that it is taken for and how often, the most frequent first."""
    table = np.array(counts)
    confused = table - np.diag(table.diagonal())
    pairs = []
    for index in np.argsort(-confused, axis=None, kind="stable")[:WORST]:
        y, x = divmod(int(index), len(names))
        if confused[y, x] > 0:
            pairs.append((names[y], names[x], f"{table[y, x]} of {table[y].sum()}"))
    return pairs


@in_house_style
def draw_cost(results: Sequence[Result], colours: dict[str, str]) -> Figure | None:
    """Two panels a cell: score against GFLOPs, and against CPU-seconds.

    None where no result tells either, or where no cell has COMPARED encoders.
    """
    panels = {}
    for name, members in group_cells(filter(has_cost, results)).items():
        encoders = set(map(title_of, members))
        if len(encoders) >= COMPARED:
            panels[name] = members
    if not panels:
        return None
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(10.9, 0.7 + 2.05 * rows), layout="constrained")
    grid = figure.subplots(rows, 4 if len(panels) > 1 else 2, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for i, (name, members) in enumerate(panels.items()):
        first = 2 * (i % 2)
        for j, label in enumerate(AXES_OF_COST):
            _draw_against(grid[i // 2, first + j], members, j, label, colours)
        grid[i // 2, first].set_title(name, fontweight="bold")
    look: dict[str, Any] = {"marker": "o", "linestyle": ""}
    titles = sorted(set(map(title_of, results)))
    marks = [Line2D([], [], color=colours[title], label=title, **look) for title in titles]
    figure.legend(handles=marks, loc="outside upper left", ncols=6, fontsize=9, handletextpad=0.1)
    return figure


def has_cost(result: Result) -> bool:
    return cost_of(result) != (None, None)


def cost_of(result: Result) -> tuple[float | None, float | None]:
    """(GFLOPs of a clip, CPU-seconds of features and probe)."""
    cost = result.cost
    seconds = [share for share in (cost.extract_cpu_s, cost.probe_cpu_s) if share is not None]
    return cost.gflops_per_clip, sum(seconds) if seconds else None


def _draw_against(
    axes: Axes, members: Sequence[Result], index: int, label: str, colours: dict[str, str]
) -> None:
    """Dot: the encoder with its interval. Ring: the same net untrained. Dashed: the pixel floor."""
    places, floors = [], set()
    for result in members:
        x = cost_of(result)[index]
        if x is None:
            continue
        places.append(x)
        _draw_encoder(axes, x, result, colours[result.encoder.title])
        if "floor" in result.controls:
            floors.add(round(100 * result.controls["floor"].value, 1))
    if not places:
        return
    axes.set_visible(True)
    for floor in floors:
        axes.axhline(floor, color=GREY, linewidth=1, linestyle="--", zorder=1)
    if min(places) > 0 and max(places) > 10 * min(places):
        axes.set_xscale("log")
        axes.set_xlim(min(places) / 2, max(places) * 2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, 1.2 * max(places) or 1)
    axes.set_ylim(0, 104)
    axes.set_yticks((0, 25, 50, 75, 100), ("0", "", "50", "", "100"))
    axes.grid(axis="y")
    axes.set_xlabel(label, fontsize=8)
    if index == 0:
        axes.set_ylabel(f"{members[0].metric}, %", fontsize=8)


def _draw_encoder(axes: Axes, x: float, result: Result, colour: str) -> None:
    score = 100 * result.score.value
    low, high = (100 * end for end in result.score.interval)
    error = [[max(0.0, score - low)], [max(0.0, high - score)]]
    look: dict[str, Any] = {"color": colour, "markersize": 5, "zorder": 3}
    axes.errorbar([x], [score], yerr=error, fmt="o", elinewidth=1, capsize=2, **look)
    untrained = result.controls.get("random")
    if untrained is not None:
        value = 100 * untrained.value
        axes.plot([x, x], [value, score], color=colour, linewidth=1, linestyle=":", zorder=2)
        axes.plot([x], [value], "o", markerfacecolor="white", **look)
