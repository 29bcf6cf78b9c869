"""an alignment -> its picture: how likely each second is for each sentence, and where it was put.

Seconds run across, sentences down.
"""

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

from benchmarks.reports.figure_style import BLUE, RED, encode_png, in_house_style

ROW, TALL = 0.2, 90.0  # inches of a sentence, and of all of them at most
WIDE, TEXT = 16.0, 5.2  # inches of the picture, and of the sentences beside it
TOP, WARNING, BOTTOM = 0.75, 0.25, 0.55  # inches above the sentences, of a warning, and below
CHARACTERS = 76  # of a sentence that is shown
COLUMNS = 1600  # of the picture; more seconds share a column, which has the darkest of them
DPI = 100
FEWEST, TIMES = 6, 3  # sentences that can tell; sentences for each second that they peak at
FAINT, TRANSCRIPT, BLANK = "#8a929b", "#c98a12", "#eceff2"
LIKELIHOOD = LinearSegmentedColormap.from_list(
    "likelihood", ["#ffffff", "#cfe0f2", BLUE, "#0b2545"]
).with_extremes(bad=BLANK)
Span = tuple[float, float]  # seconds


@in_house_style
def draw_alignment(
    title: str,
    # Softmax over the seconds of each sentence, over that of its peak; nan: not asked.
    likelihood: Float[Tensor, "K T"],
    texts: list[str],
    transcript_spans: list[Span],
    aligned_spans: list[Span | None],
    alignable: list[bool | None],
) -> bytes:
    """PNG. Its title warns where the answers do not depend on the sentence."""
    rows, seconds = likelihood.shape
    warning = warn_of_equal_answers(likelihood)
    top = TOP + (WARNING if warning else 0.0)
    tall = min(ROW * rows, TALL)
    size = tall + top + BOTTOM
    figure = Figure(figsize=(WIDE, size), dpi=DPI)
    axes = figure.add_axes((TEXT / WIDE, BOTTOM / size, (WIDE - TEXT - 0.3) / WIDE, tall / size))
    table = np.ma.masked_invalid(_pool_columns(likelihood.numpy()))
    look: dict[str, Any] = {"cmap": LIKELIHOOD, "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    axes.imshow(table, aspect="auto", extent=(0, seconds, rows, 0), **look)
    spans = zip(transcript_spans, aligned_spans, alignable, strict=True)
    for k, (transcript, aligned, can) in enumerate(spans):
        left, right = max(0.0, transcript[0]), min(float(seconds), transcript[1])
        axes.add_patch(_make_box(left, right, k, edgecolor=TRANSCRIPT, linewidth=1.1))
        if aligned is not None:
            colour = FAINT if can is False else RED
            axes.add_patch(_make_box(*aligned, k, edgecolor=colour, linewidth=1.8))
    axes.spines[:].set_visible(True)
    _label_sentences(axes, texts, alignable, rows / tall)
    axes.xaxis.set_major_locator(MaxNLocator(12, steps=[1, 1.5, 3, 6, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{int(x) // 60}:{int(x) % 60:02d}"))
    axes.set_xlim(0, seconds)
    axes.set_ylim(rows, 0)
    _write_head(figure, title, warning, size)
    return encode_png(figure, DPI, tight=False)


def warn_of_equal_answers(likelihood: Float[Tensor, "K T"]) -> str:
    """A sentence where all sentences are likeliest at the same few seconds; else empty."""
    table = likelihood[likelihood.isfinite().any(1)]
    peaks = len(set(table.nan_to_num(-1.0).argmax(1).tolist()))
    sentences, seconds = table.shape
    if sentences < FEWEST or TIMES * peaks > min(sentences, seconds):
        return ""
    times = "the same second" if peaks == 1 else f"the same {peaks} seconds"
    return (
        "WARNING: these answers do not depend on the sentence. "
        f"All {sentences} are likeliest at {times}."
    )


def _pool_columns(table: np.ndarray) -> np.ndarray:
    """At most COLUMNS columns."""
    width = math.ceil(table.shape[1] / COLUMNS)
    if width == 1:
        return table
    missing = -table.shape[1] % width
    padded = np.pad(table, ((0, 0), (0, missing)), constant_values=np.nan)
    return np.fmax.reduce(padded.reshape(len(table), -1, width), axis=2)


def _make_box(left: float, right: float, row: int, **look: Any) -> Rectangle:
    return Rectangle((left, row + 0.08), max(right - left, 0.3), 0.84, fill=False, **look)


def _label_sentences(
    axes: Axes, texts: list[str], alignable: list[bool | None], rows_per_inch: float
) -> None:
    """Each sentence, or each n-th where there are too many to be read."""
    step = max(1, math.ceil(rows_per_inch * ROW - 1e-6))
    shown = range(0, len(texts), step)
    axes.set_yticks([k + 0.5 for k in shown], [_cut(texts[k]) for k in shown])
    for label, k in zip(axes.get_yticklabels(), shown, strict=True):
        if alignable[k] is False:
            label.set_color(FAINT)


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 3].rstrip() + "..."


def _write_head(figure: Figure, title: str, warning: str, size: float) -> None:
    left, top = 0.3 / WIDE, 1 - 0.3 / size
    look: dict[str, Any] = {"fontsize": 11, "weight": "bold", "va": "center"}
    figure.text(left, top, title, **look)
    if warning:
        figure.text(left, top - WARNING / size, warning, color="#b42318", **look)
    outline: dict[str, Any] = {"fill": False, "linewidth": 1.8}
    marks = [
        _make_mark("transcript's own time", fill=False, edgecolor=TRANSCRIPT, linewidth=1.1),
        _make_mark("aligned", edgecolor=RED, **outline),
        _make_mark("best guess, not alignable", edgecolor=FAINT, **outline),
        _make_mark("likely (of the sentence's peak)", facecolor=BLUE),
        _make_mark("not asked", facecolor=BLANK),
    ]
    corner = (1 - 0.2 / WIDE, top)
    figure.legend(handles=marks, ncol=5, loc="center right", bbox_to_anchor=corner)


def _make_mark(label: str, **look: Any) -> Rectangle:
    return Rectangle((0, 0), 1, 1, label=label, **look)
