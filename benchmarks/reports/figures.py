"""scores -> charts: bars as plain HTML (sharp at any size, text that can be copied), confusion and cost as pictures."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.reports.page import BLUE, GREY, INK, PALE
from ssvid.results import Result

COLOURS = (
    BLUE,
    "#c8641e",
    "#2a8c6a",
    "#8a5aa8",
    "#b0892a",
    "#c2477f",
    "#3d94ab",
    "#6e7781",
)  # of encoders
RED = "#b4543a"
NAMED = 60  # classes whose names fit beside a confusion matrix
COUNTED = 20  # classes whose counts fit in it
WORST = 10  # pairs of classes in the table
STYLE = f"""
.bars {{ display: grid; grid-template-columns: fit-content(13rem) 1fr auto; column-gap: .8rem; font-size: .85rem; }}
.bar {{ display: contents; }}
.bar > span:first-child {{ text-align: right; overflow-wrap: anywhere; line-height: 1.2; align-self: center; }}
.bar > span:last-child {{ font-variant-numeric: tabular-nums; align-self: center; white-space: nowrap; }}
.bar small {{ color: #59636e; font-size: inherit; }} .bar.main > span {{ font-weight: 600; }}
.bar.main small {{ font-weight: normal; }}
.track {{ position: relative; display: block; min-height: 1.5rem; }}
.track i, .track b, .track s, .track u {{ position: absolute; box-sizing: border-box; }}
.track i {{ top: 20%; bottom: 20%; }}
.track b {{ top: 50%; height: 0; border-top: 1.5px solid {INK}; }}
.track b::before, .track b::after {{ content: ""; position: absolute; top: -5px; height: 8.5px;
  border-left: 1.5px solid {INK}; }}
.track b::before {{ left: 0; }} .track b::after {{ right: 0; }}
.track s {{ top: 0; bottom: 0; border-left: 1px dashed {INK}; }}
.track u {{ top: 0; bottom: 0; border-left: 1px solid {PALE}; }}
.axis {{ color: #59636e; }} .axis .track {{ min-height: 1.2rem; border-top: 1px solid {GREY}; }}
.axis em {{ position: absolute; transform: translateX(-50%); font-style: normal; font-size: .75rem; }}
.gap > span {{ margin-top: .5rem; }}
"""


class Bar(NamedTuple):
    name: str
    value: float  # a share; of a difference -1 to 1
    interval: Sequence[float] | None
    colour: str
    main: bool = False


def bars(groups: Sequence[Sequence[Bar]], chance: float | None, label: str) -> str:
    """From 0 to 100 %, groups a little apart, with the line of chance."""
    line = "" if chance is None else f'<s style="left:{100 * chance:.2f}%"></s>'
    rows = ""
    for i, group in enumerate(groups):
        for j, bar in enumerate(group):
            said = f"{100 * bar.value:.1f}"
            rows += _bar(bar, 0.0, 1.0, line, said, "gap" if i and not j else "")
    ticks = [(share, f"{100 * share:.0f}") for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    note = label if chance is None else f"{label}; dashed: chance, {100 * chance:.1f}"
    return f'<div class="bars">{rows}{_axis(ticks, 0.0, 1.0, note)}</div>'


def differences(found: Sequence[Bar], label: str) -> str:
    """To both sides of zero, in points."""
    ends = [x for bar in found for x in (bar.value, *(bar.interval or ()))]
    low, high = min(0.0, *ends), max(0.0, *ends)
    if high - low < 0.05:  # small ones stay small
        low, high = (high - 0.05, high) if -low > high else (low, low + 0.05)
    step = next((step for step in (0.02, 0.05, 0.1, 0.2) if high - low <= 5 * step), 0.5)
    marks = [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    ticks = [(x, f"{100 * x:+.0f}" if abs(x) > 1e-9 else "0") for x in marks]
    lines = "".join(f'<u style="left:{100 * _place(x, low, high):.2f}%"></u>' for x, _ in ticks)
    rows = "".join(_bar(bar, low, high, lines, f"{100 * bar.value:+.1f}", "", "+") for bar in found)
    return f'<div class="bars">{rows}{_axis(ticks, low, high, label)}</div>'


def _place(x: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (x - low) / (high - low)))


def _bar(
    bar: Bar, low: float, high: float, lines: str, said: str, more: str, sign: str = ""
) -> str:
    start, end = sorted((_place(0.0, low, high), _place(bar.value, low, high)))
    whisker = ""
    if bar.interval is not None:
        left, right = (_place(x, low, high) for x in bar.interval)
        whisker = f'<b style="left:{100 * left:.2f}%;width:{100 * (right - left):.2f}%"></b>'
        said += " <small>({:{sign}.1f} to {:{sign}.1f})</small>".format(
            *(100 * x for x in bar.interval), sign=sign
        )
    body = f'<i style="left:{100 * start:.2f}%;width:{100 * (end - start):.2f}%;background:{bar.colour}"></i>'
    kind = " ".join(filter(None, ("bar", "main" if bar.main else "", more)))
    name = html.escape(bar.name)
    return (
        f'<div class="{kind}"><span>{name}</span><span class="track">{body}{lines}{whisker}</span>'
        f"<span>{said}</span></div>"
    )


def _axis(ticks: Sequence[tuple[float, str]], low: float, high: float, label: str) -> str:
    marks = "".join(
        f'<em style="left:{100 * _place(x, low, high):.2f}%">{said}</em>' for x, said in ticks
    )
    place = f'<span></span><span class="track">{marks}</span><span></span>'
    return f'<div class="bar axis">{place}<span></span><span>{html.escape(label)}</span><span></span></div>'


def literal(text: str) -> str:
    """For matplotlib, to which dollars mean mathematics."""
    return text.replace("$", r"\$")


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Figure:
    """Rows are labels and sum to 100 %. More than NAMED classes have no names: see `worst_pairs`."""
    table, n = np.array(counts, dtype=float), len(names)
    share = 100 * table / table.sum(1, keepdims=True).clip(min=1)
    side = 5.0 if n > NAMED else 2.2 + 0.42 * n if n <= 6 else min(9.0, 3.4 + 0.22 * n)
    figure = Figure(figsize=(side, side))
    axes = figure.subplots()
    axes.imshow(
        share, cmap=matplotlib.colormaps["Blues"], vmin=0, vmax=100, interpolation="nearest"
    )
    if n <= NAMED:
        size = 9 if n <= COUNTED else 7
        axes.set_xticks(range(n), map(literal, names), rotation=90, fontsize=size)
        axes.set_yticks(range(n), map(literal, names), fontsize=size)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.tick_params(length=0)
    axes.set_xlabel("predicted" if n <= NAMED else f"predicted ({n} classes)")
    axes.set_ylabel("label")
    if n <= COUNTED:
        for y, x in zip(*table.nonzero(), strict=True):
            dark = "white" if share[y, x] > 60 else INK
            axes.text(x, y, f"{table[y, x]:.0f}", ha="center", va="center", color=dark, fontsize=8)
    axes.spines[:].set_color(PALE)
    return figure


def worst_pairs(
    counts: Sequence[Sequence[int]], names: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Label, class that it is taken for and how often, the most frequent first."""
    table = np.array(counts)
    off = table - np.diag(table.diagonal())
    order = np.argsort(-off, axis=None, kind="stable")[:WORST]
    pairs = [(int(at) // len(names), int(at) % len(names)) for at in order if off.flat[at] > 0]
    return [(names[y], names[x], f"{table[y, x]} of {table[y].sum()}") for y, x in pairs]


def cost(found: Sequence[Result], colours: dict[str, str]) -> Figure | None:
    """Two panels a cell: score against GFLOPs, and against CPU-seconds. None where no result tells either."""
    names = list(dict.fromkeys(result.cell for result in found if spent(result) != (None, None)))
    if not names:
        return None
    rows = (len(names) + 1) // 2
    figure = Figure(figsize=(10.9, 0.7 + 2.05 * rows), layout="constrained")
    panels = figure.subplots(rows, 4 if len(names) > 1 else 2, squeeze=False)
    for axes in panels.flat:
        axes.set_visible(False)
    for i, name in enumerate(names):
        own = [result for result in found if result.cell == name]
        for j, what in enumerate(("GFLOPs a clip", "CPU-seconds")):
            _against(panels[i // 2, 2 * (i % 2) + j], own, j, what, colours)
        panels[i // 2, 2 * (i % 2)].set_title(
            literal(name), loc="left", fontsize=9, fontweight="bold", color=INK
        )
    handles = [
        matplotlib.lines.Line2D(
            [], [], marker="o", linestyle="", color=colour, label=literal(title)
        )
        for title, colour in colours.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=6,
        frameon=False,
        fontsize=9,
        handletextpad=0.1,
    )
    return figure


def spent(result: Result) -> tuple[float | None, float | None]:
    """(GFLOPs of a clip, CPU-seconds of features and probe)."""
    paid = result.cost
    seconds = [share for share in (paid.extract_cpu_s, paid.probe_cpu_s) if share is not None]
    return paid.gflops_per_clip, sum(seconds) if seconds else None


def _against(
    axes: Axes, own: Sequence[Result], which: int, what: str, colours: dict[str, str]
) -> None:
    """Dot: the encoder with its interval. Ring: the same net untrained, at the same cost. Dashed: raw pixels."""
    metric, known = own[0].metric, [result for result in own if spent(result)[which] is not None]
    if not known:
        return
    axes.set_visible(True)
    places = [spent(result)[which] or 0.0 for result in known]
    for x, result in zip(places, known, strict=True):
        colour, score = colours[result.encoder.title], 100 * result.score.value
        low, high = (100 * end for end in result.score.interval)
        error = [[max(0.0, score - low)], [max(0.0, high - score)]]
        axes.errorbar(
            [x],
            [score],
            yerr=error,
            fmt="o",
            color=colour,
            markersize=5,
            elinewidth=1,
            capsize=2,
            zorder=3,
        )
        if twin := result.controls.get("random"):
            axes.plot(
                [x, x],
                [100 * twin.value, score],
                color=colour,
                linewidth=1,
                linestyle=":",
                zorder=2,
            )
            axes.plot(
                [x],
                [100 * twin.value],
                "o",
                color=colour,
                markerfacecolor="white",
                markersize=5,
                zorder=3,
            )
    for floor in {
        round(100 * r.controls["pixels"].value, 1) for r in known if "pixels" in r.controls
    }:
        axes.axhline(floor, color=GREY, linewidth=1, linestyle="--", zorder=1)
    if min(places) > 0 and max(places) > 10 * min(places):
        axes.set_xscale("log")
        axes.set_xlim(min(places) / 2, max(places) * 2)
    else:
        axes.set_xlim(0, 1.2 * max(places) or 1)
    axes.set_ylim(0, 104)
    axes.set_yticks((0, 25, 50, 75, 100), ("0", "", "50", "", "100"), fontsize=8)
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=2, labelsize=8, colors=INK)
    axes.set_xlabel(what, fontsize=8)
    if which == 0:
        axes.set_ylabel(literal(f"{metric}, %"), fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
