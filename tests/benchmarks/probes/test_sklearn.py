"""The linear probe beside scikit-learn's logistic regression on classes that overlap: half a point of top-1 at most."""

import torch

from benchmarks.probes.linear import Linear
from benchmarks.speed.accuracy import regression
from ssvid.shapes import Frozen

DIM, CLASSES, ROWS = 48, 5, (1200, 600, 8000)  # rows of train, val, test
CS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)


def overlapping(seed):
    """Three splits of other groups; four clips of a group have some of their noise in common."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, DIM, generator=draw) * 0.22
    stretch = torch.rand(DIM, generator=draw) * 3 + 0.1  # columns of unlike size, as features have

    def split(name, rows):
        y = torch.arange(rows) % CLASSES
        group = torch.arange(rows) // (4 * CLASSES) * CLASSES + y  # of one class
        shared = torch.randn(int(group.max()) + 1, DIM, generator=draw)[group] * 0.3
        x = centres[y] + shared + torch.randn(rows, DIM, generator=draw)
        return Frozen({"mean@last": x * stretch + 5}, y, [f"{name}{i}" for i in group.tolist()])

    return [split(name, rows) for name, rows in zip(("train", "val", "test"), ROWS, strict=True)]


def test_within_half_a_point_of_its_best_setting_picked_on_test():
    """The mean of four drawings: their C is the best on test, ours is chosen on val, so chance is on their side."""
    behind = []
    for seed in range(4):
        train, val, test = overlapping(seed)
        assert not set(train.groups) & set(val.groups)
        ours = Linear().run(train, val, test, seed).metrics["test/top1"]
        found = regression(train, test, CS)
        best = max(found, key=lambda c: found[c])
        assert 0.4 < found[best] < 0.9, "neither trivial nor hopeless"
        assert best not in (CS[0], CS[-1]), "their best is within the grid"
        behind.append(found[best] - ours)
    print(behind)
    assert sum(behind) / len(behind) <= 0.005 and max(behind) <= 0.015
