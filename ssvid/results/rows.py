"""Result <-> its scores in the row of a sweep's cell. A damaged row is read as far as possible."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from ssvid.results.schema import Gain, Interval, Json, Result


@dataclass(frozen=True)
class RowScore:
    """Scores (0 to 1) on one cell of the suite."""

    metric: str
    test: float
    interval: Interval | None
    val: float | None
    chance: float | None
    random: float | None  # score of the same net, untrained
    gain: Gain | None  # over the same net, untrained
    leak: int | None = None  # test clips that pretraining read; the score is then not valid


def row_score(result: Result) -> RowScore:
    untrained = result.controls.get("random")
    return RowScore(
        metric=result.metric,
        test=result.score.value,
        interval=result.score.interval,
        val=result.val,
        chance=result.chance,
        random=untrained.value if untrained else None,
        gain=result.gains.get("random"),
        leak=result.leak.clips,
    )


def row_to_json(score: RowScore) -> Json:
    return asdict(score)


def row_from_json(content: Any) -> RowScore | None:
    """The scores of a row; None if it has no test score."""
    test = number(content.get("test")) if isinstance(content, dict) else None
    if test is None:
        return None
    return RowScore(
        metric=str(content.get("metric") or "score"),
        test=test,
        interval=_interval(content.get("interval")),
        val=number(content.get("val")),
        chance=number(content.get("chance")),
        random=number(content.get("random")),
        gain=_gain(content.get("gain")),
        leak=_count(content.get("leak")),
    )


def number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _interval(content: Any) -> Interval | None:
    if not isinstance(content, list | tuple) or len(content) != 2:
        return None
    low, high = map(number, content)
    return None if low is None or high is None else (low, high)


def _gain(content: Any) -> Gain | None:
    if not isinstance(content, dict):
        return None
    difference, interval = number(content.get("difference")), _interval(content.get("interval"))
    if difference is None or interval is None:
        return None
    return Gain(
        difference=difference,
        interval=interval,
        shown=bool(content.get("shown")),
        level=number(content.get("level")) or 0.95,
        p=number(content.get("p")),
        least=number(content.get("least")),
    )
