"""Tests of differences and intervals of scores: by hand, against scipy, and what few groups say."""

import math
from itertools import product

import pytest
import torch
from scipy.stats import t as student

from ssvid.statistics import (
    GroupSums,
    Spread,
    are_few_sources,
    chance,
    choose_levels,
    compare_rows,
    find_score_interval,
    majority,
    mean_class_accuracy,
    measure_variance,
    sum_by_group,
    take_jackknife,
)
from ssvid.statistics.groups import MOST_BLOCKS


def sums_of(value: list[float], weight: list[float] | None = None) -> GroupSums:
    weights = weight or [1.0] * len(value)
    return GroupSums(
        torch.tensor(value, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
    )


def draw_sums(groups: int, share: float, seed: int = 0, size: int = 4) -> GroupSums:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(1, 2 * size, (groups,), generator=generator).double()
    value = torch.binomial(weight, torch.full_like(weight, share), generator=generator)
    return GroupSums(value, weight)


def flip_all(value: list[float], weight: list[float], difference: float) -> float:
    """p of a difference, from all sign patterns, as the definition has it."""
    gaps = [v - difference * w for v, w in zip(value, weight, strict=True)]
    observed, as_far = abs(sum(gaps)), 0
    for signs in product((1, -1), repeat=len(gaps)):
        total = sum(sign * part for sign, part in zip(signs, gaps, strict=True))
        as_far += abs(total) >= observed - 1e-9
    return as_far / 2 ** len(gaps)


def test_p_and_interval_are_those_of_all_sign_patterns():
    value, weight = [3.0, 1.5, -1.25, 4.0, 0.5, 2.0, 2.25, 0.25], [4.0, 3, 2, 5, 1, 4, 3, 2]
    difference = compare_rows(sums_of(value, weight), sums_of([0.0] * 8, weight))
    assert difference.estimate == pytest.approx(sum(value) / sum(weight))
    assert difference.p == pytest.approx(flip_all(value, weight, 0.0))
    for level in (0.05, 0.2):
        low, high = difference.find_interval(level)
        assert flip_all(value, weight, low - 1e-4) <= level < flip_all(value, weight, low + 1e-4)
        assert flip_all(value, weight, high + 1e-4) <= level < flip_all(value, weight, high - 1e-4)


def test_three_groups_by_hand():
    """All eight patterns are as likely; two of them are as far from 0 as 1 + 2 + 3."""
    difference = compare_rows(sums_of([0.1, 0.2, 0.3]), sums_of([0.0] * 3))
    assert difference.p == pytest.approx(0.25)
    assert difference.find_interval(0.05) == (-1.0, 1.0)
    assert difference.find_least_gain(0.05) is None
    nothing = compare_rows(sums_of([0.0] * 3), sums_of([0.0] * 3))
    assert nothing.p == 1.0


def test_one_group_shows_nothing():
    difference = compare_rows(sums_of([3.0], [4.0]), sums_of([1.0], [4.0]))
    assert difference.p == 1.0 and difference.find_interval(0.05) == (-1.0, 1.0)
    assert difference.find_least_gain(0.05) is None


@pytest.mark.parametrize("groups", [6, 9, 15, 16, 60, 700])
def test_what_is_shown_and_the_interval_never_contradict(groups: int):
    for seed in range(6):
        ours, theirs = draw_sums(groups, 0.5 + 0.03 * seed, seed), draw_sums(groups, 0.45, seed)
        spread = Spread.measure([0.4, 0.42, 0.44], noise=1e-4)
        for nets in (Spread(), spread):
            difference = compare_rows(ours, theirs, our_nets=Spread(count=1), their_nets=nets)
            for level in (0.3, 0.05, 0.05 / 7, difference.p, difference.p * 0.99):
                if level >= 1:
                    continue
                low, high = difference.find_interval(level)
                leaves_out_zero = low > 0 or high < 0
                assert leaves_out_zero == (difference.p <= level), (seed, level, difference.p)


def test_many_groups_come_near_students_interval():
    """With 300 groups the sign flips say nearly what Student's t says."""
    ours, theirs = draw_sums(300, 0.6, 1), draw_sums(300, 0.5, 1)
    difference = compare_rows(ours, theirs)
    gaps = GroupSums(ours.value - theirs.value, ours.weight)
    half = student.ppf(0.975, 299) * math.sqrt(measure_variance(gaps))
    low, high = difference.find_interval(0.05)
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)
    least = difference.find_least_gain(0.05)
    assert least == pytest.approx(half * (1.96 + 0.84) / 1.96, rel=0.06)


def test_more_groups_than_blocks_are_joined():
    """Groups that are joined say nearly the same, and nothing is lost."""
    ours, theirs = draw_sums(4 * MOST_BLOCKS, 0.6, 1), draw_sums(4 * MOST_BLOCKS, 0.5, 2)
    theirs = theirs._replace(weight=ours.weight, value=theirs.value.minimum(ours.weight))
    difference = compare_rows(ours, theirs)
    gaps = GroupSums(ours.value - theirs.value, ours.weight)
    assert difference.estimate == pytest.approx(gaps.mean)
    low, high = difference.find_interval(0.05)
    assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt(measure_variance(gaps)), rel=0.15)


