import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from benchmarks.probes import standardizer as standardizing
from benchmarks.probes.heads import compute_gradient, compute_logits, evaluate, select_best_half
from benchmarks.probes.linear import Linear
from benchmarks.probes.standardizer import Rows, Standardizer
from ssvid.errors import UserError
from ssvid.shapes import Frozen
from tests.helpers import find_wilson


def make_split(rows, seed, *, dim=32, classes=4, scale=0.4):
    """Class centres (the same for every seed) in noise."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99)) * scale
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (rows,), generator=draw)
    return Frozen(
        {"mean@last": centres[y] + torch.randn(rows, dim, generator=draw)},
        y,
        [str(i) for i in range(rows)],
    )


def small(**changes):
    return Linear(
        **{"rates": (1.0, 10.0, 30.0), "weight_decays": (0.0, 1e-2), "min_steps": 60, "batch": 64}
        | changes
    )


def test_hand_gradient_is_autograd():
    scores = torch.randn(7, 3, 5, dtype=torch.float64, requires_grad=True)  # B R Q
    y = torch.randint(5, (7,))
    loss = sum(F.cross_entropy(scores[:, r], y) for r in range(3))
    (expected,) = torch.autograd.grad(loss, scores)
    torch.testing.assert_close(compute_gradient(scores.detach(), y), expected)


def test_a_head_is_what_torch_trains():
    """One head against nn.Linear, autograd and the documented update written plainly."""
    x, y = make_split(100, 0).feats["mean@last"], make_split(100, 0).labels
    probe = small(rates=(7.0,), weight_decays=(0.02,), batch=100, epochs=30, min_steps=1, rungs=())
    heads, _ = probe.fit(x, y, x, y, 4, 0)
    net = torch.nn.Linear(32, 4)
    for p in net.parameters():
        torch.nn.init.zeros_(p)
    speed = [torch.zeros_like(p) for p in net.parameters()]
    for step in range(30):
        rate = 7.0 * (0.5 + 0.5 * math.cos(math.pi * step / 30))
        grads = torch.autograd.grad(F.cross_entropy(net(x), y), tuple(net.parameters()))
        with torch.no_grad():
            for v, g in zip(speed, grads, strict=True):
                v.mul_(0.9).sub_(0.1 * rate * g)
            net.weight.div_(1 + rate * 0.02).add_(speed[0])
            net.bias.add_(speed[1])
    torch.testing.assert_close(heads.weight[0], net.weight.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(heads.bias[0], net.bias.detach(), rtol=1e-3, atol=1e-4)


def test_batched_heads_equal_heads_trained_alone():
    train, val = make_split(200, 0), make_split(80, 1)
    args = train.feats["mean@last"], train.labels, val.feats["mean@last"], val.labels, 4, 3
    together, scores = small(rungs=()).fit(*args)
    for index, (rate, decay) in enumerate(small().grid):
        alone, score = small(rates=(rate,), weight_decays=(decay,), rungs=()).fit(*args)
        torch.testing.assert_close(together.weight[index], alone.weight[0], rtol=1e-4, atol=1e-5)
        assert scores[index] == score[0]


def test_the_race_keeps_the_better_half_and_says_when_others_left():
    train, val = make_split(200, 0), make_split(80, 1)
    args = train.feats["mean@last"], train.labels, val.feats["mean@last"], val.labels, 4, 3
    survivors, scores = small().fit(*args)
    whole, _ = small(rungs=()).fit(*args)
    assert sorted(score["trained"] for score in scores) == [0.25] * 3 + [0.5] + [1.0] * 2
    for head, index in enumerate(survivors.grid_index.tolist()):
        assert scores[index]["trained"] == 1.0
        torch.testing.assert_close(
            survivors.weight[head], whole.weight[index], rtol=1e-4, atol=1e-5
        )
    top1, loss = torch.tensor([0.5, 0.9, 0.5, 0.9]), torch.tensor([1.0, 3.0, 0.5, 2.0])
    assert select_best_half(top1, loss).tolist() == [1, 3]
    # With equal accuracy the lower loss stays.
    assert select_best_half(top1[:3], loss[:3]).tolist() == [1, 2]


def test_few_wide_clips_are_probed_in_their_span():
    """The span changes the cost, not the logits: the same head trained on all columns agrees."""
    train, val = make_split(60, 0, dim=400), make_split(50, 1, dim=400)
    standardizer = Standardizer(train.feats["mean@last"])
    x = standardizer(train.feats["mean@last"])
    assert x.shape == (60, 60)
    mean, std = train.feats["mean@last"].mean(0), train.feats["mean@last"].std(0, correction=0)
    full, full_val = [
        (f - mean) / std / 20 for f in (train.feats["mean@last"], val.feats["mean@last"])
    ]
    probe = small(rungs=())
    in_span, _ = probe.fit(x, train.labels, standardizer(val.feats["mean@last"]), val.labels, 4, 0)
    in_columns, _ = probe.fit(full, train.labels, full_val, val.labels, 4, 0)
    logits = compute_logits(in_span, standardizer(val.feats["mean@last"]))
    expected = compute_logits(in_columns, full_val)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_as_good_as_logistic_regression():
    train, val, test = (
        make_split(400, 0, scale=0.3),
        make_split(300, 1, scale=0.3),
        make_split(2000, 2, scale=0.3),
    )
    ours = Linear(min_steps=200).run(train, val, test, 0).metrics["test/top1"]
    solver = LogisticRegression(C=0.1, max_iter=200).fit(
        train.feats["mean@last"].numpy(), train.labels.numpy()
    )
    theirs = solver.score(test.feats["mean@last"].numpy(), test.labels.numpy())
    assert 0.5 < theirs < 0.95  # neither trivial nor hopeless
    assert ours > theirs - 0.02


def test_chance_on_noise():
    def noise(rows, seed):
        draw = torch.Generator().manual_seed(seed)
        return Frozen(
            {"mean@last": torch.randn(rows, 64, generator=draw)},
            torch.arange(rows) % 10,
            [""] * rows,
        )

    metrics = small().run(noise(500, 0), noise(200, 1), noise(2000, 2), 0).metrics
    low, high = find_wilson(0.1, 2000, 0.999)
    assert low < metrics["test/top1"] < high
    assert 0.4 < metrics["test/top5"] < 0.6


def test_selection_never_sees_test():
    train, val, test = make_split(200, 0), make_split(80, 1), make_split(80, 2)
    lied = test._replace(labels=test.labels.roll(1), feats={"mean@last": -test.feats["mean@last"]})
    honest, other = small().run(train, val, test, 0), small().run(train, val, lied, 0)
    assert (honest.chosen, honest.grid) == (other.chosen, other.grid)
    assert honest.metrics["test/top1"] > other.metrics["test/top1"] + 0.3


def test_statistics_come_from_train_alone():
    train = torch.randn(50, 8) * 3 + 5
    standardizer = Standardizer(train)
    torch.testing.assert_close(standardizer(train).mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(standardizer(train).square().sum(1).mean(), torch.tensor(1.0))
    assert standardizer(torch.full((3, 8), 1000.0)).min() > 10  # a shifted test set stays shifted


def test_ties_go_to_the_narrow_pooling_and_the_stronger_decay():
    train, val, test = (make_split(90, s, scale=9.0) for s in range(3))
    wide = [
        Frozen(f.feats | {"time@last": f.feats["mean@last"].repeat(1, 2)}, *f[1:])
        for f in (train, val, test)
    ]
    chosen = small(rungs=()).run(*wide, 0).chosen
    assert chosen.pop("solvers")["ridge"]["lambda"] >= 10.0
    assert chosen == {
        "solver": "sgd",
        "pooling": "mean@last",
        "dim": 32,
        "shrunk": 3,
        "least_std": 0.1,
        "rate": 1.0,
        "weight_decay": 1e-2,
        "val/top1": 1.0,
        "trained": 1.0,
    }


def test_a_diverged_head_scores_nothing_and_is_not_chosen():
    train, val, test = make_split(200, 0), make_split(80, 1), make_split(80, 2)
    probe = small(rates=(1e39, 10.0), weight_decays=(0.0,), rungs=(), lambdas=())
    result = probe.run(train, val, test, 0)
    assert result.chosen["rate"] == 10.0 or result.chosen["rate"] < 1
    assert result.grid[0]["val/top1"] == 0.0
    assert result.scores.isfinite().all()


def test_a_class_that_train_lacks_counts_as_wrong():
    train, val, test = make_split(200, 0), make_split(80, 1), make_split(80, 2)
    stranger = test._replace(labels=torch.full_like(test.labels, 9))
    assert (
        small()
        .run(train, val._replace(labels=val.labels * 0 + 9), stranger, 0)
        .metrics["test/top1"]
        == 0.0
    )
    heads, _ = small().fit(
        train.feats["mean@last"], train.labels, val.feats["mean@last"], val.labels, 4, 0
    )
    assert evaluate(heads, val.feats["mean@last"], val.labels)[0].max() > 0.5


def test_same_seed_same_result_and_empty_splits_are_refused():
    train, val, test = make_split(200, 0), make_split(80, 1), make_split(80, 2)
    first, again = small().run(train, val, test, 5), small().run(train, val, test, 5)
    assert torch.equal(first.scores, again.scores)
    empty = Frozen({"mean@last": torch.zeros(0, 32)}, torch.zeros(0, dtype=torch.int64), [])
    with pytest.raises(UserError, match="val split"):
        small().run(train, empty, test, 0)
    with pytest.raises(UserError, match="without a label"):
        small().run(train._replace(labels=train.labels - 1), val, test, 0)


def test_large_features_are_read_in_parts_with_the_same_result(monkeypatch):
    """Standardised as they are read: the same numbers; only the statistics differ, by rounding."""
    splits = []
    for split in map(make_split, (200, 80, 90), range(3)):
        feats = split.feats["mean@last"].half() * 9 + 100
        splits.append(split._replace(feats={"mean@last": feats}))
    whole = small().run(*splits, 0)
    monkeypatch.setattr(standardizing, "WHOLE", 0)
    monkeypatch.setattr(standardizing, "CHUNK", 33)
    standardizer = Standardizer(splits[0].feats["mean@last"])
    assert isinstance(standardizer.wrap(splits[0].feats["mean@last"]), Rows)
    std, mean = torch.std_mean(splits[0].feats["mean@last"].double(), 0, correction=0)
    torch.testing.assert_close(standardizer.mean, mean.float())
    torch.testing.assert_close(standardizer.std, std.float() * math.sqrt(32))
    chunked = small().run(*splits, 0)
    assert (chunked.chosen, chunked.grid) == (whole.chosen, whole.grid)
    torch.testing.assert_close(chunked.scores, whole.scores, rtol=1e-3, atol=1e-4)
