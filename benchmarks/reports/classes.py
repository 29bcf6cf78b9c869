"""Result -> its score class by class, and the gain of each class over another row."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch

from ssvid.results import Result
from ssvid.statistics import compare_rows, sum_by_group
from ssvid.statistics.holm import ALPHA

Item = TypeVar("Item")


class ClassGain(NamedTuple):
    name: str
    clips: int | None  # of test; None where the result does not tell
    difference: float
    interval: tuple[float, float] | None  # None where the result holds no answers to single clips


def score_classes(result: Result, row: str) -> dict[str, float]:
    """Class -> score of a row, for the classes of test; empty where the result does not tell."""
    if row == "chance":
        # An average precision has another chance for each class, which the result does not tell.
        if result.score.per_class is not None or result.chance is None:
            return {}
        return dict.fromkeys(score_classes(result, "encoder"), result.chance)
    score = result.rows.get(row)
    if score is not None and score.per_class is not None:
        return drop_missing(score.per_class)
    correct = (result.test.correct or {}).get(row, [])
    if not correct:
        return {}
    shares = {}
    for name, clips in clips_of_classes(result).items():
        answers = select(correct, clips)
        shares[name] = sum(answers) / len(clips)
    return shares


def drop_missing(scores: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if value is not None}


def select(values: Sequence[Item], clips: list[int]) -> list[Item]:
    return [values[i] for i in clips]


def clips_of_classes(result: Result) -> dict[str, list[int]]:
    """Class -> its test clips, in the order of the classes; empty where a clip may have several."""
    labels, names = result.test.labels or [], result.data.classes
    clips: dict[int, list[int]] = {}
    for i, label in enumerate(labels):
        if not isinstance(label, int):
            return {}
        if label >= 0:
            clips.setdefault(label, []).append(i)
    return {names[label]: clips[label] for label in sorted(clips)}


def class_gains(result: Result, baseline: Result, row: str) -> list[ClassGain]:
    """Gain of the encoder over a row (or "chance") of `baseline`, which may be the same result.

    The largest gain comes first.
    """
    scores, base = score_classes(result, "encoder"), score_classes(baseline, row)
    clips = clips_of_classes(result)
    gains = []
    for name in scores:
        if name in base:
            count = len(clips[name]) if name in clips else None
            gains.append(ClassGain(name, count, scores[name] - base[name], None))
    return sorted(gains, key=lambda gain: -gain.difference)


def add_interval(gain: ClassGain, result: Result, baseline: Result, row: str) -> ClassGain:
    """With the 95 % interval: paired, over the groups of the class's test clips.

    It is not corrected for the number of classes: it is for looking.
    """
    if (
        result.score.per_class is not None
        or baseline.score.per_class is not None
        or result.test.paths != baseline.test.paths
    ):
        return gain
    clips, correct = clips_of_classes(result)[gain.name], result.test.correct or {}
    ours = torch.tensor(select(correct["encoder"], clips), dtype=torch.float64)
    if row == "chance":
        base = torch.full_like(ours, result.chance or 0.0)
    else:
        base = ours.new_tensor(select((baseline.test.correct or {})[row], clips))
    groups = select(result.test.groups, clips)
    difference = compare_rows(sum_by_group(ours, groups), sum_by_group(base, groups))
    return gain._replace(interval=difference.find_interval(ALPHA))
