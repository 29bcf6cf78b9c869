"""How often intervals hold the truth, and how often equal nets are called different: simulations.

`python -m tests.simulations` prints the tables of docs/statistics.md; the nightly tests hold the
figures. Groups have 1 + negative-binomial sizes (mean 8 below 20 groups, else 5). Answers of one
group are alike: `icc` is their correlation.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import stdtrit
from scipy.stats import norm

from benchmarks.metrics.ranking import mean_over, rank_table, score_equally
from ssvid.statistics import (
    GroupSums,
    Measure,
    Spread,
    choose_levels,
    compare_rows,
    find_score_interval,
    measure_noise,
    measure_variance,
    take_jackknife,
)
from tests.helpers import find_wilson

Interval = tuple[float, float]
LEVEL = 0.05
SHARED = 0.7  # part of the correlation within a group that two nets share: hard films are hard


class ScoreCell(NamedTuple):
    """One population of scores. `single`: every group is one clip."""

    groups: int
    icc: float
    share: float
    single: bool = False


SCORE_CELLS = (
    *(ScoreCell(groups, 0.3, 0.7) for groups in (6, 8, 12, 20, 42, 100)),
    *(ScoreCell(groups, 0.6, 0.8) for groups in (6, 8, 12, 20, 42, 100)),
    *(ScoreCell(groups, 0.6, 0.95) for groups in (6, 8, 12, 20, 42, 100)),
    ScoreCell(480, 0.0, 0.25, True),
    ScoreCell(480, 0.0, 0.9, True),
)
TEST_GROUPS = (6, 8, 12, 20, 42, 480)


def draw_sizes(rng: np.random.Generator, groups: int, single: bool = False) -> np.ndarray:
    if single:
        return np.ones(groups, dtype=int)
    beyond_one = (8 if groups < 20 else 5) - 1
    return 1 + rng.negative_binomial(2, 2 / (2 + beyond_one), size=groups)


def draw_score(rng: np.random.Generator, cell: ScoreCell) -> GroupSums:
    """Right answers and clips of each group, beta-binomial."""
    sizes = draw_sizes(rng, cell.groups, cell.single)
    share: Any = cell.share
    if cell.icc:
        concentration = 1 / cell.icc - 1
        share = rng.beta(
            cell.share * concentration, (1 - cell.share) * concentration, size=cell.groups
        )
    return make_sums(rng.binomial(sizes, share), sizes)


def make_sums(value: np.ndarray, weight: np.ndarray) -> GroupSums:
    return GroupSums(torch.tensor(value).double(), torch.tensor(weight).double())


def draw_nets(
    rng: np.random.Generator, groups: int, shares: Sequence[float], icc: float = 0.6
) -> list[GroupSums]:
    """Several nets on the same clips; `shares`: what each gets right of all clips there are."""
    sizes = draw_sizes(rng, groups, single=groups > 100)
    group = rng.normal(size=groups)
    nets = []
    for share in shares:
        of_net = rng.normal(size=groups)
        shift = math.sqrt(icc * SHARED) * group + math.sqrt(icc * (1 - SHARED)) * of_net
        probability = norm.cdf((norm.ppf(share) + shift) / math.sqrt(1 - icc))
        nets.append(make_sums(rng.binomial(sizes, probability), sizes))
    return nets


def measure_coverage(
    cell: ScoreCell, methods: dict[str, Callable[[GroupSums], Interval]], runs: int, seed: int = 0
) -> dict[str, float]:
    """Method -> share of the runs whose 95 % interval holds the true share."""
    rng = np.random.default_rng([seed, cell.groups, round(100 * cell.share)])
    covered = dict.fromkeys(methods, 0)
    for _ in range(runs):
        sums = draw_score(rng, cell)
        for name, method in methods.items():
            low, high = method(sums)
            covered[name] += low <= cell.share <= high
    return {name: count / runs for name, count in covered.items()}


def measure_shown(
    groups: int, gain: float, runs: int, rows: int = 1, seed: int = 0
) -> tuple[float, float]:
    """(share of first rows shown before Holm, share of runs with any row shown after it).

    An encoder that is `gain` better than each of `rows` equal controls.
    """
    rng = np.random.default_rng([seed, groups, rows, round(1000 * gain)])
    first, after = 0, 0
    for _ in range(runs):
        encoder, *controls = draw_nets(rng, groups, (0.7 + gain, *[0.7] * rows))
        p_values = [compare_rows(encoder, control).p for control in controls]
        levels = choose_levels(p_values)
        first += p_values[0] <= LEVEL
        after += any(p <= level for p, level in zip(p_values, levels, strict=True))
    return first / runs, after / runs


def measure_least_gain(groups: int, runs: int, seed: int = 0) -> tuple[float, float]:
    """(median least showable gain, share of runs shown where the true gain is that)."""
    rng = np.random.default_rng([seed, groups, 3])
    gains = []
    for _ in range(200):
        encoder, control = draw_nets(rng, groups, (0.6, 0.6))
        gain = compare_rows(encoder, control).find_least_gain(LEVEL)
        gains.append(math.inf if gain is None else gain)
    least = float(np.median(gains))
    shown = 0
    for _ in range(runs):
        encoder, control = draw_nets(rng, groups, (0.6 + min(least, 0.39), 0.6))
        shown += compare_rows(encoder, control).p <= LEVEL
    return least, shown / runs


def measure_twins(
    groups: int, twins: int, std: float, runs: int, gain: float = 0.0, seed: int = 0
) -> tuple[float, float]:
    """(share of runs that are shown, mean half-width) of a net against so many untrained twins.

    `std`: of what different nets get right of all clips there are; the net itself is one such draw,
    `gain` above the others.
    """
    rng = np.random.default_rng([seed, groups, twins, round(1000 * std), round(1000 * gain)])
    shown, width = 0, 0.0
    for _ in range(runs):
        shares = np.clip(rng.normal(0.55, std, size=twins + 1), 0.02, 0.98)
        shares[0] += gain
        encoder, *others = draw_nets(rng, groups, shares.tolist())
        mean = GroupSums(torch.stack([other.value for other in others]).mean(0), encoder.weight)
        spread = Spread.measure([other.mean for other in others], measure_noise(others))
        difference = compare_rows(encoder, mean, our_nets=Spread(count=1), their_nets=spread)
        shown += difference.p <= LEVEL
        width += sum(difference.find_half_widths(LEVEL)) / 2
    return shown / runs, width / runs


class Precision(NamedTuple):
    """What intervals of a mean average precision hold."""

    population: float  # of all clips there are
    mean: float  # of the samples: few clips lift an average precision
    holds_population: float  # share of the samples
    holds_mean: float


def draw_skewed(rng: np.random.Generator, groups: int, size: int) -> tuple[GroupSums, GroupSums]:
    """Two nets that get 70 % right of all clips there are. One of them fails wholly on one group in
    ten, so that the differences of groups are not symmetric. `size`: clips of a group.
    """
    sizes = np.full(groups, size)
    fails = rng.random(groups) < 0.1
    uneven = rng.binomial(sizes, np.where(fails, 0.0, 0.7 / 0.9))
    return make_sums(uneven, sizes), make_sums(rng.binomial(sizes, 0.7), sizes)


def measure_skewed(groups: int, size: int, runs: int, seed: int = 0) -> float:
    """Share of runs in which two such nets are called different."""
    rng = np.random.default_rng([seed, groups, size])
    shown = 0
    for _ in range(runs):
        shown += compare_rows(*draw_skewed(rng, groups, size)).p <= LEVEL
    return shown / runs


def measure_time(std: float, shuffled_std: float, runs: int, seed: int = 0) -> float:
    """Share of runs in which a net like its eight twins is said to use time.

    480 groups; two of the twins see shuffled clips. `std`, `shuffled_std`: of what different nets
    get right of all intact clips, and of all shuffled ones.
    """
    rng = np.random.default_rng([seed, round(1000 * std), round(1000 * shuffled_std)])
    shown = 0
    for _ in range(runs):
        shares = np.clip(rng.normal(0.55, std, 9), 0.02, 0.98)
        shuffled_shares = np.clip(rng.normal(0.3, shuffled_std, 3), 0.02, 0.98)
        nets = draw_nets(rng, 480, [*shares, *shuffled_shares])
        encoder, twins, shuffled = nets[0], nets[1:9], nets[9:]
        intact = torch.stack([twin.value for twin in twins]).mean(0)
        lost = torch.stack([twin.value for twin in shuffled[1:]]).mean(0)
        spread = Spread.measure([twin.mean for twin in twins], measure_noise(twins))
        difference = compare_rows(
            GroupSums(encoder.value - shuffled[0].value, encoder.weight),
            GroupSums(intact - lost, encoder.weight),
            our_nets=Spread(count=1),
            their_nets=replace(spread, count=2),
            largest=2.0,
        )
        shown += difference.p <= LEVEL
    return shown / runs


def measure_precision(
    clips: int, prevalence: float, runs: int, skill: float = 1.25, classes: int = 8
) -> Precision:
    """Rankers whose scores of a class lie `skill` standard deviations higher on its clips."""
    draw = torch.Generator().manual_seed(0)

    def rank(clips: int, groups: int) -> Measure:
        labels = torch.rand(clips, classes, generator=draw) < prevalence
        scores = torch.randn(clips, classes, generator=draw) + skill * labels
        return mean_over(rank_table(scores, labels, torch.arange(clips) % groups))

    everyone = 60_000
    population = score_equally(rank(everyone, 1), torch.zeros(everyone, dtype=torch.int64))
    scores, intervals = [], []
    for _ in range(runs):
        measure = rank(clips, clips)
        pseudo_values = take_jackknife(measure, clips)
        scores.append(score_equally(measure, torch.arange(clips)))
        intervals.append(
            find_score_interval(GroupSums(pseudo_values, torch.ones_like(pseudo_values)))
        )
    mean = float(np.mean(scores))
    low, high = np.array(intervals).T
    coverages = [float(((low <= truth) & (truth <= high)).mean()) for truth in (population, mean)]
    return Precision(population, mean, *coverages)


def find_logit_t(sums: GroupSums) -> Interval:
    """Student's t on the logit scale; Wilson's where all groups are alike."""
    share, variance = sums.mean, measure_variance(sums)
    if variance <= 0 or not 0 < share < 1:
        return find_wilson(share, len(sums.value))
    half = stdtrit(len(sums.value) - 1, 0.975) * math.sqrt(variance) / (share * (1 - share))
    logit = math.log(share / (1 - share))
    return 1 / (1 + math.exp(half - logit)), 1 / (1 + math.exp(-half - logit))


class Resampler:
    """Bootstraps over groups. Each falls back on Wilson's where all groups are alike."""

    def __init__(self, seed: int = 1, draws: int = 500) -> None:
        self.rng, self.draws = np.random.default_rng(seed), draws

    def draw(self, sums: GroupSums) -> tuple[np.ndarray, np.ndarray]:
        """(share, standard error) of each draw."""
        value, weight = sums.value.numpy(), sums.weight.numpy()
        groups = len(value)
        index = self.rng.integers(0, groups, (self.draws, groups))
        drawn, size = value[index], weight[index]
        share = drawn.sum(1) / size.sum(1)
        residual = drawn - share[:, None] * size
        variance = groups / (groups - 1) * (residual**2).sum(1) / size.sum(1) ** 2
        return share, np.sqrt(variance)

    def find_percentile(self, sums: GroupSums) -> Interval:
        if measure_variance(sums) <= 0:
            return find_wilson(sums.mean, len(sums.value))
        low, high = np.quantile(self.draw(sums)[0], [0.025, 0.975])
        return float(low), float(high)

    def find_bootstrap_t(self, sums: GroupSums) -> Interval:
        std = math.sqrt(measure_variance(sums))
        share, stds = self.draw(sums)
        usable = stds > 1e-9
        if std <= 0 or usable.sum() < self.draws / 2:
            return find_wilson(sums.mean, len(sums.value))
        low, high = np.quantile((share[usable] - sums.mean) / stds[usable], [0.025, 0.975])
        return max(0.0, sums.mean - high * std), min(1.0, sums.mean - low * std)

    def find_bca(self, sums: GroupSums) -> Interval:
        if measure_variance(sums) <= 0:
            return find_wilson(sums.mean, len(sums.value))
        share, mean = self.draw(sums)[0], sums.mean
        below = (share < mean).mean() + (share == mean).mean() / 2
        bias = norm.ppf(np.clip(below, 1 / self.draws, 1 - 1 / self.draws))
        value, weight = sums.value.numpy(), sums.weight.numpy()
        left_out = (value.sum() - value) / (weight.sum() - weight)
        offset = left_out.mean() - left_out
        skew = (offset**3).sum() / (6 * (offset**2).sum() ** 1.5 + 1e-30)
        ends = []
        for z in norm.ppf([0.025, 0.975]):
            level = norm.cdf(bias + (bias + z) / (1 - skew * (bias + z)))
            ends.append(float(np.quantile(share, level)))
        return ends[0], ends[1]


