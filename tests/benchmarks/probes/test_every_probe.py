"""What every registered probe must do: chance on noise and on shuffled labels, nearly all on separable features."""

import numpy as np
import pytest
import torch

from ssvid.errors import UserError
from ssvid.randomness import permutation
from ssvid.registry import probes
from ssvid.shapes import Frozen
from ssvid.statistics import wilson
from tests.helpers import facts

NAMES = probes.names()
ROWS, DIM, CLASSES = (160, 80, 600), 24, 4  # rows of train, val, test


QUICK = {  # cheaper than the defaults
    "attentive": {"epochs": 1, "min_steps": 60},
    "linear": {"min_steps": 100},
    "coclr": {"rates": (0.3, 1.0), "weight_decays": (1e-3,), "epochs": 30},
}


def quick(name):
    return probes[name](**QUICK.get(name, {}))


def splits(apart):
    """Class centres (the same in every split) in noise of length sqrt(DIM)."""
    centres = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(9)) * apart

    def split(seed, rows):
        y = torch.arange(rows) % CLASSES
        noise = torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))
        return Frozen({"mean@last": centres[y] + noise}, y, [str(i) for i in range(rows)])

    return [split(seed, rows) for seed, rows in enumerate(ROWS)]


def at_chance(got):
    low, high = wilson(1 / CLASSES, ROWS[2], 0.999)
    return low < got.metrics["test/top1"] < high


@pytest.mark.parametrize("name", NAMES)
def test_chance_on_noise(name):
    assert at_chance(quick(name).run(*splits(0.0), 0))


@pytest.mark.parametrize("name", NAMES)
def test_chance_on_shuffled_labels(name):
    spoilt = [
        s._replace(labels=s.labels[permutation(5, i, len(s.labels))])
        for i, s in enumerate(splits(2.0))
    ]
    assert at_chance(quick(name).run(*spoilt, 0))


@pytest.mark.parametrize("name", NAMES)
def test_separable_features_are_told_apart_and_the_choice_is_stored(name):
    got = quick(name).run(*splits(2.0), 0)
    assert got.metrics["test/top1"] >= 0.99
    assert got.chosen in got.grid and got.chosen["val/top1"] == max(
        setting["val/top1"] for setting in got.grid
    )
    assert got.scores.shape == (ROWS[2], CLASSES) and torch.equal(
        got.scores.argmax(1), got.predictions
    )


def several(split):
    """Each clip holds its class and the next one."""
    held = torch.zeros(len(split.labels), CLASSES, dtype=torch.bool)
    held[torch.arange(len(held)), split.labels] = True
    return split._replace(labels=held | held.roll(1, 1))


@pytest.mark.parametrize("name", [name for name in NAMES if probes[name].multi_label])
def test_several_classes_a_clip(name):
    got = quick(name).run(*(several(split) for split in splits(2.0)), 0)
    assert got.metrics["test/map"] >= 0.99 and got.chosen["val/map"] == max(
        s["val/map"] for s in got.grid
    )
    noise = quick(name).run(*(several(split) for split in splits(0.0)), 0)
    assert 0.45 < noise.metrics["test/map"] < 0.56  # half of the clips hold a class


@pytest.mark.parametrize("name", [name for name in NAMES if not probes[name].multi_label])
def test_a_probe_for_one_class_refuses_several(name):
    with pytest.raises(UserError, match=facts("attentive")):
        quick(name).run(*(several(split) for split in splits(2.0)), 0)


@pytest.mark.parametrize("name", NAMES)
def test_selection_never_sees_test(name):
    train, val, test = splits(1.0)
    lied = test._replace(labels=test.labels.roll(1), feats={"mean@last": -test.feats["mean@last"]})
    honest, other = (quick(name).run(train, val, each, 0) for each in (test, lied))
    assert (honest.chosen, honest.grid) == (other.chosen, other.grid)


@pytest.mark.parametrize("name", NAMES)
def test_features_that_are_not_finite_or_missing_are_refused(name):
    for place, split in enumerate(("train", "val", "test")):
        three = splits(2.0)
        three[place].feats["mean@last"][3, 4] = float("inf")
        with pytest.raises(UserError, match=f"{split} split.*NaN or infinite"):
            quick(name).run(*three, 0)
    train, val, test = splits(2.0)
    with pytest.raises(UserError, match=facts("mean@last")):
        quick(name).run(
            train, val, test._replace(feats={"mean@last": test.feats["mean@last"][:, :5]}), 0
        )


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_on_disk_is_the_same_as_its_values_in_memory(name, tmp_path):
    def mapped(split, file):
        half = split.feats["mean@last"].half().numpy()
        half.tofile(file)
        return torch.from_numpy(np.memmap(file, dtype=np.float16, mode="r+", shape=half.shape))

    disk = [
        s._replace(feats={"mean@last": mapped(s, tmp_path / str(i))})
        for i, s in enumerate(splits(1.0))
    ]
    memory = [s._replace(feats={"mean@last": s.feats["mean@last"].float()}) for s in disk]
    one, two = quick(name).run(*disk, 0), quick(name).run(*memory, 0)
    assert torch.equal(one.scores, two.scores) and one.grid == two.grid
