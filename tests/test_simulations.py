"""The figures of docs/statistics.md: how often intervals hold the truth and equal nets differ."""

import pytest

from ssvid.statistics import find_score_interval
from tests.simulations import (
    SCORE_CELLS,
    TEST_GROUPS,
    ScoreCell,
    measure_coverage,
    measure_least_gain,
    measure_precision,
    measure_shown,
    measure_twins,
)

pytestmark = [pytest.mark.slow, pytest.mark.nightly]
RUNS = 2000
# A share that is p holds in RUNS runs within so much, in all but one of a thousand simulations.
CHANCE = 0.016


@pytest.mark.parametrize("cell", SCORE_CELLS, ids=str)
def test_intervals_of_scores_hold_the_truth(cell: ScoreCell):
    covered = measure_coverage(cell, {"ours": find_score_interval}, RUNS)["ours"]
    assert covered >= 0.90
    if cell.groups >= 42:
        assert 0.93 <= covered <= 0.98


@pytest.mark.parametrize("groups", TEST_GROUPS)
def test_equal_nets_are_seldom_shown_to_differ(groups: int):
    shown, _ = measure_shown(groups, gain=0.0, runs=RUNS)
    _, shown_after_holm = measure_shown(groups, gain=0.0, runs=RUNS // 2, rows=5)
    assert shown <= 0.06
    assert shown_after_holm <= 0.06


@pytest.mark.parametrize("groups", TEST_GROUPS[2:])
def test_the_least_gain_is_shown_in_about_four_of_five_tests(groups: int):
    _, power = measure_least_gain(groups, RUNS // 4)
    assert 0.65 <= power <= 0.95


@pytest.mark.parametrize("std", [0.0, 0.01, 0.02, 0.05])
@pytest.mark.parametrize("groups", [20, 42, 480])
def test_an_untrained_net_is_seldom_shown_to_differ_from_eight_others(groups: int, std: float):
    shown, _ = measure_twins(groups, 8, std, RUNS)
    assert shown <= 0.05 + CHANCE


@pytest.mark.parametrize(("clips", "prevalence"), [(80, 0.25), (80, 0.05), (300, 0.05)])
def test_intervals_of_average_precisions_hold_their_mean(clips: int, prevalence: float):
    """Not the precision of all clips there are: few clips lift it, which no interval mends."""
    precision = measure_precision(clips, prevalence, runs=150)
    assert precision.holds_mean >= 0.90
    assert precision.mean > precision.population
