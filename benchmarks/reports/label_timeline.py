"""probabilities of labels over the seconds of a video -> a picture of lines."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from benchmarks.reports.figure_style import COLOURS, GREY, SHARP_DPI, encode_png, in_house_style

LINES = (*COLOURS[:4], COLOURS[7])  # that are told apart in thin lines
SHOWN = len(LINES)  # labels with a line of their own
CHARACTERS = 34  # of a label in the legend
WIDE, TALL = 10.5, 2.1  # inches
COLUMNS = 1500  # points of a line; more seconds share a point, which is their mean


@in_house_style
def draw_timeline(
    title: str, labels: Sequence[str], probabilities: Sequence[Sequence[float]]
) -> bytes:
    """PNG. `probabilities`: of each second those of the labels, the most important label first."""
    figure = Figure(figsize=(WIDE, TALL))
    axes = figure.add_axes((0.06, 0.13, 0.66, 0.74))
    seconds = len(probabilities)
    step = math.ceil(seconds / COLUMNS)
    middles = []
    for start in range(0, seconds, step):
        middles.append((start + min(start + step, seconds)) / 2)
    marker = "o" if len(middles) < 40 else ""
    for number in reversed(range(min(SHOWN, len(labels)))):
        line = []
        for start in range(0, seconds, step):
            part = [row[number] for row in probabilities[start : start + step]]
            line.append(100 * sum(part) / len(part))
        axes.plot(
            middles,
            line,
            color=LINES[number],
            label=cut_label(labels[number]),
            linewidth=1.8,
            marker=marker,
            markersize=3.5,
        )
    axes.set_xlim(0, seconds)
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 1.5, 3, 6, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: format_time(x)))
    axes.set_ylabel("probability in %")
    axes.set_title(title, loc="left")
    handles, names = axes.get_legend_handles_labels()
    corner = (1.02, 0.5)
    axes.legend(handles[::-1], names[::-1], loc="center left", bbox_to_anchor=corner)
    if len(labels) > SHOWN:
        note = f"the csv file has {len(labels) - SHOWN} more"
        axes.text(1.03, -0.02, note, transform=axes.transAxes, fontsize=7, color=GREY)
    return encode_png(figure, SHARP_DPI, tight=False)


def cut_label(label: str) -> str:
    return label if len(label) <= CHARACTERS else label[: CHARACTERS - 3].rstrip() + "..."


def format_time(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    clock = f"{minutes}:{whole % 60:02d}"
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else clock
