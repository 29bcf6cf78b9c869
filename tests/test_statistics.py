import math

import pytest
import torch

from ssvid.statistics import (
    bootstrap,
    chance,
    majority,
    newcombe,
    p_of_sign,
    paired_difference,
    spread_of_difference,
    spread_of_share,
    wilson,
)


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
    low, high = bootstrap(
        torch.ones(40, dtype=torch.bool), [str(i // 4) for i in range(40)], seed=0
    )
    assert (low, high) == wilson(1.0, 10, 0.95)
    known = (0.7225, 1.0)  # 10 groups of 10 are right
    assert (low, high) == pytest.approx(known, abs=1e-4)


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


def paired(ours, theirs, groups):
    """Each of so many groups has the same ten clips, of which so many are right."""
    names = [str(i) for i in range(groups) for _ in range(10)]
    right = [(torch.arange(10) < count).repeat(groups) for count in (ours, theirs)]
    return paired_difference(*right, names, seed=0)


def test_newcombe_by_hand():
    """z^2 = 3.8415. Wilson for 3 of 3: 3 / (3 + z^2) = 0.43850 to 1; for 0 of 3: 0 to 0.56150."""
    low, high = newcombe(1.0, 0.0, 3, 0.95)
    assert low == pytest.approx(1 - math.sqrt(2) * 0.56150, abs=1e-4) and high == pytest.approx(1.0)
    low, high = newcombe(56 / 70, 48 / 80, 75, 0.95)
    # Wilson for 0.8 and 0.6 of 75: 0.69589 to 0.87488 and 0.48688 to 0.70337
    assert low == pytest.approx(0.2 - math.hypot(0.8 - 0.69589, 0.70337 - 0.6), abs=1e-4)
    assert high == pytest.approx(0.2 + math.hypot(0.87488 - 0.8, 0.6 - 0.48688), abs=1e-4)


def test_no_spread_of_the_differences_is_not_certainty():
    difference, low, high = paired(8, 5, groups=8)
    assert (
        difference == pytest.approx(0.3)
        and (low, high) == newcombe(0.8, 0.5, 8, 0.95)
        and low < 0 < high
    )
    assert paired(10, 0, groups=40)[1] == pytest.approx(
        1 - math.sqrt(2) * 3.84146 / 43.84146, abs=1e-5
    )  # shown
    same, low, high = paired(5, 5, groups=100)
    assert (
        same == 0
        and low == pytest.approx(-high)
        and low == pytest.approx(-math.sqrt(2) * 0.09617, abs=1e-4)
    )


def test_few_groups_show_nothing():
    """Signs that all agree come by chance in 2 of 2^n cases: 6 % for 5 groups, 3 % for 6."""
    for groups in range(1, 6):
        assert paired(10, 0, groups)[1] <= 0 < paired(10, 0, groups)[2], groups
        assert paired(0, 10, groups)[1] < 0 <= paired(0, 10, groups)[2], groups
    assert paired(10, 0, 1)[1] == pytest.approx(
        1 - math.sqrt(2) * 3.84146 / 4.84146, abs=1e-5
    )  # -0.122
    assert paired(10, 0, 6)[1] > 0
    ours = torch.tensor([True] * 5 + [False])  # three groups of two, which differ
    assert paired_difference(ours, ~ours & ours, ["a", "a", "b", "b", "c", "c"], seed=0)[1] == 0


def test_chance_and_majority():
    labels = torch.tensor([3, 3, 3, 7, 9])  # of many classes, three are present
    assert chance(labels) == 1 / 3
    assert majority(labels) == 0.6


def test_redrawn_numbers_of_few_groups_show_nothing():
    """As of accuracies: 2 of 2^n draws have all signs alike by chance, and no spread is not no
    doubt.
    """
    same, more = torch.full((100,), 0.5), torch.full((100,), 0.9)
    assert (
        spread_of_difference(more, same, 5)[0] <= 0 < spread_of_difference(more, same, 40)[0] < 0.4
    )
    assert spread_of_difference(same + torch.linspace(0.01, 0.1, 100), same, 5)[0] == 0
    assert (
        spread_of_share(torch.ones(100), 3)[0] < 0.5 and spread_of_share(torch.ones(100), 3)[1] == 1
    )
    assert p_of_sign(more - same, 3) == 0.25 and p_of_sign(more - same, 40) == pytest.approx(
        2 / 101
    )
