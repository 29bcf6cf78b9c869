"""A fine-tuning and the same from random weights -> one result with the paired difference.

The twins stand in the row `random`, as the untrained nets of a probe do. It needs torch.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ssvid.errors import UserError
from ssvid.results.evidence import find_differences, make_gains
from ssvid.results.schema import Answers, Result, Score
from ssvid.statistics import (
    GroupSums,
    Spread,
    are_few_sources,
    find_score_interval,
    measure_noise,
    sum_by_group,
)

SINGLE = (
    "A single twin stands beside the encoder: how far other draws of random weights lie from it "
    "is in no interval. --twins 3 trains more of them."
)


def add_twins(result: Result, twins: Sequence[Result]) -> Result:
    """`twins`: results of the same fine-tuning from random weights, on the same test clips.

    Raises a UserError where files changed in between, so that other clips were tested.
    """
    for twin in twins:
        if (twin.test.paths, twin.test.labels) != (result.test.paths, result.test.labels):
            names = f"{result.encoder.argument} and {twin.encoder.argument}"
            raise UserError(
                f"{names} were tested on other clips: files of the data set changed in between. "
                "Mend them and run the command again."
            )
    test = join_answers(result.test, twins)
    score = average_scores(twins)
    rows = {"encoder": result.score, "random": score}
    better = sum(twin.score.value > result.score.value for twin in twins)
    return replace(
        result,
        controls={"random": score},
        gains=make_gains(find_differences(rows, test)),
        rank=1 + better,
        notes=[*result.notes, SINGLE] if len(twins) == 1 else result.notes,
        test=test,
    )


def join_answers(ours: Answers, twins: Sequence[Result]) -> Answers:
    """With the mean over twins of the right answers to each clip."""
    assert ours.correct is not None, "a fine-tuning has answers to single clips"
    mean = torch.stack(list(map(read_correct, twins))).mean(0)
    predictions = dict(ours.predictions or {})
    theirs = twins[0].test.predictions
    if len(twins) == 1 and theirs is not None:
        predictions["random"] = theirs["encoder"]
    correct = {**ours.correct, "random": [round(share, 9) for share in mean.tolist()]}
    return replace(ours, correct=correct, predictions=predictions)


def read_correct(result: Result) -> Float[Tensor, " S"]:
    """Which clips the encoder of a result names rightly."""
    assert result.test.correct is not None, "a fine-tuning has answers to single clips"
    return torch.tensor(result.test.correct["encoder"], dtype=torch.float64)


def average_scores(twins: Sequence[Result]) -> Score:
    """The mean of the twins. Its interval is over test groups, and over twins where they differ."""
    values, of_twins = [], []
    for twin in twins:
        values.append(twin.score.value)
        of_twins.append(sum_by_group(read_correct(twin), twin.test.groups))
    noise = measure_noise(of_twins)
    spread = Spread.measure(values, noise)
    mean = torch.stack(list(map(attrgetter("value"), of_twins))).mean(0)
    sums = GroupSums(mean, of_twins[0].weight)
    details: dict[str, Any] = {}
    for key, value in twins[0].score.details.items():
        if isinstance(value, float):
            details[key] = statistics.fmean(twin.score.details[key] for twin in twins)
    several = len(values) > 1
    variance = (spread.variance - spread.noise) / len(values)
    return Score(
        value=statistics.fmean(values),
        interval=find_score_interval(sums, extra_variance=variance),
        details=details,
        of_nets=values if several else None,
        noise_of_nets=noise if several else None,
        wide=are_few_sources(sums) or None,
    )