def print_coverage(runs: int) -> None:
    resampler = Resampler()
    methods: dict[str, Callable[[GroupSums], Interval]] = {
        "ours": find_score_interval,
        "logit-t": find_logit_t,
        "percentile": resampler.find_percentile,
        "bootstrap-t": resampler.find_bootstrap_t,
        "BCa": resampler.find_bca,
    }
    print("\n| groups | icc | share | " + " | ".join(methods) + " |\n" + "|---" * 8 + "|")
    for cell in SCORE_CELLS:
        covered = measure_coverage(cell, methods, runs)
        texts = [f"{100 * value:.1f}" for value in covered.values()]
        print(f"| {cell.groups} | {cell.icc} | {cell.share} | " + " | ".join(texts) + " |")


def print_tests(runs: int) -> None:
    print(
        "\n| groups | one row, no gain | any of 5 rows, Holm | +10 | +15 | least gain | its power |"
    )
    print("|---" * 7 + "|")
    for groups in TEST_GROUPS:
        alone, _ = measure_shown(groups, 0.0, runs)
        _, any_row = measure_shown(groups, 0.0, runs // 2, rows=5)
        powers = [measure_shown(groups, gain, runs // 4)[0] for gain in (0.1, 0.15)]
        least, power = measure_least_gain(groups, runs // 4)
        shares = " | ".join(f"{100 * share:.1f}" for share in (alone, any_row, *powers))
        print(f"| {groups} | {shares} | {100 * least:.1f} | {100 * power:.0f} |")


def print_twins(runs: int) -> None:
    print("\n| groups | twins | std of nets | shown, no gain | half-width | shown at +10 |")
    print("|---" * 6 + "|")
    for groups in (20, 42, 480):
        for twins in (2, 4, 8):
            for std in (0.0, 0.01, 0.02, 0.05):
                shown, width = measure_twins(groups, twins, std, runs)
                power, _ = measure_twins(groups, twins, std, runs // 4, gain=0.1)
                numbers = f"{100 * shown:.1f} | {100 * width:.1f} | {100 * power:.0f}"
                print(f"| {groups} | {twins} | {100 * std:.0f} | {numbers} |")


def print_limits(runs: int) -> None:
    """Where the promises do not hold: skewed differences, spread of shuffled clips, high scores."""
    print("\n| groups | skewed, 5 clips a group | skewed, 50 clips | .98 held, icc .3 | icc .6 |")
    print("|---" * 5 + "|")
    for groups in (8, 12, 20, 42, 100):
        texts = [f"{groups}"]
        for size in (5, 50):
            texts.append(f"{100 * measure_skewed(groups, size, runs):.1f}")
        for icc in (0.3, 0.6):
            cell = ScoreCell(groups, icc, 0.98)
            covered = measure_coverage(cell, {"ours": find_score_interval}, runs)["ours"]
            texts.append(f"{100 * covered:.1f}")
        print("| " + " | ".join(texts) + " |")
    print("\n| std of intact, of shuffled scores | time shown falsely |\n|---|---|")
    for std, shuffled_std in ((0.02, 0.0), (0.05, 0.0), (0.02, 0.02), (0.05, 0.05)):
        shown = measure_time(std, shuffled_std, runs // 4)
        print(f"| {100 * std:.0f}, {100 * shuffled_std:.0f} | {100 * shown:.1f} |")


def print_precisions(runs: int) -> None:
    print("\n| clips, prevalence | all clips | mean of samples | holds the former | the latter |")
    print("|---" * 5 + "|")
    for clips, prevalence in ((80, 0.25), (80, 0.05), (300, 0.05)):
        result = measure_precision(clips, prevalence, runs)
        scores = f"{100 * result.population:.1f} | {100 * result.mean:.1f}"
        shares = f"{100 * result.holds_population:.0f} | {100 * result.holds_mean:.0f}"
        print(f"| {clips}, {prevalence} | {scores} | {shares} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print_coverage(count)
    print_tests(count)
    print_twins(count)
    print_precisions(max(3 * count // 40, 1))
    print_limits(count)
