"""correct answers -> what they are worth: intervals over groups, paired differences, the share a guess gets.

Clips of one source video are not independent, so whole groups are resampled. The draws have coordinates: the same
answers and seed give the same interval on every machine.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssvid.randomness import uniform

CHUNK = 100  # draws at once, so that thousands of groups fit
Measure = Callable[
    [Float[Tensor, "W G"]], Float[Tensor, " W"]
]  # how much each group counts -> the metric
Correct = (
    Bool[Tensor, " S"] | Float[Tensor, " S"]
)  # right or wrong, or the share of several answers that was right


def bootstrap(
    correct: Correct, groups: list[str], seed: int, draws: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the accuracy, groups resampled with replacement.

    Where every group has the same accuracy (all right, all wrong) resampling shows no spread at all although n groups
    say little: then Wilson's interval for n trials.
    """
    value, weight = by_group(correct.double(), groups)
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
    """(difference of accuracies, low, high) on the same clips: the groups drawn are the same for both.

    Where every group has the same difference resampling shows no spread, as above: then Newcombe's interval for n
    trials each. And n groups that all agree on a sign do so by chance in 2 of 2^n cases: as long as that is more than
    1 - level (fewer than 6 groups at 95 %), zero stays in the interval.
    """
    value, weight = by_group(ours.double() - theirs.double(), groups)
    share, n = value / weight, len(value)
    difference = (value.sum() / weight.sum()).item()
    if (share == share[0]).all():
        low, high = newcombe(ours.double().mean().item(), theirs.double().mean().item(), n, level)
    else:
        low, high = interval(value, weight, seed, draws, level)
    return difference, *few(low, high, n, level)


def few(low: float, high: float, groups: int, level: float = 0.95) -> tuple[float, float]:
    """An interval of a difference that holds zero as long as the groups are too few to show any."""
    return (min(low, 0.0), max(high, 0.0)) if 2 / 2**groups > 1 - level else (low, high)


def by_group(
    values: Float[Tensor, " S"], groups: list[str]
) -> tuple[Float[Tensor, " G"], Float[Tensor, " G"]]:
    """(sum, number of clips) of each group."""
    place = torch.tensor(numbered(groups))
    total = torch.zeros(len(set(groups)), dtype=torch.float64)
    return total.index_add(0, place, values), total.index_add(0, place, torch.ones_like(values))


def numbered(groups: list[str]) -> list[int]:
    """The place of each group's name among all of them, sorted."""
    names = {name: i for i, name in enumerate(sorted(set(groups)))}
    return [names[name] for name in groups]


def redrawn(measure: Measure, groups: int, seed: int, draws: int = 1000) -> Float[Tensor, " draws"]:
    """A number that is no average (a mean average precision) on redrawn groups, the same draws for every row."""
    found = []
    for start in range(0, draws, CHUNK):
        rows = torch.arange(start, min(start + CHUNK, draws))
        drawn = (uniform(seed, "bootstrap", 0, rows, groups) * groups).long()  # W G
        times = torch.zeros(len(rows), groups, dtype=torch.float64)
        found.append(measure(times.scatter_add_(1, drawn, torch.ones_like(times))))
    return torch.cat(found)


def spread(values: Float[Tensor, " draws"], level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of redrawn numbers; a draw without anything to be found has none (NaN)."""
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = values.double().nanquantile(ends).tolist()
    return low, high


def spread_of_share(
    values: Float[Tensor, " draws"], groups: int, level: float = 0.95
) -> tuple[float, float]:
    """Of a number in 0 to 1. Where no redrawing differs, Wilson's interval for as many trials as groups."""
    low, high = spread(values, level)
    return wilson(low, groups, level) if low == high else (low, high)


def spread_of_difference(
    ours: Float[Tensor, " draws"], theirs: Float[Tensor, " draws"], groups: int, level: float = 0.95
) -> tuple[float, float]:
    """As `paired_difference` has it, of redrawn numbers in 0 to 1."""
    low, high = spread(ours - theirs, level)
    if low == high:
        low, high = newcombe(ours.nanmean().item(), theirs.nanmean().item(), groups, level)
    return few(low, high, groups, level)


def turned(change: Float[Tensor, " draws"], groups: int) -> float:
    """Two-sided p of no difference: how often its sign turns in the redrawings. n groups show no less than 2 / 2^n."""
    change = change[~change.isnan()]
    least = min(int((change <= 0).sum()), int((change >= 0).sum()))
    return min(1.0, max(2 * (least + 1) / (len(change) + 1), 2 / 2**groups))


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
    """Two-sided p of no difference: how often randomly signed group differences sum up to as much as is seen."""
    value = value[value != 0]
    if not len(value):
        return 1.0
    seen, as_large = value.sum().abs() - 1e-9, 0
    for start in range(0, draws, CHUNK):
        rows = torch.arange(start, min(start + CHUNK, draws))
        signs = (uniform(seed, "sign_flip", 0, rows, len(value)) < 0.5).double() * 2 - 1  # draws G
        as_large += int(((signs @ value).abs() >= seen).sum())
    return (as_large + 1) / (draws + 1)


def wilson(share: float, n: int, level: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion seen in n trials."""
    z = math.sqrt(2) * torch.erfinv(torch.tensor(level, dtype=torch.float64)).item()
    middle, half = (
        share + z * z / (2 * n),
        z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)),
    )
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return max(0.0, min(low, share)), min(
        1.0, max(high, share)
    )  # rounding may put an end past the share itself


def newcombe(ours: float, theirs: float, n: int, level: float) -> tuple[float, float]:
    """Hybrid score interval of a difference of proportions, from their two Wilson intervals.

    Newcombe 1998, Statistics in Medicine 17:873-890, method 10: as if unpaired, so wider where both err on
    the same clips.
    """
    low, high = wilson(ours, n, level)
    their_low, their_high = wilson(theirs, n, level)
    below, above = (
        math.hypot(ours - low, their_high - theirs),
        math.hypot(high - ours, theirs - their_low),
    )
    return ours - theirs - below, ours - theirs + above


def chance(labels: Int[Tensor, " S"]) -> float:
    """Accuracy of a blind guess: one over the number of classes present."""
    return 1 / len(labels.unique())


def majority(labels: Int[Tensor, " S"]) -> float:
    """Accuracy of always naming the largest class."""
    return labels.bincount().max().item() / len(labels)


def topk(scores: Float[Tensor, "S Q"], labels: Int[Tensor, " S"], k: int) -> float:
    """Share of rows whose label is among the k largest scores."""
    return (scores.topk(k, dim=-1).indices == labels[:, None]).any(-1).double().mean().item()
