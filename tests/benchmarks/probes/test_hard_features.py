"""Features as real encoders give them: a dominant direction, a still background, quiet columns."""

import pytest
import torch

from benchmarks.probes.directions import count_dominant, find_directions
from benchmarks.probes.grids import describe_edge, find_next_value
from benchmarks.probes.linear import Linear
from benchmarks.probes.ridge import decompose, fit_logits
from benchmarks.probes.standardizer import Standardizer
from ssvid.registry import probes
from ssvid.shapes import Frozen

CASES = {  # train clips, columns, classes, scale of the class centres
    "few_columns": (500, 96, 4, 0.3),
    "many_classes": (600, 128, 10, 0.3),
    "wide": (192, 768, 12, 0.25),
    "very_wide": (100, 1500, 3, 0.2),
}


def make_splits(case, seed, change=lambda x, draw: x):
    """Class centres in noise, after a change of the columns."""
    rows, dim, classes, scale = CASES[case]
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=draw) * scale
    splits = []
    for size in (rows, 300, 2000):
        y = torch.randint(classes, (size,), generator=draw)
        x = centres[y] + torch.randn(size, dim, generator=draw)
        changes = torch.Generator().manual_seed(seed * 1000 + size)
        splits.append(Frozen({"mean@last": change(x, changes)}, y, [""] * size))
    return splits


def add_direction(x, draw, number=1, scale=100.0):
    """x + 100 x (constant direction x random scalar), for some directions."""
    directions = torch.randn(number, x.shape[1], generator=torch.Generator().manual_seed(5))
    return x + scale * torch.randn(len(x), number, generator=draw) @ directions


def score(name, splits):
    return probes[name]().run(*splits, 0).metrics["test/top1"]


@pytest.mark.parametrize("name", ["linear", "knn"])
@pytest.mark.parametrize("case", CASES)
def test_a_dominant_direction_costs_less_than_a_point(name, case):
    plain, hard = [], []
    for seed in range(2):
        plain.append(score(name, make_splits(case, seed)))
        hard.append(score(name, make_splits(case, seed, add_direction)))
    assert min(plain) > 0.7
    assert sum(hard) / 2 == pytest.approx(sum(plain) / 2, abs=0.01)


def test_two_dominant_directions_and_signal_that_dominates():
    def add_two(x, draw):
        return add_direction(x, draw, number=2)

    for name in ("linear", "knn"):
        plain, hard = (
            score(name, make_splits("wide", 0)),
            score(name, make_splits("wide", 0, add_two)),
        )
        assert hard == pytest.approx(plain, abs=0.015)
        # Where the dominant directions are the classes, they are not thrown away.
        loud = make_splits("few_columns", 1, lambda x, draw: x)
        for split in loud:
            split.feats["mean@last"][:, :4] += 50 * torch.eye(4)[split.labels]
        assert score(name, loud) == 1.0


@pytest.mark.parametrize("columns", [60, 600])
def test_noise_of_a_still_background_leaves_the_score_as_it_is(columns):
    def add_still(x, draw):
        return torch.cat([x, torch.full((len(x), columns), 0.5)], 1)

    def add_noisy(x, draw):
        return torch.cat([x, 0.5 + 2e-3 * torch.randn(len(x), columns, generator=draw)], 1)

    still, noisy = [], []
    for seed in range(2):
        still.append(score("linear", make_splits("few_columns", seed, add_still)))
        noisy.append(score("linear", make_splits("few_columns", seed, add_noisy)))
    assert min(still) > 0.8
    assert sum(noisy) / 2 == pytest.approx(sum(still) / 2, abs=0.01)


def test_no_std_is_far_below_that_of_most_columns():
    x = torch.randn(500, 40) * torch.cat([torch.ones(30), torch.full((10,), 1e-4)])
    std = Standardizer(x).std
    assert std[30:].min() > 0.08 * std[:30].median()
    plain = Standardizer(x[:, :30])
    ratio = plain.std / x[:, :30].std(0, correction=0)
    torch.testing.assert_close(ratio, torch.full((30,), 30**0.5))


