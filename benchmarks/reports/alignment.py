"""an alignment -> its picture: how like each second (across) is to each sentence (down), and where each was put."""

import io
import math
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from benchmarks.reports.figures import RED
from benchmarks.reports.page import BLUE, INK

ROW, TALL = 0.2, 90.0  # inches of a sentence, and of all of them at most
WIDE, TEXT = 16.0, 5.2  # inches of the picture, and of the sentences beside it
CHARACTERS = 76  # of a sentence that is shown
COLUMNS = 1600  # of the picture; more seconds share a column, which has the darkest of them
DPI = 100
FAINT, OWN, BLANK = "#8a929b", "#c98a12", "#eceff2"
ALIKE = LinearSegmentedColormap.from_list(
    "alike", ["#ffffff", "#cfe0f2", BLUE, "#0b2545"]
).with_extremes(bad=BLANK)


def draw(
    title: str,
    shares: Float[
        Tensor, "K T"
    ],  # of each second: its softmax over time, over that of the peak; nan: not asked
    texts: list[str],
    said: list[tuple[float, float]],
    found: list[tuple[float, float] | None],
    alignable: list[bool | None],
) -> bytes:
    """PNG."""
    rows, seconds = shares.shape
    tall = min(ROW * rows, TALL)
    size = tall + 1.3
    figure = Figure(figsize=(WIDE, size), dpi=DPI, facecolor="white")
    axes = figure.add_axes((TEXT / WIDE, 0.55 / size, (WIDE - TEXT - 0.3) / WIDE, tall / size))
    table = np.ma.masked_invalid(_pooled(shares.numpy()))
    axes.imshow(
        table,
        aspect="auto",
        extent=(0, seconds, rows, 0),
        cmap=ALIKE,
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    for k, (old, new, can) in enumerate(zip(said, found, alignable, strict=True)):
        left, right = max(0.0, old[0]), min(float(seconds), old[1])
        axes.add_patch(_box(left, right, k, edgecolor=OWN, linewidth=1.1))
        if new is not None:
            axes.add_patch(_box(*new, k, edgecolor=FAINT if can is False else RED, linewidth=1.8))
    axes.tick_params(labelsize=8, colors=INK, length=2)
    _label(axes, texts, alignable, rows / tall)
    axes.xaxis.set_major_locator(MaxNLocator(12, steps=[1, 1.5, 3, 6, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{int(x) // 60}:{int(x) % 60:02d}"))
    axes.set_xlim(0, seconds)
    axes.set_ylim(rows, 0)
    _legend(figure, title, size)
    with io.BytesIO() as file:
        figure.savefig(file, format="png")
        return file.getvalue()


def _pooled(table: np.ndarray) -> np.ndarray:
    """At most COLUMNS columns."""
    each = math.ceil(table.shape[1] / COLUMNS)
    if each == 1:
        return table
    room = -table.shape[1] % each
    padded = np.pad(table, ((0, 0), (0, room)), constant_values=np.nan)
    return np.fmax.reduce(padded.reshape(len(table), -1, each), axis=2)


def _box(left: float, right: float, row: int, **how: Any) -> Rectangle:
    return Rectangle((left, row + 0.08), max(right - left, 0.3), 0.84, fill=False, **how)


def _label(
    axes: Axes, texts: list[str], alignable: list[bool | None], rows_per_inch: float
) -> None:
    """Each sentence, or each n-th where there are too many to be read."""
    every = math.ceil(rows_per_inch * ROW - 1e-6)
    shown = range(0, len(texts), max(1, every))
    axes.set_yticks([k + 0.5 for k in shown], [_short(texts[k]) for k in shown])
    for label, k in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_parse_math(False)  # `$5` is no formula
        if alignable[k] is False:
            label.set_color(FAINT)


def _short(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 3].rstrip() + "..."


def _legend(figure: Figure, title: str, size: float) -> None:
    top = 1 - 0.3 / size
    figure.text(
        0.3 / WIDE, top, title, fontsize=11, color=INK, weight="bold", va="center", parse_math=False
    )
    marks = [
        Rectangle(
            (0, 0), 1, 1, fill=False, edgecolor=OWN, linewidth=1.1, label="transcript's own time"
        ),
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=RED, linewidth=1.8, label="found"),
        Rectangle(
            (0, 0),
            1,
            1,
            fill=False,
            edgecolor=FAINT,
            linewidth=1.8,
            label="best guess, not alignable",
        ),
        Rectangle((0, 0), 1, 1, facecolor=BLUE, label="likely (of the sentence's peak)"),
        Rectangle((0, 0), 1, 1, facecolor=BLANK, label="not asked"),
    ]
    figure.legend(
        handles=marks,
        ncol=5,
        fontsize=8,
        frameon=False,
        loc="center right",
        bbox_to_anchor=(1 - 0.2 / WIDE, top),
    )
