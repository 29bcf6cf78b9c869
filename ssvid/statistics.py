"""Correct answers -> confidence intervals, paired differences and p-values.

Clips of one source video are not independent, so whole groups of clips are resampled. The draws
have coordinates: the same answers and seed give the same interval on every machine.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssvid.randomness import uniform

CHUNK = 100  # draws that are computed together, so that thousands of groups fit into memory
# Weight of each group in each of W draws -> the metric of each draw.
Measure = Callable[[Float[Tensor, "W G"]], Float[Tensor, " W"]]
# Of each clip: right or wrong, or the fraction of its answers that is right.
Correct = Bool[Tensor, " S"] | Float[Tensor, " S"]


def bootstrap(
    correct: Correct, groups: list[str], seed: int, draws: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval (low, high) of the accuracy; groups are resampled with replacement.

    If every group has the same accuracy (all right, all wrong), resampling shows no spread,
    although n groups prove little. The interval is then Wilson's for n trials.
    """
    value, weight = sum_by_group(correct.double(), groups)
    share = value / weight
    if (share == share[0]).all():
        return wilson(share[0].item(), len(share), level)
    return interval(value, weight, seed, draws, level)


def paired_difference(
    ours: Correct,
    theirs: Correct,
    groups: list[str],
    seed: int,
    draws: int = 2000,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """(difference of accuracies, low, high) on the same clips. Both sides share the drawn groups.

    If every group has the same difference, resampling shows no spread. The interval is then
    Newcombe's for n trials on each side. n groups agree on a sign by chance in 2 of 2^n cases:
    while that is more than 1 - level (fewer than 6 groups at 95 %), the interval includes zero.
    """
    value, weight = sum_by_group(ours.double() - theirs.double(), groups)
    share, n = value / weight, len(value)
    difference = (value.sum() / weight.sum()).item()
    if (share == share[0]).all():
        low, high = newcombe(ours.double().mean().item(), theirs.double().mean().item(), n, level)
    else:
        low, high = interval(value, weight, seed, draws, level)
    return difference, *include_zero_if_few(low, high, n, level)


def include_zero_if_few(
    low: float, high: float, groups: int, level: float = 0.95
) -> tuple[float, float]:
    """Widen the interval of a difference to include zero if the groups are too few to show one."""
    return (min(low, 0.0), max(high, 0.0)) if 2 / 2**groups > 1 - level else (low, high)


def sum_by_group(
    values: Float[Tensor, " S"], groups: list[str]
) -> tuple[Float[Tensor, " G"], Float[Tensor, " G"]]:
    """(sum of the values, number of clips) of each group."""
    index = torch.tensor(index_groups(groups))
    zeros = torch.zeros(len(set(groups)), dtype=torch.float64)
    return zeros.index_add(0, index, values), zeros.index_add(0, index, torch.ones_like(values))


def index_groups(groups: list[str]) -> list[int]:
    """The index of each clip's group among the sorted names of all groups."""
    names = {name: i for i, name in enumerate(sorted(set(groups)))}
    return [names[name] for name in groups]


def redraw(measure: Measure, groups: int, seed: int, draws: int = 1000) -> Float[Tensor, " draws"]:
    """A metric that is no average (mean average precision) on resampled groups.

    The draws are the same for every encoder and control.
    """
    values = []
    for start in range(0, draws, CHUNK):
        rows = torch.arange(start, min(start + CHUNK, draws))
        drawn = (uniform(seed, "bootstrap", 0, rows, groups) * groups).long()  # W G
        counts = torch.zeros(len(rows), groups, dtype=torch.float64)
        values.append(measure(counts.scatter_add_(1, drawn, torch.ones_like(counts))))
    return torch.cat(values)


def find_percentile_interval(
    values: Float[Tensor, " draws"], level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the values of all draws.

    A draw without positives is NaN and ignored.
    """
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = values.double().nanquantile(ends).tolist()
    return low, high


def spread_of_share(
    values: Float[Tensor, " draws"], groups: int, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of a metric in 0 to 1.

    If all draws agree, the interval is Wilson's for as many trials as there are groups.
    """
    low, high = find_percentile_interval(values, level)
    return wilson(low, groups, level) if low == high else (low, high)


def spread_of_difference(
    ours: Float[Tensor, " draws"], theirs: Float[Tensor, " draws"], groups: int, level: float = 0.95
) -> tuple[float, float]:
    """The interval of `paired_difference` for two metrics in 0 to 1 that come from `redraw`."""
    low, high = find_percentile_interval(ours - theirs, level)
    if low == high:
        low, high = newcombe(ours.nanmean().item(), theirs.nanmean().item(), groups, level)
    return include_zero_if_few(low, high, groups, level)


def p_of_sign(differences: Float[Tensor, " draws"], groups: int) -> float:
    """Two-sided p-value of no difference: how often the sign changes over the draws.

    It is never below 2 / 2^n for n groups.
    """
    differences = differences[~differences.isnan()]
    minority = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, max(2 * (minority + 1) / (len(differences) + 1), 2 / 2**groups))


def interval(
    value: Float[Tensor, " G"], weight: Float[Tensor, " G"], seed: int, draws: int, level: float
) -> tuple[float, float]:
    n, means = len(value), []
    for start in range(0, draws, CHUNK):
        rows = torch.arange(start, min(start + CHUNK, draws))
        drawn = (uniform(seed, "bootstrap", 0, rows, n) * n).long()  # draws G
        means.append(value[drawn].sum(1) / weight[drawn].sum(1))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(means).quantile(ends).tolist()
    return low, high


def sign_flip(value: Float[Tensor, " G"], seed: int, draws: int = 10_000) -> float:
    """Two-sided p-value of no difference between paired sums `value` of the groups.

    It is the fraction of random sign flips whose total is at least as large as the observed total.
    """
    value = value[value != 0]
    if not len(value):
        return 1.0
    observed, as_large = value.sum().abs() - 1e-9, 0
    for start in range(0, draws, CHUNK):
        rows = torch.arange(start, min(start + CHUNK, draws))
        signs = (uniform(seed, "sign_flip", 0, rows, len(value)) < 0.5).double() * 2 - 1  # draws G
        as_large += int(((signs @ value).abs() >= observed).sum())
    return (as_large + 1) / (draws + 1)


def wilson(share: float, n: int, level: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion that was observed in n trials."""
    z = math.sqrt(2) * torch.erfinv(torch.tensor(level, dtype=torch.float64)).item()
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    # Rounding may put an end past the share itself.
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def newcombe(ours: float, theirs: float, n: int, level: float) -> tuple[float, float]:
    """Hybrid score interval of a difference of two proportions, from their Wilson intervals.

    Newcombe 1998, Statistics in Medicine 17:873-890, method 10. It treats the two as unpaired, so
    it is too wide where both are wrong on the same clips.
    """
    low, high = wilson(ours, n, level)
    their_low, their_high = wilson(theirs, n, level)
    below = math.hypot(ours - low, their_high - theirs)
    above = math.hypot(high - ours, theirs - their_low)
    return ours - theirs - below, ours - theirs + above


def chance(labels: Int[Tensor, " S"]) -> float:
    """Accuracy of a blind guess: one over the number of classes in the labels."""
    return 1 / len(labels.unique())


def majority(labels: Int[Tensor, " S"]) -> float:
    """Accuracy of always naming the largest class."""
    return labels.bincount().max().item() / len(labels)


def topk(scores: Float[Tensor, "S Q"], labels: Int[Tensor, " S"], k: int) -> float:
    """Fraction of rows whose label is among the k largest scores."""
    return (scores.topk(k, dim=-1).indices == labels[:, None]).any(-1).double().mean().item()
