"""What each group adds to a score -> the interval of the score.

The interval is Student's on the logit scale, for groups as independent units, after half a group
of right and half a group of wrong answers are added. The added groups pull it towards one half and
keep it open where all groups are alike, so it needs no other method as a fallback. It was chosen by
simulation among bootstrap-t, BCa, logit-t and others: tests/simulations.py, docs/statistics.md.
"""

import math
from collections.abc import Sequence

import torch
from scipy.special import stdtrit

from ssvid.statistics.groups import GroupSums

ADDED_GROUPS = 0.5  # of right, and of wrong answers
HIGHEST = 1 - 1e-9  # of a share on the logit scale


def find_score_interval(
    sums: GroupSums, level: float = 0.95, extra_variance: float = 0.0
) -> tuple[float, float]:
    """(low, high) of a score in 0 to 1.

    `extra_variance`: of what is drawn beside the test groups, such as nets or few labels.
    """
    groups, value, weight = len(sums.value), sums.value, sums.weight
    size = (weight.square().sum() / weight.sum()).item()  # of the group that a clip lies in
    added = torch.tensor([0.0, ADDED_GROUPS * size], dtype=torch.float64)
    value = torch.cat([value, added])
    weight = torch.cat([weight, torch.full_like(added, ADDED_GROUPS * size)])
    larger = GroupSums(value, weight)
    share = min(max(larger.mean, 1 - HIGHEST), HIGHEST)
    std = math.sqrt(measure_variance(larger) + extra_variance)
    t = stdtrit(max(groups - 1, 1), (1 + level) / 2).item()
    half = t * std / (share * (1 - share))
    logit = math.log(share / (1 - share))
    low, high = _squash(logit - half), _squash(logit + half)
    score = min(max(sums.mean, 0.0), 1.0)  # the added groups may have moved the middle past it
    return min(low, score), max(high, score)


def measure_variance(sums: GroupSums) -> float:
    """The variance of value / weight over groups, linearised. Infinite for a single group."""
    groups = len(sums.value)
    if groups < 2:
        return math.inf
    residual = sums.value - sums.mean * sums.weight
    total = residual.square().sum() / sums.weight.sum().square()
    return (groups / (groups - 1) * total).item()


def measure_noise(nets: Sequence[GroupSums]) -> float:
    """The part of the variance between nets' scores that the choice of the test groups explains.

    Nets that are equally good differ in a test of few groups. `nets`: on the same clips.
    """
    if len(nets) < 2:
        return 0.0
    value = torch.stack([net.value for net in nets])  # N G
    noise = 0.0
    for residual in value - value.mean(0):
        noise += measure_variance(GroupSums(residual, nets[0].weight))
    return noise / (len(nets) - 1)


def _squash(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0
