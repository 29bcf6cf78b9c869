"""cells of a sweep -> the loss of every cell that logged one, in one figure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.reports.figure_style import COLOURS, GREY, in_house_style
from benchmarks.reports.sweep_figures import FEW, LINE, LOG, cut, write_plain_numbers
from benchmarks.reports.sweep_rows import Cell, numeric_values
from ssvid.results.run_files import read_losses

POINTS = 40_000  # of all curves together
LONGEST, SHORTEST = 300, 20  # points of one curve


class Legend(NamedTuple):
    axis: str
    note: str
    marks: list[tuple[str, str]]  # colour, value


@in_house_style
def draw_curves(
    cells: Sequence[Cell], axis: str, values: Sequence[str]
) -> tuple[Figure, Legend] | None:
    """Each curve has the colour of its cell's value on `axis`. None: no cell has logged a loss."""
    most = max(SHORTEST, min(LONGEST, POINTS // max(1, len(cells))))
    logged = []
    for cell in cells:
        curve = read_losses(cell.folder.metrics, most)
        if curve:
            logged.append((cell, curve))
    if not logged:
        return None
    colours = colour_values(values)
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    axes = figure.subplots()
    many, losses = len(logged) > FEW, list[np.ndarray]()
    for cell, curve in logged:
        steps, loss = zip(*curve, strict=True)
        losses.append(np.array(loss))
        colour = colours.get(cell.axes.get(axis, ""), GREY)
        look: dict[str, Any] = {"linewidth": 0.7 if many else 1.3, "alpha": 0.5 if many else 0.9}
        axes.plot(steps, loss, color=colour, marker="o" if len(curve) == 1 else None, **look)
    logged_losses = np.concatenate(losses)
    if logged_losses.min() > 0 and logged_losses.max() > LOG * np.median(logged_losses):
        axes.set_yscale("log")
        write_plain_numbers(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(axis="y")
    present = {cell.axes.get(axis) for cell, _ in logged}
    return figure, make_legend(axis, list(filter(present.__contains__, colours)), colours)


def colour_values(values: Sequence[str]) -> dict[str, str]:
    """One colour for each; values that are too many go from dark to light in their order."""
    if len(values) <= len(COLOURS):
        return dict(zip(values, COLOURS, strict=False))
    numbers = numeric_values(values)
    ranked = sorted(values, key=lambda value: numbers[value]) if numbers else list(values)
    ramp, colours = matplotlib.colormaps["viridis"], {}
    for i, value in enumerate(ranked):
        colours[value] = to_hex(ramp(0.95 * i / (len(ranked) - 1)))
    return colours


def make_legend(axis: str, values: Sequence[str], colours: dict[str, str]) -> Legend:
    """Of many values a few stand in the legend, from the first to the last."""
    shown = values
    if len(values) > LINE:
        shown = [values[i * (len(values) - 1) // (LINE - 1)] for i in range(LINE)]
    note = f"({len(shown)} of {len(values)} values)" if len(shown) < len(values) else ""
    return Legend(axis, note, [(colours[value], cut(value)) for value in shown])
