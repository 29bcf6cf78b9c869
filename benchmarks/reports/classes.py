"""Result -> its score class by class, and the gains of each class over another row."""

from typing import NamedTuple

import torch

from ssvid.results import Result
from ssvid.statistics import paired_difference


class ClassGain(NamedTuple):
    name: str
    clips: int | None  # of test; None where the result does not tell
    difference: float
    interval: tuple[float, float] | None  # None where the result holds no answers to single clips


def per_class(result: Result, row: str) -> dict[str, float]:
    """Class -> score of a row, for the classes that test has; empty where the result does not tell."""
    if (
        row == "chance"
    ):  # of an average precision each class has its own, which the result does not tell
        known = result.score.per_class is None and result.chance is not None
        return dict.fromkeys(per_class(result, "encoder"), result.chance or 0.0) if known else {}
    score = result.rows.get(row)
    if score is not None and score.per_class is not None:
        return {name: value for name, value in score.per_class.items() if value is not None}
    right = (result.test.correct or {}).get(row, [])
    return {
        name: sum(right[i] for i in at) / len(at) for name, at in clips_of(result).items() if right
    }


def clips_of(result: Result) -> dict[str, list[int]]:
    """Class -> test clips of it, in the order of the classes; empty where a clip may have several."""
    labels, names = result.test.labels or [], result.data.classes
    if not all(isinstance(label, int) for label in labels):
        return {}
    at: dict[str, list[int]] = {names[label]: [] for label in sorted(set(labels)) if label >= 0}
    for i, label in enumerate(labels):
        if label >= 0:
            at[names[label]].append(i)
    return at


def class_gains(ours: Result, theirs: Result, row: str) -> list[ClassGain]:
    """Of the encoder over a row (or "chance") of `theirs`, which may be the same result. The largest gain first."""
    has, base = per_class(ours, "encoder"), per_class(theirs, row)
    clips = clips_of(ours)
    gains = [
        ClassGain(name, len(clips[name]) if name in clips else None, has[name] - base[name], None)
        for name in has
        if name in base
    ]
    return sorted(gains, key=lambda gain: -gain.difference)


def with_interval(gain: ClassGain, ours: Result, theirs: Result, row: str) -> ClassGain:
    """Paired, over groups of the class's test clips."""
    if (
        ours.score.per_class is not None
        or theirs.score.per_class is not None
        or ours.test.paths != theirs.test.paths
    ):
        return gain
    at, correct = clips_of(ours)[gain.name], ours.test.correct or {}
    right = torch.tensor([correct["encoder"][i] for i in at], dtype=torch.float64)
    if row == "chance":
        base = torch.full_like(right, ours.chance or 0.0)
    else:
        base = right.new_tensor([(theirs.test.correct or {})[row][i] for i in at])
    _, low, high = paired_difference(right, base, [ours.test.groups[i] for i in at], ours.seed)
    return gain._replace(interval=(low, high))
