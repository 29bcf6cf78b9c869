"""Means over folds and over pretraining seeds, from result files alone."""

import pytest
import torch

from benchmarks.reports.averages import averages
from ssvid.results import BENCH

FOLD = {"of": "c", "folds": [1, 2, 3]}
GROUPS = [str(i // 4) for i in range(40)]


def result(correct: torch.Tensor, groups=GROUPS, **more):
    encoder = {"title": more.pop("title", "net"), "hash": more.pop("hash", "h")} | more.pop("of", {})
    entry = {"top1": correct.mean().item(), "interval": (0.0, 1.0)}
    rows = {"encoder": correct.tolist(), "random": (correct * 0).tolist()}
    plain = {key: None for key in ("protocol", "git", "leak", "cost", "command")}
    return {
        "kind": BENCH, "cell": "c", "metric": "top1", "chance": 0.25, "seed": 0, "protocol_hash": "p", **plain, **entry,
        "controls": {"random": {"top1": 0.0}}, "encoder": encoder, "data": {"hash": "d"},
        "test": {"groups": groups, "correct": rows}, **more,
    }  # fmt: skip


def answers(seed: int, p: float) -> torch.Tensor:
    return (torch.rand(40, generator=torch.Generator().manual_seed(seed)) < p).double()


def test_folds_are_averaged_when_all_are_there():
    folds = [
        result(answers(n, 0.6), [f"{n}/{g}" for g in GROUPS], cell=f"c.fold{n}") | {"fold": {**FOLD, "number": n}}
        for n in (1, 2, 3)
    ]
    assert averages(folds[:2]) == []
    (mean,) = averages(folds)
    assert mean["cell"] == "c" and mean["over"] == "folds 1, 2, 3" and mean["of"] == 3
    assert mean["top1"] == pytest.approx(sum(fold["top1"] for fold in folds) / 3)
    low, high = mean["interval"]
    assert low < mean["top1"] < high and high - low < 0.25 and mean["gains"]["random"]["shown"]


def test_pretraining_seeds_are_averaged_with_their_spread():
    runs = [
        result(answers(n, p), title=f"s{n}", hash=str(n), of={"recipe": "r", "pretraining_seed": n})
        for n, p in ((0, 0.5), (1, 0.7))
    ]
    other = result(answers(5, 0.5), title="other", hash="5", of={"recipe": "another", "pretraining_seed": 0})
    (mean,) = averages([*runs, other])
    scores = torch.tensor([run["top1"] for run in runs], dtype=torch.float64)
    assert mean["over"] == "pretraining seeds 0, 1" and mean["encoder"]["title"] == "s0 and 1 more"
    assert mean["top1"] == pytest.approx(scores.mean().item()) and mean["std"] == pytest.approx(scores.std().item())


def test_one_seed_twice_is_no_mean():
    runs = [result(answers(n, 0.5), hash=str(n), of={"recipe": "r", "pretraining_seed": 0}) for n in (0, 1)]
    assert averages(runs) == []


def test_rankings_are_averaged_by_their_redrawings():
    runs = []
    for n, value in ((0, 0.2), (1, 0.4)):
        run = result(answers(n, 0.5), hash=str(n), of={"recipe": "r", "pretraining_seed": n}) | {"top1": value}
        draws = torch.linspace(value - 0.1, value + 0.1, 101).tolist()
        runs.append(run | {"test": {"groups": sorted(set(GROUPS)), "draws": {"encoder": draws, "random": [0.0] * 101}}})
    (mean,) = averages(runs)
    assert mean["top1"] == pytest.approx(0.3) and mean["interval"] == pytest.approx((0.205, 0.395))
