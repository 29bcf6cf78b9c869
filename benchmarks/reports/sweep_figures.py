"""cells of a sweep -> charts: scores against each axis, means of pairs of axes as a table of colours, loss curves."""

import html
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from benchmarks.reports.figures import COLOURS
from benchmarks.reports.page import BLUE, GREY, INK, PALE
from benchmarks.reports.sweep_rows import SEED, Cell, places
from ssvid.results.rows import RowScore
from ssvid.results.run_files import read_losses

VAL = COLOURS[1]
LOG = 30  # times between the least and the largest value: more have a log scale
FEW = 30  # cells in a chart: each has its interval
NAMES = 40  # of one axis in a chart
LINE = 12  # values that stand once each: more are no line but a cloud
POINTS = 40_000  # of all loss curves together
CROWD = 200  # cells in a chart: more have small dots
EDGE = [withStroke(linewidth=3.6, foreground="white")]  # means stand out of the dots
STYLE = f"""
.marks span {{ white-space: nowrap; margin-right: 1.1rem; }}
.marks i {{ display: inline-block; box-sizing: border-box; width: .6rem; height: .6rem; border-radius: 50%; }}
.marks i.bar {{ width: 1.3rem; height: 0; border-radius: 0; border-top: 2px solid {BLUE}; vertical-align: middle; }}
.marks i.dash {{ border-top: 2px dashed {GREY}; }} .marks i.chance {{ border-top: 1px dashed {INK}; }}
.marks i.val {{ border: 1.5px solid {VAL}; }} .marks i.test {{ background: {BLUE}; }}
.marks i.best {{ border: 2px solid {INK}; width: .8rem; height: .8rem; vertical-align: -.1rem; }}
table.heat td, table.heat th {{ border: 0; padding: .3rem .6rem; text-align: center; font-size: .85rem; }}
table.heat th:first-child {{ text-align: right; }}
table.heat caption {{ text-align: left; font-size: .85rem; white-space: nowrap; }}
table.heat td {{ min-width: 3.2rem; }} table.heat small {{ display: block; opacity: .8; }}
"""


class Point(NamedTuple):
    at: str  # value on the axis
    score: RowScore
    best: bool


def points(cells: Iterable[Cell], axis: str, on: str, best: Sequence[Cell] = ()) -> list[Point]:
    marked = {cell.hash for cell in best}
    return [
        Point(cell.axes[axis], cell.scores[on], cell.hash in marked)
        for cell in cells
        if axis in cell.axes and on in cell.scores
    ]


def means(found: Sequence[Point], key: str) -> dict[str, float]:
    """Value -> mean over the other axes, for the values that have such a score."""
    kept: dict[str, list[float]] = {}
    for point in found:
        if (score := getattr(point.score, key)) is not None:
            kept.setdefault(point.at, []).append(score)
    return {value: statistics.fmean(scores) for value, scores in kept.items()}


def against(axis: str, values: Sequence[str], found: Sequence[Point]) -> Figure:
    """Scores against one axis: on its own scale where it is of numbers, else a line of names."""
    at = {} if axis == SEED else places(values)  # a seed is a name
    if at:
        figure = Figure(figsize=(5.0, 3.1), layout="constrained")
        axes = figure.subplots()
        _numbers(axes, at, found)
        axes.set_xlabel(axis, fontsize=9, parse_math=False)
        axes.set_ylabel(f"{found[0].score.metric}, %", fontsize=9, parse_math=False)
        axes.grid(axis="y", color=PALE, linewidth=0.6)
    else:
        shown = list(values[:NAMES])
        figure = Figure(figsize=(5.0, 0.75 + 0.46 * len(shown)), layout="constrained")
        axes = figure.subplots()
        _names(axes, shown, [point for point in found if point.at in set(shown)])
        axes.set_xlabel(f"{found[0].score.metric}, %", fontsize=9, parse_math=False)
        axes.set_title(axis, loc="left", fontsize=9, color=INK, parse_math=False)
        axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=2, labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(PALE)
    return figure


def _numbers(axes: Axes, at: dict[str, float], found: Sequence[Point]) -> None:
    x = [at[point.at] for point in found]
    for key in ("val", "test"):
        _dots(axes, x, found, key, len(found), flip=False)
    if len(set(x)) < len(x) or len(x) <= LINE:
        for key, colour, dashes, wide in (
            ("random", GREY, "--", 1.6),
            ("val", VAL, ":", 1.2),
            ("test", BLUE, "-", 1.6),
        ):
            line = np.array(
                sorted((at[value], 100 * mean) for value, mean in means(found, key).items())
            )
            axes.plot(
                *line.reshape(-1, 2).T,
                color=colour,
                linestyle=dashes,
                linewidth=wide,
                path_effects=EDGE,
                zorder=3,
            )
    elif untrained := [point.score.random for point in found if point.score.random is not None]:
        axes.axhline(100 * statistics.fmean(untrained), color=GREY, linestyle="--", linewidth=1.6)
    for chance in chances(found):
        axes.axhline(100 * chance, color=INK, linestyle="--", linewidth=0.9)
    _scale(axes, sorted(set(x)))


