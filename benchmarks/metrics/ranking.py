"""Ranked answers -> average precision of clips, boxes or segments, also with weighted groups.

A class's answers are sorted once. Every redrawing of groups is then a weighting of the same list,
so an interval costs a few sums. Answers of equal score are one step of the curve: their order in
the list does not count.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssvid.randomness import uniform
from ssvid.statistics import Measure

AT_ONCE = 2**22  # numbers of a class's weighted list at once
LOTS = 20  # draws of a blind ranking


class Ranked(NamedTuple):
    """The n answers of one class, highest score first. G groups of videos."""

    hit: Float[Tensor, " n"]  # 1 where the answer is right, else 0
    group: Int[Tensor, " n"]
    last: Int[Tensor, " n"]  # index of the last answer with the same score
    wanted: Float[Tensor, " G"]  # right answers that exist in each group, in the list or not


def rank_answers(
    scores: Float[Tensor, " n"],
    hit: Bool[Tensor, " n"],
    group: Int[Tensor, " n"],
    wanted: Float[Tensor, " G"],
) -> Ranked:
    order = scores.argsort(descending=True, stable=True)
    sorted_scores = scores[order].double()
    last = torch.searchsorted(-sorted_scores, -sorted_scores, right=True) - 1
    return Ranked(hit[order].double(), group[order], last, wanted.double())


def rank_classes(
    scores: Float[Tensor, "n Q"],
    hit: Bool[Tensor, "n Q"],
    group: Int[Tensor, " n"],
    wanted: Float[Tensor, "G Q"],
) -> list[Ranked]:
    """A ranking for each class, of the same answers."""
    columns = zip(scores.unbind(1), hit.unbind(1), wanted.unbind(1), strict=True)
    return [rank_answers(s, h, group, w) for s, h, w in columns]


def average_precision(
    answers: Ranked, weights: Float[Tensor, "W G"], interpolated: bool = False
) -> Float[Tensor, " W"]:
    """Area under precision over recall, for each row of group weights; NaN where nothing is wanted.

    `interpolated`: precision never rises with recall, over all points, as PASCAL VOC, AVA and
    ActivityNet define it. Without it: as Charades' code and scikit-learn.
    """
    total = weights @ answers.wanted  # W
    if not len(answers.hit):
        return torch.where(total > 0, 0.0, torch.nan)
    areas = []
    for chunk in weights.split(max(1, AT_ONCE // len(answers.hit))):
        weight = chunk[:, answers.group]  # W n
        correct = weight * answers.hit
        precision = correct.cumsum(1) / weight.cumsum(1).clamp(min=1e-12)
        precision = precision[:, answers.last]
        if interpolated:
            precision = precision.flip(1).cummax(1).values.flip(1)
        areas.append((precision * correct).sum(1))
    return torch.cat(areas) / torch.where(total > 0, total, torch.nan)


def mean_over(classes: Sequence[Ranked], interpolated: bool = False) -> Measure:
    """Mean average precision over the classes that occur, as a function of the group weights."""

    def measure(weights: Float[Tensor, "W G"]) -> Float[Tensor, " W"]:
        precision = [average_precision(ranked, weights, interpolated) for ranked in classes]
        return torch.stack(precision).nanmean(0)

    return measure


def rank_table(
    scores: Float[Tensor, "S Q"], labels: Bool[Tensor, "S Q"], group: Int[Tensor, " S"]
) -> list[Ranked]:
    """A ranking for each class, in which every clip is an answer. `group`: of each clip, from 0."""
    wanted = torch.zeros(int(group.max()) + 1, labels.shape[1], dtype=torch.float64)
    wanted = wanted.index_add(0, group, labels.double())  # G Q
    return rank_classes(scores, labels, group, wanted)


def score_equally(measure: Measure, group: Int[Tensor, " S"]) -> float:
    """The metric where every group counts once. `group`: of each answer, from 0."""
    return measure(torch.ones(1, int(group.max()) + 1, dtype=torch.float64)).item()


def draw_lots(
    score: Callable[[Tensor], float], shape: tuple[int, ...], seed: int, lots: int = LOTS
) -> float:
    """The mean of a metric over several tables S Q of random scores. `shape`: S and Q."""
    units, classes = shape
    total = 0.0
    for lot in range(lots):
        total += score(uniform(seed, "lots", lot, torch.arange(units), classes))
    return total / lots


def mean_average_precision(scores: Float[Tensor, "S Q"], labels: Bool[Tensor, "S Q"]) -> float:
    """Mean average precision over classes, with all clips weighted equally."""
    group = torch.zeros(len(scores), dtype=torch.int64)
    lists = rank_table(scores.cpu(), labels.cpu(), group)
    return mean_over(lists)(torch.ones(1, 1, dtype=torch.float64)).item()
