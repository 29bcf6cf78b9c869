"""What tasks ask: chance on noise, all right on separable features, and their numbers by hand."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.subject import Bench
from benchmarks.task import score
from benchmarks.tasks.few_shot import pick
from benchmarks.tasks.low_label import part
from benchmarks.tasks.order import WAYS
from benchmarks.tasks.retrieval import first_right
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import probes, tasks
from ssvid.shapes import ClipSpec, Frozen, Row

COUNTS = {"train": 96, "val": 48, "test": 240}
CLASSES = 4
PROBED = {
    "classify": {},
    "few_shot": {"shots": (1, 4), "draws": 3},
    "low_label": {"share": 0.5, "draws": 2},
    "order": {},
}


def made(signal: float, seed: int = 0) -> Bench:
    """The encoder's features are `signal` times a clip's class and noise, those of all controls noise alone."""
    rows = [
        Row(path=f"{split}/{i}.mp4", label=f"class {i % CLASSES}", split=split, group=f"{split}/{i // 2}")
        for split, count in COUNTS.items()
        for i in range(count)
    ]
    data = Manifest(tuple(rows), Path("nowhere"), tuple(f"class {n}" for n in range(CLASSES)))
    draw = torch.Generator().manual_seed(seed)
    code = signal * F.pad(F.one_hot(data.labels, CLASSES).float(), (0, 12))

    def features(row: str) -> dict[str, torch.Tensor]:
        noise = torch.randn(len(rows), 16, generator=draw)
        return {"mean@last": torch.randn(len(rows), 8, generator=draw), "time@last": noise + code * (row == "encoder")}

    names = dict.fromkeys(name for task in tasks.names() for name in task_of(task).needs)
    splits = {split: [i for i, row in enumerate(data.rows) if row.split == split] for split in COUNTS}
    return Bench(data, splits, {name: features(name) for name in names}, [], ClipSpec(stride=1), {}, 0)


def task_of(name: str):
    settings = dict(PROBED.get(name, {}))
    if name != "retrieval":
        settings["probe"] = probes["prototypes"]()
    if name == "few_shot":
        settings["main"] = 4
    return tasks[name](**settings)


@pytest.mark.parametrize("name", tasks.names())
def test_noise_scores_chance(name: str):
    task = task_of(name)
    found = score(task, made(0.0))
    for row in (found, *found["controls"].values()):
        low, high = row["interval"]
        assert low - 0.03 <= found["chance"] <= high + 0.03, (name, row)


@pytest.mark.parametrize("name", ["classify", "retrieval", "few_shot", "low_label"])
def test_separable_features_are_all_right(name: str):
    task = task_of(name)
    found = score(task, made(40.0))
    assert found[task.metric] >= 0.99 and found["gains"]["random"]["interval"][0] > 0.4
    assert len(found["test"]["correct"]["encoder"]) == COUNTS["test"]


def test_order_is_told_from_the_three_ways():
    bench = made(0.0)
    for way, place in zip(WAYS, range(3), strict=True):
        bench.features["encoder" + way]["time@last"][:, place] += 40.0
    found = score(task_of("order"), bench)
    assert found["top1"] >= 0.99 and found["top1_reversed"] >= 0.99 and found["gains"]["random"]["shown"]
    assert found["controls"]["random"]["top1"] < 0.5


def test_retrieval_by_hand():
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    queries = torch.tensor([[1.0, 0.05], [0.1, 1.0], [1.0, 0.0]])
    labels, asked = torch.tensor([0, 1, 1]), torch.tensor([1, 1, 2])
    assert first_right(queries, asked, bank, labels, 3).tolist() == [1, 0, 3]
    assert first_right(queries, asked, bank, labels, 1).tolist() == [1, 0, 1]


def test_shots_are_nested_balanced_and_the_same_for_all():
    bench = made(0.0)
    train = bench.frozen("encoder", "train")
    one, four = pick(train, 1, 0, 3), pick(train, 4, 0, 3)
    assert four.labels.bincount().tolist() == [4] * CLASSES and one.labels.bincount().tolist() == [1] * CLASSES
    rows = {tuple(row) for row in four.feats["mean@last"].tolist()}
    assert {tuple(row) for row in one.feats["mean@last"].tolist()} <= rows
    assert {tuple(row) for row in pick(train, 4, 0, 4).feats["mean@last"].tolist()} != rows
    assert part(train, 0.25, 0, 0).labels.bincount().tolist() == [6] * CLASSES
    assert part(train, 0.001, 0, 0).labels.bincount().tolist() == [1] * CLASSES


def test_more_shots_than_clips():
    with pytest.raises(UserError, match="a class has fewer than 100 train clips"):
        score(tasks["few_shot"](probes["prototypes"](), shots=(1, 100), main=100), made(1.0))
    found = score(tasks["few_shot"](probes["prototypes"](), shots=(1, 100), main=1, draws=2), made(1.0))
    assert found["100_shot"] is None and found["1_shot"]["top1"] > 0.2


def test_prototypes_by_hand():
    feats = torch.tensor([[2.0, 0.0], [3.0, 1.0], [-2.0, 0.0], [-3.0, -1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    test = Frozen({"a": torch.tensor([[1.0, 0.2], [-1.0, 0.3]])}, torch.tensor([0, 1]), ["", ""])
    got = probes["prototypes"]().run(Frozen({"a": feats}, labels, [""] * 4), test, test, 0)
    unit = F.normalize(feats, dim=1)
    means = torch.stack([unit[:2].mean(0), unit[2:].mean(0)])
    assert torch.allclose(got.scores, F.normalize(test.feats["a"], dim=1) @ F.normalize(means, dim=1).T)