def chances(found: Sequence[Point]) -> list[float]:
    """One for each data set; of many the mean."""
    every = sorted({point.score.chance for point in found if point.score.chance is not None})
    return every if len(every) <= 3 else [statistics.fmean(every)]


def _scale(axes: Axes, x: Sequence[float]) -> None:
    kind = scale(x)
    if kind == "symlog":
        axes.set_xscale("symlog", linthresh=min(value for value in x if value > 0), linscale=0.5)
    else:
        axes.set_xscale(kind)
    transform = axes.xaxis.get_transform().transform
    place = transform(np.array(x, dtype=float))
    room = 0.06 * float(np.ptp(place) or 1.0)
    low, high = (float(end) for end in (place.min() - room, place.max() + room))
    axes.set_xlim(*axes.xaxis.get_transform().inverted().transform(np.array([low, high])))
    if (
        len(x) <= LINE
    ):  # the values themselves; those that would stand upon each other keep their mark alone
        texts, last = [], -math.inf
        for value, where in zip(x, place, strict=True):
            free = where - last >= 2.1 * room
            texts.append(f"{value:g}" if free else "")
            last = where if free else last
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(FixedLocator(list(x)))
        axes.set_xticks(list(x), texts)
    else:
        _plain(axes.xaxis)


def _plain(axis: Axis) -> None:
    """Numbers as they are typed: 0.001, 1e-05."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def scale(x: Sequence[float]) -> str:
    positive = [value for value in x if value > 0]
    wide = bool(positive) and max(positive) > LOG * min(positive) and min(x) >= 0
    return ("symlog" if min(x) == 0 else "log") if wide else "linear"


def _names(axes: Axes, values: Sequence[str], found: Sequence[Point]) -> None:
    """A row for each name: val above, test below, each with its mean as a bar."""
    for i, value in enumerate(values):
        own = [point for point in found if point.at == value]
        for key, middle, colour in (("val", i - 0.19, VAL), ("test", i + 0.19, BLUE)):
            spread = 0.11 if len(own) > 1 else 0.0
            y = np.linspace(middle - spread, middle + spread, len(own)).tolist()
            _dots(axes, y, own, key, len(found), flip=True)
            if (mean := means(own, key).get(value)) is not None:
                ends = [middle - 0.17, middle + 0.17]
                axes.plot(
                    [100 * mean] * 2, ends, color=colour, linewidth=2.2, path_effects=EDGE, zorder=3
                )
        if (mean := means(own, "random").get(value)) is not None:
            axes.plot(
                [100 * mean] * 2, [i - 0.42, i + 0.42], color=GREY, linestyle="--", linewidth=1.6
            )
    for chance in chances(found):
        axes.axvline(100 * chance, color=INK, linestyle="--", linewidth=0.9)
    axes.set_yticks(range(len(values)), [_cut(value) for value in values], parse_math=False)
    axes.set_ylim(len(values) - 0.5, -0.5)


def _dots(
    axes: Axes, places: Sequence[float], found: Sequence[Point], key: str, total: int, *, flip: bool
) -> None:
    """One for each cell that has the score, hollow for val. `flip`: the score is x. `total`: cells in the chart."""

    def draw(place: Sequence[float], share: Sequence[float], form: str, **look: Any) -> None:
        percent = 100 * np.array(share)
        axes.plot(*((percent, place) if flip else (place, percent)), form, **look)

    known = [
        (place, point)
        for place, point in zip(places, found, strict=True)
        if getattr(point.score, key) is not None
    ]
    test, many = key == "test", total > CROWD
    look: dict[str, Any] = {"color": BLUE} if test else {"color": VAL, "markerfacecolor": "none"}
    look |= {
        "markeredgewidth": 0.0 if test else 0.6 if many else 1.0,
        "markersize": 3 if many else 5,
    }
    look |= {"alpha": 0.4 if many else 0.75}
    if (
        not flip and not test and len(set(places)) < len(places)
    ):  # of the same value: beside the dots of test
        axes.update_datalim(
            [(place, 100 * (point.score.val or 0.0)) for place, point in known]
        )  # else they are cut off
        look["transform"] = axes.transData + ScaledTranslation(
            6 / 72, 0, axes.figure.dpi_scale_trans
        )
    draw(
        [place for place, _ in known],
        [getattr(point.score, key) for _, point in known],
        "o",
        **look,
    )
    for place, point in known:
        if test and total <= FEW and point.score.interval:
            draw([place, place], point.score.interval, "-", color=BLUE, linewidth=0.8, alpha=0.6)
        if test and point.best:
            ring = {"markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.4}
            draw([place], [point.score.test], "o", color=INK, **ring)


def _cut(text: str, most: int = 30) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


class PairMean(NamedTuple):
    test: float
    val: float | None


def pair_means(
    pair: tuple[str, str], cells: Sequence[Cell], on: str
) -> dict[tuple[str, str], PairMean]:
    """(value on the first axis, on the second) -> means over the other axes."""
    down, across = pair
    scores: dict[tuple[str, str], list[RowScore]] = {}
    for cell in cells:
        if on in cell.scores and down in cell.axes and across in cell.axes:
            scores.setdefault((cell.axes[down], cell.axes[across]), []).append(cell.scores[on])
    means = {}
    for place, own in scores.items():
        val = [score.val for score in own if score.val is not None]
        means[place] = PairMean(
            statistics.fmean(score.test for score in own), statistics.fmean(val) if val else None
        )
    return means


def heat(
    pair: tuple[str, str], axes: dict[str, list[str]], means: dict[tuple[str, str], PairMean]
) -> str:
    """Mean test, and below it that of val; as a table, whose colours are of test."""
    down, across = pair
    low, high = min(mean.test for mean in means.values()), max(mean.test for mean in means.values())
    body = ""
    for value in axes[down]:
        row = "".join(_warm(means.get((value, other)), low, high) for other in axes[across])
        body += f"<tr><th>{html.escape(_cut(value))}</th>{row}</tr>"
    head = "".join(f"<th>{html.escape(_cut(value))}</th>" for value in axes[across])
    said = f"{html.escape(down)} (down) by {html.escape(across)} (across)"
    return f'<table class="heat"><caption>{said}</caption><tr><th></th>{head}</tr>{body}</table>'


def _warm(mean: PairMean | None, low: float, high: float) -> str:
    if mean is None:
        return "<td>-</td>"
    share = 0.1 + 0.75 * ((mean.test - low) / (high - low) if high > low else 0.5)
    ink = "#fff" if share > 0.55 else INK
    below = f"<small>val {100 * mean.val:.1f}</small>" if mean.val is not None else ""
    colour = to_hex(matplotlib.colormaps["Blues"](share))
    return f'<td style="background:{colour};color:{ink}">{100 * mean.test:.1f}{below}</td>'


def pairs(axes: dict[str, list[str]], cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Of axes whose combinations are a grid, more or less; seeds only where nothing else is left."""
    few = [axis for axis, values in axes.items() if 1 < len(values) <= NAMES]
    few = [axis for axis in few if axis != SEED] if len(few) > 2 else few
    made = [(down, across) for i, down in enumerate(few) for across in few[i + 1 :]]
    made = [
        (b, a) if len(axes[b]) > len(axes[a]) else (a, b) for a, b in made
    ]  # the longer one goes down

    def filled(pair: tuple[str, str]) -> bool:
        there = {tuple(cell.axes.get(axis) for axis in pair) for cell in cells if cell.scores}
        return 2 * len(there) > len(axes[pair[0]]) * len(axes[pair[1]])

    return [pair for pair in made if filled(pair)]