def test_directions_are_those_of_an_exact_decomposition():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(300, 50, generator=draw) * torch.linspace(10, 0.1, 50).square()
    variance, vectors, total = find_directions(x, 3)
    _, lengths, exact = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    torch.testing.assert_close(variance, lengths[:3].square() / 300, rtol=1e-3, atol=0)
    torch.testing.assert_close((vectors.T @ exact[:3].T).abs(), torch.eye(3), rtol=0, atol=0.02)
    assert total == pytest.approx(float(lengths.square().sum() / 300), rel=1e-4)
    assert count_dominant(torch.randn(300, 50, generator=draw)) == 0
    assert count_dominant(torch.ones(300, 50)) == 0


@pytest.mark.parametrize("rows, columns", [(80, 20), (20, 80)])
def test_ridge_is_the_solution_of_its_equations(rows, columns):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    y = torch.randint(3, (rows,), generator=draw)
    ridge = decompose(x, y, 3)
    weight, bias = ridge.compute_weight(0.1)
    centred, target = x - x.mean(0), torch.eye(3, dtype=torch.float64)[y]
    gram = centred.T @ centred
    penalty = 0.1 * gram.trace() / min(rows, columns)
    expected = torch.linalg.solve(
        gram + penalty * torch.eye(columns), centred.T @ (target - target.mean(0))
    )
    # Centring takes one row away where there are few rows, not a part of the trace.
    torch.testing.assert_close(weight.double(), expected, rtol=1e-4, atol=1e-6)
    scores = ridge.score(ridge.project(x), 0.1)
    torch.testing.assert_close(scores, x.float() @ weight + bias, rtol=1e-4, atol=1e-5)


def test_scores_become_logits_by_the_scale_of_the_least_cross_entropy():
    draw = torch.Generator().manual_seed(2)
    logits = torch.randn(20_000, 3, generator=draw) * 2
    labels = torch.distributions.Categorical(logits=logits)
    torch.manual_seed(0)
    scale, offset = fit_logits(logits / 7, labels.sample())
    assert scale == pytest.approx(7, rel=0.05) and offset == 0
    table = torch.distributions.Bernoulli(logits=logits - 1).sample().bool()
    scale, offset = fit_logits(logits / 7, table)
    assert scale == pytest.approx(7, rel=0.05) and offset == pytest.approx(-1, abs=0.1)
    assert fit_logits(torch.eye(3), torch.arange(3))[0] < 1e4  # told apart without an error


def test_a_choice_at_the_end_of_a_grid_asks_for_the_next_value():
    def list_settings(**scores):
        return [{"rate": float(r[1:]), "pooling": "a", "val/top1": v} for r, v in scores.items()]

    rising = list_settings(r1=0.1, r10=0.2, r100=0.3)
    assert find_next_value(rising, rising[-1], "rate") == 1000
    assert describe_edge(rising, rising[-1], "rate")[0].count("rate") == 2
    falling = list_settings(r1=0.3, r10=0.2, r100=0.1)
    assert find_next_value(falling, falling[0], "rate") == pytest.approx(0.1)
    for settled in (list_settings(r1=0.1, r10=0.3, r100=0.2), list_settings(r1=0.2, r10=0.2)):
        assert find_next_value(settled, settled[1], "rate") is None
    assert find_next_value(rising[:1], rising[0], "rate") is None


def test_the_grid_of_lambdas_grows_where_clips_are_about_as_many_as_columns():
    """Least squares without a penalty is at its worst there."""
    train, val, test = make_splits("few_columns", 0)
    few = Frozen({"mean@last": train.feats["mean@last"][:110]}, train.labels[:110], [""] * 110)
    result = Linear(rates=(1e-6,), min_steps=2, lambdas=(1e-3, 1e-2)).run(few, val, test, 0)
    lambdas = sorted({s["lambda"] for s in result.grid if s["solver"] == "ridge"})
    assert lambdas[:3] == pytest.approx([1e-3, 1e-2, 0.1])
    assert result.chosen["solvers"]["ridge"]["lambda"] > 0.05
    best = max(solver["val/top1"] for solver in result.chosen["solvers"].values())
    assert result.chosen["val/top1"] == best


def test_ridge_is_left_out_where_clips_and_columns_are_many(monkeypatch):
    monkeypatch.setattr("benchmarks.probes.ridge.LIMIT", 50)
    splits = make_splits("few_columns", 0)
    chosen = Linear(rates=(10.0,), min_steps=40).run(*splits, 0).chosen
    assert chosen["solver"] == "sgd" and isinstance(chosen["solvers"]["ridge"], str)
