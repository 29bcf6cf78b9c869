import math

import torch
from lightly.utils.benchmarking import knn_predict

from benchmarks.probes import knn
from benchmarks.probes.knn import KNN, find_neighbours
from ssvid import registry
from ssvid.shapes import Frozen


def task(rows, seed):
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (rows,), generator=draw)
    return Frozen({"mean@last": F[y] + torch.randn(rows, 16, generator=draw)}, y, [""] * rows)


F = torch.randn(4, 16, generator=torch.Generator().manual_seed(9)) * 0.7


def plain(query, bank, labels, k, temperature=0.07):
    """One query, written as the definition reads."""
    votes = [0.0] * 4
    cosines = [float(query @ row / (query.norm() * row.norm())) for row in bank]
    for i in sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]:
        votes[int(labels[i])] += math.exp(cosines[i] / temperature)
    return max(range(4), key=lambda q: votes[q])


def test_votes_are_those_of_the_definition_and_of_lightly():
    train, val, test = task(150, 0), task(60, 1), task(40, 2)
    got = KNN().run(train, val, test, 0)
    k = got.chosen["k"]
    bank, queries = train.feats["mean@last"], test.feats["mean@last"]
    assert got.predictions.tolist() == [plain(query, bank, train.labels, k) for query in queries]
    unit = torch.nn.functional.normalize
    theirs = knn_predict(unit(queries), unit(bank).T, train.labels, 4, knn_k=k, knn_t=0.07)[:, 0]
    assert torch.equal(got.predictions, theirs)


def test_k_is_capped_and_chosen_on_val():
    train, val, test = task(30, 0), task(60, 1), task(40, 2)
    got = registry.probes["knn"]().run(train, val, test, 0)
    assert [setting["k"] for setting in got.grid] == [1, 5, 10, 20, 30]
    assert got.chosen["val/top1"] == max(setting["val/top1"] for setting in got.grid)
    other = KNN().run(train, val, test._replace(labels=test.labels.roll(1)), 0)
    assert (other.chosen, other.grid) == (got.chosen, got.grid)
    assert other.metrics["test/top1"] < got.metrics["test/top1"]


def test_a_large_bank_is_searched_in_parts_with_the_same_result(monkeypatch):
    train, val, test = task(150, 0), task(60, 1), task(40, 2)
    whole = KNN().run(train, val, test, 0)
    near, index = find_neighbours(test.feats["mean@last"], train.feats["mean@last"], 20)
    monkeypatch.setattr(knn, "BANK", 16)  # fewer than the neighbours asked for
    monkeypatch.setattr(knn, "CHUNK", 7)
    parts = KNN().run(train, val, test, 0)
    assert (parts.chosen, parts.grid) == (whole.chosen, whole.grid)
    torch.testing.assert_close(parts.scores, whole.scores)
    again, places = find_neighbours(test.feats["mean@last"], train.feats["mean@last"], 20)
    assert torch.equal(places, index)
    torch.testing.assert_close(again, near)
