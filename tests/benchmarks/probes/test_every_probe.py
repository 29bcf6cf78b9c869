"""What every registered probe must do.

It scores chance on noise and on shuffled labels, and nearly all on separable features.
"""

import numpy as np
import pytest
import torch

from ssvid.errors import UserError
from ssvid.randomness import permutation
from ssvid.registry import probes
from ssvid.shapes import Frozen
from tests.helpers import facts, find_wilson

NAMES = probes.names()
MULTI_LABEL = [name for name in NAMES if probes[name].multi_label]
ROWS, DIM, CLASSES = (160, 80, 600), 24, 4  # rows of train, val, test


QUICK = {  # cheaper than the defaults
    "attentive": {"epochs": 1, "min_steps": 60},
    "linear": {"min_steps": 100},
    "coclr": {"rates": (0.3, 1.0), "weight_decays": (1e-3,), "epochs": 30},
}


def create_probe(name):
    return probes[name](**QUICK.get(name, {}))


def make_splits(scale):
    """Class centres (the same in every split) in noise of length sqrt(DIM)."""
    centres = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(9)) * scale

    def split(seed, rows):
        y = torch.arange(rows) % CLASSES
        noise = torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))
        return Frozen({"mean@last": centres[y] + noise}, y, [str(i) for i in range(rows)])

    return [split(seed, rows) for seed, rows in enumerate(ROWS)]


def is_at_chance(result):
    low, high = find_wilson(1 / CLASSES, ROWS[2], 0.999)
    return low < result.metrics["test/top1"] < high


@pytest.mark.parametrize("name", NAMES)
def test_chance_on_noise(name):
    assert is_at_chance(create_probe(name).run(*make_splits(0.0), 0))


@pytest.mark.parametrize("name", NAMES)
def test_chance_on_shuffled_labels(name):
    spoilt = []
    for i, split in enumerate(make_splits(2.0)):
        order = permutation(5, i, len(split.labels))
        spoilt.append(split._replace(labels=split.labels[order]))
    assert is_at_chance(create_probe(name).run(*spoilt, 0))


@pytest.mark.parametrize("name", NAMES)
def test_separable_features_are_told_apart_and_the_choice_is_stored(name):
    result = create_probe(name).run(*make_splits(2.0), 0)
    assert result.metrics["test/top1"] >= 0.99
    val = [setting["val/top1"] for setting in result.grid]
    assert result.chosen["val/top1"] == max(val)
    # The choice may say more than the grid: what the solvers had, the scale of logits.
    assert any(setting.items() <= result.chosen.items() for setting in result.grid)
    assert result.scores.shape == (ROWS[2], CLASSES) and torch.equal(
        result.scores.argmax(1), result.predictions
    )


def add_next_class(split):
    """Each clip holds its class and the next one."""
    table = torch.zeros(len(split.labels), CLASSES, dtype=torch.bool)
    table[torch.arange(len(table)), split.labels] = True
    return split._replace(labels=table | table.roll(1, 1))


@pytest.mark.parametrize("name", MULTI_LABEL)
def test_several_classes_a_clip(name):
    result = create_probe(name).run(*map(add_next_class, make_splits(2.0)), 0)
    assert result.metrics["test/map"] >= 0.99 and result.chosen["val/map"] == max(
        s["val/map"] for s in result.grid
    )
    noise = create_probe(name).run(*map(add_next_class, make_splits(0.0)), 0)
    assert 0.45 < noise.metrics["test/map"] < 0.56  # half of the clips hold a class


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(MULTI_LABEL)))
def test_a_probe_for_one_class_refuses_several(name):
    with pytest.raises(UserError, match=facts("attentive")):
        create_probe(name).run(*map(add_next_class, make_splits(2.0)), 0)


@pytest.mark.parametrize("name", NAMES)
def test_selection_never_sees_test(name):
    train, val, test = make_splits(1.0)
    lied = test._replace(labels=test.labels.roll(1), feats={"mean@last": -test.feats["mean@last"]})
    honest, other = (
        create_probe(name).run(train, val, test, 0),
        create_probe(name).run(train, val, lied, 0),
    )
    assert (honest.chosen, honest.grid) == (other.chosen, other.grid)


@pytest.mark.parametrize("name", NAMES)
def test_features_that_are_not_finite_or_missing_are_refused(name):
    for position, split in enumerate(("train", "val", "test")):
        frozen = make_splits(2.0)
        frozen[position].feats["mean@last"][3, 4] = float("inf")
        with pytest.raises(UserError, match=f"{split} split.*NaN or infinite"):
            create_probe(name).run(*frozen, 0)
    train, val, test = make_splits(2.0)
    with pytest.raises(UserError, match=facts("mean@last")):
        create_probe(name).run(
            train, val, test._replace(feats={"mean@last": test.feats["mean@last"][:, :5]}), 0
        )


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_on_disk_is_the_same_as_its_values_in_memory(name, tmp_path):
    def mapped(split, file):
        half = split.feats["mean@last"].half().numpy()
        half.tofile(file)
        return torch.from_numpy(np.memmap(file, dtype=np.float16, mode="r+", shape=half.shape))

    disk, memory = [], []
    for i, split in enumerate(make_splits(1.0)):
        feats = mapped(split, tmp_path / str(i))
        disk.append(split._replace(feats={"mean@last": feats}))
        memory.append(split._replace(feats={"mean@last": feats.float()}))
    from_disk, from_memory = create_probe(name).run(*disk, 0), create_probe(name).run(*memory, 0)
    assert torch.equal(from_disk.scores, from_memory.scores)
    assert from_disk.grid == from_memory.grid


def add_second_pooling(split):
    """A wide pooling of few clips, as grids of tokens are."""
    draw = torch.Generator().manual_seed(len(split.labels))
    wide = torch.randn(len(split.labels), 400, generator=draw)
    wide[:, :DIM] += split.feats["mean@last"]
    return split._replace(feats={**split.feats, "wide": wide})


@pytest.mark.parametrize("name", NAMES)
def test_a_choice_that_is_trained_again_scores_the_same(name):
    """For folds: the setting alone is enough to train anew, without val."""
    train, val, test = map(add_second_pooling, make_splits(0.4))
    result = create_probe(name).run(train, val, test, 3)
    again = create_probe(name).refit(train, test, result.chosen, 3)
    torch.testing.assert_close(again.scores, result.scores, rtol=1e-3, atol=1e-4)
    assert again.metrics == result.metrics and again.chosen == result.chosen
    other = train._replace(labels=train.labels.roll(1))
    assert create_probe(name).refit(other, test, result.chosen, 3).metrics != result.metrics


@pytest.mark.parametrize("name", MULTI_LABEL)
def test_a_choice_for_several_classes_is_trained_again(name):
    train, val, test = map(add_next_class, make_splits(0.4))
    result = create_probe(name).run(train, val, test, 3)
    again = create_probe(name).refit(train, test, result.chosen, 3)
    torch.testing.assert_close(again.scores, result.scores, rtol=1e-3, atol=1e-4)
