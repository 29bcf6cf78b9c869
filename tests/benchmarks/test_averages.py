"""Means over folds and over pretraining seeds, from result files alone."""

from dataclasses import replace

import pytest
import torch

from benchmarks.reports.averages import average_results
from ssvid.results import Answers, Fold, Result
from tests.benchmarks.made import encoder_info, pick, result_of

GROUPS = [str(i // 4) for i in range(40)]


def result(
    correct: torch.Tensor, groups: list[str] = GROUPS, cell: str = "c", title: str = "net", **more
) -> Result:
    info = encoder_info(title, **more)
    return result_of(
        title,
        cell,
        {"encoder": correct.tolist(), "random": (correct * 0).tolist()},
        groups,
        encoder=info,
    )


def answers(seed: int, p: float) -> torch.Tensor:
    return (torch.rand(40, generator=torch.Generator().manual_seed(seed)) < p).double()


def folds(seed: int, **more) -> list[Result]:
    runs = []
    for n in (1, 2, 3):
        groups = [f"{n}/{group}" for group in GROUPS]
        run = result(answers(3 * seed + n, 0.6), groups, f"c.fold{n}", **more)
        runs.append(replace(run, fold=Fold(cell="c", number=n, folds=[1, 2, 3])))
    return runs


def test_folds_are_averaged_when_all_are_there():
    made = folds(0)
    assert average_results(made[:2]) == []
    (mean,) = average_results(made)
    assert mean.cell == "c" and mean.over == "folds 1, 2, 3" and mean.member_count == 3
    assert mean.score.value == pytest.approx(sum(fold.score.value for fold in made) / 3)
    low, high = mean.score.interval
    assert low < mean.score.value < high and high - low < 0.25 and mean.gains["random"].shown


def test_pretraining_seeds_are_averaged_with_their_spread():
    runs = [
        result(answers(n, p), title=f"s{n}", recipe="r", pretraining_seed=n)
        for n, p in ((0, 0.5), (1, 0.7))
    ]
    other = result(answers(5, 0.5), title="other", recipe="another", pretraining_seed=0)
    (mean,) = average_results([*runs, other])
    scores = torch.tensor([run.score.value for run in runs], dtype=torch.float64)
    assert mean.over == "pretraining seeds 0, 1" and mean.encoder.title == "s0 and 1 more"
    assert mean.score.value == pytest.approx(
        scores.mean().item()
    ) and mean.score.std == pytest.approx(scores.std())
    twice = [result(answers(n, 0.5), title=str(n), recipe="r", pretraining_seed=0) for n in (0, 1)]
    assert average_results(twice) == []  # one seed twice is no mean


def test_means_over_folds_are_averaged_over_seeds():
    made = [
        one
        for seed in (0, 1)
        for one in folds(seed, title=f"s{seed}", recipe="r", pretraining_seed=seed)
    ]
    first, second, *single, both = sorted(
        average_results(made), key=lambda mean: (mean.member_count or 0, mean.cell), reverse=True
    )
    assert (first.member_count, second.member_count, both.member_count) == (3, 3, 2) and len(
        single
    ) == 3  # the seeds of each fold, and of the means
    both = next(
        mean for mean in average_results(made) if mean.member_count == 2 and mean.cell == "c"
    )
    assert both.score.value == pytest.approx((first.score.value + second.score.value) / 2)
    assert both.score.interval[0] < both.score.value < both.score.interval[1]


def test_rankings_are_averaged_group_by_group():
    runs = []
    for n, value in ((0, 0.2), (1, 0.4)):
        run = result(answers(n, 0.5), title=str(n), recipe="r", pretraining_seed=n)
        of_groups = torch.linspace(value - 0.1, value + 0.1, 10).tolist()
        test = Answers(
            groups=sorted(set(GROUPS)), of_groups={"encoder": of_groups, "random": [0.1] * 10}
        )
        runs.append(replace(run, score=replace(run.score, value=value), test=test))
    (mean,) = average_results(runs)
    assert mean.score.value == pytest.approx(0.3)
    assert mean.test.of_groups is not None
    assert mean.test.of_groups["encoder"] == pytest.approx(torch.linspace(0.2, 0.4, 10).tolist())


def test_the_spread_of_seeds_is_in_the_interval():
    """Two seeds of 50 % and 90 %: Student's t with one degree of freedom shows nothing."""
    alike, apart = [], []
    for n, share in ((0, 0.5), (1, 0.9)):
        info = {"title": str(n), "pretraining_seed": n}
        alike.append(result(answers(n, 0.7), recipe="a", **info))
        apart.append(result(answers(n, share), recipe="b", **info))
    (mean_of_alike,), (mean_of_apart,) = average_results(alike), average_results(apart)
    assert mean_of_apart.score.of_nets == pick(apart, "score.value")
    assert not mean_of_apart.gains["random"].shown
    widths = []
    for mean in (mean_of_alike, mean_of_apart):
        low, high = mean.score.interval
        widths.append(high - low)
    assert widths[1] > widths[0]


def test_results_of_the_old_inference_have_no_mean():
    runs = []
    for n in (0, 1):
        run = result(answers(n, 0.5), title=str(n), recipe="r", pretraining_seed=n)
        runs.append(replace(run, inference="old"))
    assert average_results(runs) == []
