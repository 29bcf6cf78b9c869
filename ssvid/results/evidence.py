"""Rows of results -> their differences, tested; and Holm's rule over all gains of a table.

This is the only file that says which sources of chance stand between two rows of a result. It needs
torch, unlike the rest of this room but `provenance.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ssvid.results.schema import OLD_INFERENCE, Answers, Gain, Result, Score
from ssvid.statistics import (
    Difference,
    GroupSums,
    Spread,
    choose_levels,
    compare_rows,
    sum_by_group,
)
from ssvid.statistics.holm import ALPHA

# Controls that are the encoder itself on changed clips: where it is a mean of several runs, each
# run is compared with its own control.
SAME_NET = ("single_frame", "bag", "shuffled")
# Controls that stand in `time` alone.
TWIN_FRAMES = ("random_single_frame", "random_shuffled")
TIME = "time"  # the gain that tells of the use of time


def sum_row(test: Answers, row: str) -> GroupSums:
    """What each group adds to the number of a row."""
    if test.of_groups is not None:
        value = torch.tensor(test.of_groups[row], dtype=torch.float64)
        weights = test.weights or [1.0] * len(value)
        return GroupSums(value, torch.tensor(weights, dtype=torch.float64))
    correct = (test.correct or {})[row]
    return sum_by_group(torch.tensor(correct, dtype=torch.float64), test.groups)


def find_differences(rows: Mapping[str, Score], test: Answers) -> dict[str, Difference]:
    """Name of a gain -> the difference that it tells: of the encoder from each control, and `time`.

    `time` is (the encoder less its shuffled clips) less (the untrained nets less theirs).
    """
    differences = {}
    for name in rows:
        if name != "encoder" and name not in TWIN_FRAMES:
            differences[name] = _differ_from_control(rows, test, name)
    if {"shuffled", "random", "random_shuffled"} <= rows.keys():
        differences[TIME] = _differ_by_time(rows, test)
    return differences


def _differ_from_control(rows: Mapping[str, Score], test: Answers, name: str) -> Difference:
    ours, theirs = rows["encoder"], rows[name]
    paired = [pair_numbers(ours.of_draws, theirs.of_draws)]
    our_nets = their_nets = Spread()
    if name in SAME_NET:
        paired.append(pair_numbers(ours.of_nets, theirs.of_nets))
    else:
        our_nets, their_nets = spread_of_nets(ours), Spread()
        if theirs.of_nets:
            their_nets = spread_of_nets(theirs)
    return compare_rows(
        sum_row(test, "encoder"),
        sum_row(test, name),
        our_nets=our_nets,
        their_nets=their_nets,
        paired=paired,
    )


def _differ_by_time(rows: Mapping[str, Score], test: Answers) -> Difference:
    """Few twins see shuffled clips, so how widely twins differ is taken from all of them."""
    ours = _subtract(sum_row(test, "encoder"), sum_row(test, "shuffled"))
    theirs = _subtract(sum_row(test, "random"), sum_row(test, "random_shuffled"))
    of_runs = pair_numbers(rows["encoder"].of_nets, rows["shuffled"].of_nets)
    shuffled_twins = len(rows["random_shuffled"].of_nets or ()) or 1
    return compare_rows(
        ours,
        theirs,
        our_nets=of_runs if of_runs.freedom else Spread(count=1),
        their_nets=replace(spread_of_nets(rows["random"]), count=shuffled_twins),
        largest=2.0,
    )


def _subtract(first: GroupSums, second: GroupSums) -> GroupSums:
    return GroupSums(first.value - second.value, first.weight)


def spread_of_nets(score: Score) -> Spread:
    """Of a row that is the mean over several nets, or the row of a single net."""
    if not score.of_nets:
        return Spread(count=1)
    return Spread.measure(score.of_nets, score.noise_of_nets or 0.0)


def pair_numbers(ours: Sequence[float] | None, theirs: Sequence[float] | None) -> Spread:
    """The spread of the differences of numbers that belong together."""
    if not ours or not theirs or len(ours) != len(theirs):
        return Spread()
    return Spread.measure([a - b for a, b in zip(ours, theirs, strict=True)])


def differ_from_result(ours: Result, theirs: Result) -> Difference:
    """The encoder of one result less that of another, on the same test clips.

    Where a side is the mean over several pretraining seeds, their spread is in the interval.
    """
    return compare_rows(
        sum_row(ours.test, "encoder"),
        sum_row(theirs.test, "encoder"),
        our_nets=spread_of_nets(ours.score),
        their_nets=spread_of_nets(theirs.score),
        paired=[pair_numbers(ours.score.of_draws, theirs.score.of_draws)],
    )


def make_gain(difference: Difference, level: float) -> Gain:
    """`level`: at which Holm's rule tests it, such as 0.05."""
    return Gain(
        difference=difference.estimate,
        interval=difference.find_interval(level),
        shown=difference.p <= level,
        level=1 - level,
        p=difference.p,
        least=difference.find_least_gain(level),
    )


def make_gains(differences: Mapping[str, Difference]) -> dict[str, Gain]:
    """With Holm's rule over all of them."""
    levels = choose_levels([difference.p for difference in differences.values()])
    gains = {}
    for (name, difference), level in zip(differences.items(), levels, strict=True):
        gains[name] = make_gain(difference, level)
    return gains


def correct_gains(results: Sequence[Result], alpha: float = ALPHA) -> list[Result]:
    """The results of one table, with Holm's rule over all their gains.

    Means over seeds or folds say again what their members say, so they are corrected by
    themselves. Intervals, levels, `shown` and the least gains are set anew. Results of before
    schema 3 stay as they are, since nothing can be tested anew from one twin.
    """
    gains: dict[int, dict[str, Gain]] = {}
    for means in (False, True):
        differences: dict[tuple[int, str], Difference] = {}
        for index, result in enumerate(results):
            is_asked = result.gains and (result.over is not None) == means
            if not is_asked or result.inference == OLD_INFERENCE:
                continue
            for name, difference in find_differences(result.rows, result.test).items():
                differences[index, name] = difference
        levels = choose_levels([difference.p for difference in differences.values()], alpha)
        for ((index, name), difference), level in zip(differences.items(), levels, strict=True):
            gains.setdefault(index, {})[name] = make_gain(difference, level)
    corrected = []
    for index, result in enumerate(results):
        corrected.append(replace(result, gains=gains.get(index, result.gains)))
    return corrected