def curves(cells: Sequence[Cell], axis: str, values: Sequence[str]) -> tuple[Figure, str] | None:
    """The loss of every cell that logged one, coloured by its value on `axis`; and the legend, as HTML."""
    most = max(20, min(300, POINTS // max(1, len(cells))))
    logged = [(cell, curve) for cell in cells if (curve := read_losses(cell.folder.metrics, most))]
    if not logged:
        return None
    colour = colours(values)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    many = len(logged) > FEW
    for cell, curve in logged:
        steps, loss = zip(*curve, strict=True)
        own = colour.get(cell.axes.get(axis, ""), GREY)
        dot = "o" if len(curve) == 1 else None
        axes.plot(
            steps,
            loss,
            color=own,
            linewidth=0.7 if many else 1.3,
            alpha=0.5 if many else 0.9,
            marker=dot,
        )
    every = np.array([loss for _, curve in logged for _, loss in curve])
    if (every > 0).all() and every.max() > LOG * np.median(every):
        axes.set_yscale("log")
        _plain(axes.yaxis)
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel("loss", fontsize=9)
    axes.tick_params(length=2, labelsize=8, colors=INK)
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(PALE)
    return figure, _legend(
        axis, [v for v in values if any(cell.axes.get(axis) == v for cell, _ in logged)], colour
    )


def colours(values: Sequence[str]) -> dict[str, str]:
    """One for each; more than there are colours go from dark to light in their order."""
    if len(values) <= len(COLOURS):
        return dict(zip(values, COLOURS, strict=False))
    at = places(values)
    ranked = sorted(values, key=lambda value: at[value]) if at else list(values)
    ramp = matplotlib.colormaps["viridis"]
    return {value: to_hex(ramp(0.95 * i / (len(ranked) - 1))) for i, value in enumerate(ranked)}


def _legend(axis: str, values: Sequence[str], colour: dict[str, str]) -> str:
    if not axis:
        return ""
    order = [value for value in colour if value in set(values)]
    shown = (
        order
        if len(order) <= LINE
        else [order[i * (len(order) - 1) // (LINE - 1)] for i in range(LINE)]
    )
    marks = "".join(
        f'<span><i style="background:{colour[value]}"></i> {html.escape(_cut(value))}</span> '
        for value in shown
    )
    more = f" ({len(shown)} of {len(order)} values)" if len(shown) < len(order) else ""
    return f'<p class="legend marks"><b>{html.escape(axis)}</b>{more}: {marks}</p>'