def test_answers_that_never_differ_are_not_certainty():
    """480 clips of which none differs: a difference of 3.7 clips is not excluded."""
    same = sums_of([1.0] * 480)
    low, high = compare_rows(same, same).find_interval(0.05)
    assert high == -low == pytest.approx(-math.log(0.025) / 480)


def test_nets_and_draws_widen_the_interval():
    ours, theirs = draw_sums(480, 0.6, 1, size=1), draw_sums(480, 0.5, 2, size=1)
    alone = compare_rows(ours, theirs)
    twins = Spread.measure([0.46, 0.5, 0.54, 0.5])
    spread = compare_rows(ours, theirs, our_nets=Spread(count=1), their_nets=twins)
    t = student.ppf(0.975, 3)
    below, above = alone.find_half_widths(0.05)
    expected = math.hypot(below, t * math.sqrt(twins.variance * (1 + 1 / 4)))
    assert spread.find_half_widths(0.05)[0] == pytest.approx(expected)
    several = compare_rows(ours, theirs, our_nets=twins, their_nets=twins)
    leg = t * math.sqrt(twins.variance / 4)
    expected = math.hypot(above, leg, leg)
    assert several.find_half_widths(0.05)[1] == pytest.approx(expected)
    fixed = compare_rows(ours, theirs, our_nets=Spread(count=1), their_nets=Spread(count=1))
    assert fixed.find_interval(0.05) == alone.find_interval(0.05)
    draws = compare_rows(ours, theirs, paired=[Spread.measure([0.1, 0.12, 0.08])])
    assert draws.p >= alone.p and draws.find_half_widths(0.05)[0] > below


def test_two_twins_show_little():
    """One degree of freedom: Student's quantile is 12.7, so the interval is very wide."""
    ours, theirs = sums_of([1.0] * 400), sums_of([0.0] * 200 + [1.0] * 200)
    difference = compare_rows(
        ours, theirs, our_nets=Spread(count=1), their_nets=Spread.measure([0.48, 0.52])
    )
    half = 12.706 * math.sqrt(0.0008 * 1.5)
    assert difference.find_half_widths(0.05)[0] >= half


def test_holm_by_hand():
    """0.01 <= 0.05 / 3, but 0.03 > 0.05 / 2; what follows is tested at the level that failed."""
    p_values = [0.03, 0.01, 0.04]
    levels = choose_levels(p_values)
    assert levels == pytest.approx([0.025, 0.05 / 3, 0.025])
    assert [p <= level for p, level in zip(p_values, levels, strict=True)] == [False, True, False]


def test_the_interval_of_a_score_is_near_the_textbook_where_clips_are_independent():
    low, high = find_score_interval(sums_of([0.0] * 80 + [1.0] * 320))
    half = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert low == pytest.approx(0.8 - half, abs=0.006)
    assert high == pytest.approx(0.8 + half, abs=0.006)


def test_the_interval_of_a_score_is_wider_over_groups_that_stand_or_fall_together():
    groups = [str(i // 20) for i in range(400)]
    correct = (torch.arange(400) // 20) % 5 != 0  # 20 groups, all right or all wrong
    low, high = find_score_interval(sum_by_group(correct, list(map(str, range(400)))))
    low_of_groups, high_of_groups = find_score_interval(sum_by_group(correct, groups))
    assert high_of_groups - low_of_groups > 3 * (high - low)
    extra = find_score_interval(sum_by_group(correct, groups), extra_variance=0.1**2)
    assert extra[1] - extra[0] > 1.1 * (high_of_groups - low_of_groups)


def test_scores_without_spread_are_not_certain():
    for share in (0.0, 1.0):
        low, high = find_score_interval(sums_of([share] * 10))
        assert low <= share <= high and 0.2 < high - low < 0.5
    assert find_score_interval(sums_of([1.0])) == pytest.approx((0.0, 1.0), abs=1e-6)


def test_few_sources():
    assert are_few_sources(draw_sums(19, 0.5))
    assert not are_few_sources(draw_sums(40, 0.5))
    assert are_few_sources(sums_of([1.0] * 96 + [0.0] * 4))
    assert are_few_sources(sums_of([0.0] * 96 + [1.0] * 4))


def test_the_jackknife_of_a_mean_is_the_values_themselves():
    value = torch.tensor([0.1, 0.5, 0.9, 0.4], dtype=torch.float64)

    def measure(weights: torch.Tensor) -> torch.Tensor:
        return weights @ value / weights.sum(1)

    assert torch.allclose(take_jackknife(measure, 4), value)


def test_the_jackknife_of_a_metric_that_one_group_alone_defines():
    """Without group 0 there is no positive, so the metric is not defined: it is taken whole."""
    hits = torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64)

    def measure(weights: torch.Tensor) -> torch.Tensor:
        total = weights @ hits
        return torch.where(total > 0, total / weights.sum(1) / 3, torch.nan)

    pseudo_values = take_jackknife(measure, 3)
    assert pseudo_values.isfinite().all()
    assert pseudo_values.mean().item() == pytest.approx(1 / 3)


def test_chance_majority_and_the_mean_over_classes():
    labels = torch.tensor([3, 3, 3, 7, 9])  # of many classes, three are present
    assert chance(labels) == 1 / 3
    assert majority(labels) == 0.6
    correct = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0])
    assert mean_class_accuracy(correct, labels) == pytest.approx((2 / 3 + 1 + 0) / 3)
