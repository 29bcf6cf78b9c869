import math

import pytest
import torch

from benchmarks.statistics import bootstrap, chance, majority, paired_difference, wilson


def test_close_to_the_textbook_where_clips_are_independent():
    correct = torch.arange(400) % 5 != 0  # 0.8
    low, high = bootstrap(correct, [str(i) for i in range(400)], seed=0)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert low == pytest.approx(0.8 - half, abs=0.01)
    assert high == pytest.approx(0.8 + half, abs=0.01)


def test_wider_over_groups_that_stand_or_fall_together():
    correct = (torch.arange(400) // 20) % 5 != 0  # 20 groups of 20 clips, all right or all wrong
    low, high = bootstrap(correct, [str(i) for i in range(400)], seed=0)
    low_g, high_g = bootstrap(correct, [str(i // 20) for i in range(400)], seed=0)
    assert high_g - low_g > 3 * (high - low)
    assert low_g < low < 0.8 < high < high_g


def test_has_coordinates_and_coverage():
    correct = torch.arange(100) ** 2 % 7 < 3
    groups = [str(i * i // 300) for i in range(100)]
    torch.manual_seed(1)
    first = bootstrap(correct, groups, seed=7)
    torch.manual_seed(2)
    assert bootstrap(correct, groups, seed=7) == first != bootstrap(correct, groups, seed=8)
    narrow = bootstrap(correct, groups, seed=7, level=0.5)
    assert first[0] < narrow[0] < narrow[1] < first[1]
    draws = torch.rand(200, 60, generator=torch.Generator().manual_seed(0)) < 0.7
    intervals = [bootstrap(row, [str(i) for i in range(60)], seed=0, draws=300) for row in draws]
    assert 0.88 < sum(low <= 0.7 <= high for low, high in intervals) / 200 < 0.99


def test_no_spread_is_not_certainty():
    low, high = bootstrap(torch.ones(40, dtype=torch.bool), [str(i // 4) for i in range(40)], seed=0)
    assert (low, high) == wilson(1.0, 10, 0.95)
    assert low == pytest.approx(0.7225, abs=1e-4) and high == pytest.approx(
        1.0
    )  # 10 groups of 10 right: the known value


def test_paired_difference_uses_that_the_clips_are_the_same():
    draw = torch.Generator().manual_seed(0)
    theirs = torch.rand(300, generator=draw) < 0.5
    ours = theirs | (torch.rand(300, generator=draw) < 0.1)  # never worse
    groups = [str(i) for i in range(300)]
    difference, low, high = paired_difference(ours, theirs, groups, seed=0)
    assert difference == pytest.approx((ours.double().mean() - theirs.double().mean()).item())
    assert 0 < low < difference < high
    alone = bootstrap(ours, groups, seed=0)
    assert high - low < 0.8 * (alone[1] - alone[0])  # pairing takes away what the clips share
    same = paired_difference(ours, ours, groups, seed=0)
    assert same == (0.0, 0.0, 0.0)


def test_chance_and_majority():
    labels = torch.tensor([3, 3, 3, 7, 9])  # of many classes, three are present
    assert chance(labels) == 1 / 3
    assert majority(labels) == 0.6
