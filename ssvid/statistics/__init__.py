"""Answers -> intervals, tests of differences, and p-values, over groups of test clips.

Clips of one source video are not independent, so groups of clips are what is counted. Random signs
have coordinates: the same answers give the same interval on every machine.

- `groups.py`: answers of clips -> what each group adds; rankings -> jackknife pseudo-values.
- `scores.py`: the interval of one score.
- `differences.py`: the sign-flip test of a difference, and the interval that inverts it.
- `holm.py`: p-values -> the level at which each of several differences is tested.
- `accuracy.py`: top-k, mean-class accuracy, chance and the largest class.

docs/statistics.md says why each was chosen, with the simulations.
"""

from ssvid.statistics.accuracy import chance, majority, mean_class_accuracy, topk
from ssvid.statistics.differences import Difference, Spread, compare_rows, find_least_p
from ssvid.statistics.groups import (
    TOO_FEW_GROUPS,
    GroupSums,
    Measure,
    are_few_sources,
    index_groups,
    sum_by_group,
    take_jackknife,
)
from ssvid.statistics.holm import choose_levels
from ssvid.statistics.scores import find_score_interval, measure_noise, measure_variance

__all__ = [
    "TOO_FEW_GROUPS",
    "Difference",
    "GroupSums",
    "Measure",
    "Spread",
    "are_few_sources",
    "chance",
    "choose_levels",
    "compare_rows",
    "find_least_p",
    "find_score_interval",
    "index_groups",
    "majority",
    "mean_class_accuracy",
    "measure_noise",
    "measure_variance",
    "sum_by_group",
    "take_jackknife",
    "topk",
]
