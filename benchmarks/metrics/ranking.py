"""Ranked answers -> average precision: of clips, boxes or segments, also under weights of their groups.

A class's answers are sorted once; every redrawing of groups then is a weighting of the same list, so that an interval
costs a few sums. Answers of equal score are one step of the curve: their order in the list does not count.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssvid.statistics import Measure

AT_ONCE = 2**22  # numbers of a class's weighted list at once


class Ranked(NamedTuple):
    """The answers of one class, surest first. n of them, G groups."""

    hit: Float[Tensor, " n"]  # 1: it is right; 0: it is not
    group: Int[Tensor, " n"]
    last: Int[Tensor, " n"]  # place of the last answer of the same score
    wanted: Float[Tensor, " G"]  # right answers that there are in each group, found or not


def ranked(
    scores: Float[Tensor, " n"],
    hit: Bool[Tensor, " n"],
    group: Int[Tensor, " n"],
    wanted: Float[Tensor, " G"],
) -> Ranked:
    order = scores.argsort(descending=True, stable=True)
    falling = scores[order]
    last = torch.searchsorted(-falling.double(), -falling.double(), right=True) - 1
    return Ranked(hit[order].double(), group[order], last, wanted.double())


def average_precision(
    answers: Ranked, weights: Float[Tensor, "W G"], interpolated: bool = False
) -> Float[Tensor, " W"]:
    """Area under precision over recall; NaN where nothing is wanted. `interpolated`: precision never rises with recall.

    Plain: as Charades' code and scikit-learn. Interpolated over all points: as PASCAL VOC, AVA and ActivityNet.
    """
    total = weights @ answers.wanted  # W
    if not len(answers.hit):
        return torch.where(total > 0, 0.0, torch.nan)
    found = []
    for part in weights.split(max(1, AT_ONCE // len(answers.hit))):
        weight = part[:, answers.group]  # W n
        right = weight * answers.hit
        precision = right.cumsum(1) / weight.cumsum(1).clamp(min=1e-12)
        precision = precision[:, answers.last]
        if interpolated:
            precision = precision.flip(1).cummax(1).values.flip(1)
        found.append((precision * right).sum(1))
    return torch.cat(found) / torch.where(total > 0, total, torch.nan)


def mean_over(classes: Sequence[Ranked], interpolated: bool = False) -> Measure:
    """Mean average precision over the classes that are there to be found."""

    def measure(weights: Float[Tensor, "W G"]) -> Float[Tensor, " W"]:
        return torch.stack(
            [average_precision(one, weights, interpolated) for one in classes]
        ).nanmean(0)

    return measure


def of_table(
    scores: Float[Tensor, "S Q"], held: Bool[Tensor, "S Q"], group: Int[Tensor, " S"]
) -> list[Ranked]:
    """Every clip is an answer to every class. `group`: of each clip, from 0."""
    n = int(group.max()) + 1
    wanted = torch.zeros(n, held.shape[1], dtype=torch.float64).index_add(
        0, group, held.double()
    )  # G Q
    return [ranked(scores[:, q], held[:, q], group, wanted[:, q]) for q in range(held.shape[1])]


def mean_average_precision(scores: Float[Tensor, "S Q"], held: Bool[Tensor, "S Q"]) -> float:
    one = torch.ones(1, 1, dtype=torch.float64)
    return mean_over(
        of_table(scores.cpu(), held.cpu(), torch.zeros(len(scores), dtype=torch.int64))
    )(one).item()
