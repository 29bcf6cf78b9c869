import math

import torch
from lightly.utils.benchmarking import knn_predict

from benchmarks.probes import knn
from benchmarks.probes.knn import KNN, find_neighbours
from ssvid import registry
from ssvid.shapes import Frozen


def make_split(rows, seed):
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (rows,), generator=draw)
    return Frozen({"mean@last": F[y] + torch.randn(rows, 16, generator=draw)}, y, [""] * rows)


F = torch.randn(4, 16, generator=torch.Generator().manual_seed(9)) * 0.7


def list_ks(result):
    return sorted({setting["k"] for setting in result.grid})


def plain(query, bank, labels, k, temperature=0.07):
    """One query, written as the definition reads."""
    votes = [0.0] * 4
    cosines = [float(query @ row / (query.norm() * row.norm())) for row in bank]
    for i in sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]:
        votes[int(labels[i])] += math.exp(cosines[i] / temperature)
    return votes.index(max(votes))


def test_votes_are_those_of_the_definition_and_of_lightly():
    train, val, test = make_split(150, 0), make_split(60, 1), make_split(40, 2)
    result = KNN(preset="dino").run(train, val, test, 0)
    k = result.chosen["k"]
    bank, queries = train.feats["mean@last"], test.feats["mean@last"]
    for query, prediction in zip(queries, result.predictions.tolist(), strict=True):
        assert prediction == plain(query, bank, train.labels, k)
    unit = torch.nn.functional.normalize
    theirs = knn_predict(unit(queries), unit(bank).T, train.labels, 4, knn_k=k, knn_t=0.07)[:, 0]
    assert torch.equal(result.predictions, theirs)


def test_k_is_capped_and_chosen_on_val():
    train, val, test = make_split(30, 0), make_split(60, 1), make_split(40, 2)
    result = registry.probes["knn"]().run(train, val, test, 0)
    assert list_ks(result) == [1, 5, 10, 20, 30]
    best = max(result.grid, key=lambda setting: setting["val/top1"])
    assert result.chosen["val/top1"] == best["val/top1"]
    other = KNN().run(train, val, test._replace(labels=test.labels.roll(1)), 0)
    assert (other.chosen, other.grid) == (result.chosen, result.grid)
    assert other.metrics["test/top1"] < result.metrics["test/top1"]


def test_a_large_bank_is_searched_in_parts_with_the_same_result(monkeypatch):
    train, val, test = make_split(150, 0), make_split(60, 1), make_split(40, 2)
    whole = KNN().run(train, val, test, 0)
    similarity, index = find_neighbours(test.feats["mean@last"], train.feats["mean@last"], 20)
    monkeypatch.setattr(knn, "BANK", 16)  # fewer than the neighbours asked for
    monkeypatch.setattr(knn, "CHUNK", 7)
    chunked = KNN().run(train, val, test, 0)
    assert (chunked.chosen, chunked.grid) == (whole.chosen, whole.grid)
    torch.testing.assert_close(chunked.scores, whole.scores)
    again, again_index = find_neighbours(test.feats["mean@last"], train.feats["mean@last"], 20)
    assert torch.equal(again_index, index)
    torch.testing.assert_close(again, similarity)


def test_published_presets_neither_centre_nor_take_directions_away():
    train, val, test = make_split(150, 0), make_split(60, 1), make_split(40, 2)
    shifted = []
    for split in (train, val, test):
        shifted.append(split._replace(feats={"mean@last": split.feats["mean@last"] + 20}))
    house, again = KNN().run(train, val, test, 0), KNN().run(*shifted, 0)
    assert again.metrics == house.metrics  # the mean of train is taken away
    published = KNN(preset="dino", ks=(20,))
    assert published.run(*shifted, 0).metrics != published.run(train, val, test, 0).metrics
    assert len(published.run(train, val, test, 0).grid) == 1


def test_k_grows_while_the_largest_is_best_and_more_neighbours_exist():
    """Weak classes need many neighbours."""
    train, val, test = make_split(400, 0), make_split(300, 1), make_split(40, 2)
    result = KNN(ks=(1, 2, 4)).run(train, val, test, 0)
    assert list_ks(result)[-1] >= 16
    fixed = KNN(ks=(4,)).run(train, val, test, 0)
    assert list_ks(fixed) == [4] and not fixed.warnings
    published = KNN(preset="dino", ks=(1, 4)).run(train, val, test, 0)
    assert published.warnings and list_ks(published) == [1, 4]
