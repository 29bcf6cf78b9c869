"""scores -> charts of bars as plain numbers, which parts.html draws.

Places and widths are in per cent of the track.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ssvid.results.text import format_interval

SMALLEST_RANGE = 0.05  # of a chart of differences: small ones stay small
SCORE_TICKS = [(f"{n}.00", f"{n}") for n in range(0, 101, 20)]  # place, text
STEPS = (0.02, 0.05, 0.1, 0.2)  # between the ticks of a chart of differences


class Bar(NamedTuple):
    """What is to be drawn."""

    name: str
    value: float  # a share; of a difference -1 to 1
    interval: Sequence[float] | None
    colour: str
    main: bool = False
    wrong: bool = False  # the number is not valid


class DrawnBar(NamedTuple):
    name: str
    text: str
    interval: str  # empty: none
    colour: str
    left: str  # per cent of the track, as the whisker's
    width: str
    whisker: tuple[str, str] | None  # left and width
    main: bool
    begins_group: bool
    wrong: bool


class Chart(NamedTuple):
    bars: list[DrawnBar]
    ticks: list[tuple[str, str]]  # place, text
    lines: list[str]  # places of vertical lines
    chance: str | None  # place of the dashed line
    label: str


def chart_scores(groups: Sequence[Sequence[Bar]], chance: float | None, label: str) -> Chart:
    """Bars from 0 to 100 %, groups a little apart, with the line of chance."""
    drawn = []
    for number, group in enumerate(groups):
        for i, bar in enumerate(group):
            begins_group = number > 0 and i == 0
            drawn.append(_draw_bar(bar, 0.0, 1.0, "", begins_group))
    if chance is not None:
        label = f"{label}; dashed: chance, {100 * chance:.1f}"
    return Chart(drawn, SCORE_TICKS, [], None if chance is None else per_cent(chance), label)


def chart_differences(bars: Sequence[Bar], label: str) -> Chart:
    """Bars to both sides of zero, in points."""
    low, high = _range_of(bars)
    step = next((step for step in STEPS if high - low <= 5 * step), 0.5)
    ticks = []
    for n in range(math.ceil(low / step), math.floor(high / step) + 1):
        text = f"{100 * n * step:+.0f}" if n else "0"
        ticks.append((per_cent(_fraction(n * step, low, high)), text))
    lines = [tick[0] for tick in ticks]
    drawn = [_draw_bar(bar, low, high, "+", False) for bar in bars]
    return Chart(drawn, ticks, lines, None, label)


def _range_of(bars: Sequence[Bar]) -> tuple[float, float]:
    ends = [0.0]
    for bar in bars:
        ends += [bar.value, *(bar.interval or ())]
    low, high = min(ends), max(ends)
    if high - low >= SMALLEST_RANGE:
        return low, high
    return (high - SMALLEST_RANGE, high) if -low > high else (low, low + SMALLEST_RANGE)


def _fraction(x: float, low: float, high: float) -> float:
    """0 at the left end of the track, 1 at the right."""
    return min(1.0, max(0.0, (x - low) / (high - low)))


def per_cent(share: float) -> str:
    return f"{100 * share:.2f}"


def _draw_bar(bar: Bar, low: float, high: float, sign: str, begins_group: bool) -> DrawnBar:
    start, end = sorted((_fraction(0.0, low, high), _fraction(bar.value, low, high)))
    whisker, interval = None, ""
    if bar.interval is not None:
        left = _fraction(bar.interval[0], low, high)
        right = _fraction(bar.interval[1], low, high)
        whisker, interval = (
            (per_cent(left), per_cent(right - left)),
            format_interval(bar.interval, sign),
        )
    return DrawnBar(
        name=bar.name,
        text=f"{100 * bar.value:{sign}.1f}",
        interval=interval,
        colour=bar.colour,
        left=per_cent(start),
        width=per_cent(end - start),
        whisker=whisker,
        main=bar.main,
        begins_group=begins_group,
        wrong=bar.wrong,
    )
