"""Probes of a few labelled clips: leave-one-out in closed form is what leaving out gives."""

import pytest
import torch

from benchmarks.probes import few_labels
from benchmarks.probes.few_labels import (
    RULES,
    Shots,
    answer_draws,
    find_rule,
    learn_neighbours,
    learn_prototypes,
    learn_ridge,
)
from ssvid.errors import UserError
from ssvid.registry import probes
from ssvid.shapes import Frozen
from tests.helpers import facts


def make_split(rows, seed, scale=1.0):
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(rows) % 3
    x = torch.randn(rows, 20, generator=draw) + scale * 3 * torch.eye(20)[y]
    noise = torch.randn(rows, 6, generator=draw)
    return Frozen({"mean@2": noise, "mean@last": noise.roll(1, 0), "time@last": x}, y, [""] * rows)


def make_shots(unit):
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(12) % 3
    x = torch.randn(12, 20, generator=draw, dtype=torch.float64) + torch.eye(20)[y]
    queries = torch.randn(5, 20, generator=draw, dtype=torch.float64)
    if unit:
        x, queries = (torch.nn.functional.normalize(f, dim=1) for f in (x, queries))
    return x, queries, y, Shots(x @ x.T, queries @ x.T, y, 3)


def watch_ranks(monkeypatch):
    """The scores by which settings are compared, in order."""
    scores, real = [], few_labels.rank_by_leaving_out
    monkeypatch.setattr(
        few_labels, "rank_by_leaving_out", lambda *args: scores.append(args[1]) or real(*args)
    )
    return scores


def test_ridge_leaves_out_as_if_it_were_trained_again(monkeypatch):
    """With the penalty of all clips, which the mean eigenvalue of all of them fixes."""
    x, queries, y, shots = make_shots(unit=False)
    scores = watch_ranks(monkeypatch)
    outcome = learn_ridge(shots)
    centred = x - x.mean(0)
    mean = (centred.square().sum() / len(x)).item()
    target = torch.eye(3, dtype=torch.float64)[y]

    def solve(rows, penalty, features):
        a, b = x[rows] - x[rows].mean(0), target[rows] - target[rows].mean(0)
        w = torch.linalg.solve(a.T @ a + penalty * mean * torch.eye(20), a.T @ b)
        return (features - x[rows].mean(0)) @ w + target[rows].mean(0)

    for number, penalty in ((0, 1e-4), (3, 0.1), (5, 10.0)):
        for i in range(len(x)):
            rows = torch.tensor([j for j in range(len(x)) if j != i])
            expected = solve(rows, penalty, x[i])
            torch.testing.assert_close(scores[number][i], expected, rtol=1e-4, atol=1e-6)
    everything = solve(torch.arange(len(x)), outcome.setting["lambda"], queries)
    torch.testing.assert_close(outcome.scores, everything, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("learn", [learn_prototypes, learn_neighbours])
def test_a_clip_that_is_left_out_is_named_by_the_others(learn, monkeypatch):
    x, queries, y, shots = make_shots(unit=True)
    scores = watch_ranks(monkeypatch)
    outcome = learn(shots)
    left_out = scores[0] if learn is learn_prototypes else scores[1]  # 1, then 3 neighbours
    for i in range(len(x)):
        rows = torch.tensor([j for j in range(len(x)) if j != i])
        if learn is learn_prototypes:
            sums = torch.eye(3, dtype=torch.float64)[y[rows]].T @ x[rows]
            expected = torch.nn.functional.normalize(sums, dim=1) @ x[i]
        else:
            expected = torch.zeros(3, dtype=torch.float64)
            cosine = x[rows] @ x[i]
            for j in cosine.argsort(descending=True)[:3].tolist():
                expected[y[rows[j]]] += (cosine[j] / 0.07).exp()
        torch.testing.assert_close(left_out[i], expected)
    assert outcome.scores.shape == (5, 3) and len(queries) == 5


@pytest.mark.parametrize("rule", RULES)
def test_the_pooling_is_chosen_inside_the_few_and_fixed_for_one_shot(rule):
    train, test = make_split(90, 0), make_split(60, 1)
    draws = [torch.arange(12) + 12 * i for i in range(4)]
    answers = answer_draws(rule, train, test, draws)
    assert [setting["pooling"] for setting in answers.settings] == ["time@last"] * 4
    assert (answers.predictions == test.labels).double().mean() > 0.8
    single = answer_draws(rule, train, test, [torch.arange(3)]).settings[0]
    assert single["pooling"] == "mean@last"  # the last layer, though it is not the first key
    assert single.get("k", 1) == 1 and single.get("lambda", 1.0) == 1.0


@pytest.mark.parametrize("rule", RULES)
def test_products_that_are_not_kept_give_the_same_answers(rule, monkeypatch):
    train, test = make_split(90, 0), make_split(60, 1)
    draws = [torch.arange(9) + 5 * i for i in range(3)]
    whole = answer_draws(rule, train, test, draws)
    monkeypatch.setattr(few_labels, "WHOLE", 10)
    again = answer_draws(rule, train, test, draws)
    assert torch.equal(again.predictions, whole.predictions) and again.settings == whole.settings


@pytest.mark.parametrize("rule", RULES)
def test_few_labels_of_noise_are_at_chance(rule):
    train, test = make_split(90, 0, scale=0.0), make_split(600, 1, scale=0.0)
    draws = [torch.arange(24) + 3 * i for i in range(20)]
    top1 = (answer_draws(rule, train, test, draws).predictions == test.labels).double().mean()
    assert 0.28 < top1 < 0.39


def test_other_probes_and_settings_are_refused():
    for name in RULES:
        assert find_rule(probes[name](), "few_shot") == name
    with pytest.raises(UserError, match=facts("prototypes", "linear", "knn")):
        find_rule(probes["coclr"](), "few_shot")
    with pytest.raises(UserError, match=facts("knn")):
        find_rule(probes["knn"](preset="dino"), "few_shot")
