"""What tasks ask: chance on noise, all right on separable features, and their numbers by hand."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.features.bench import Bench
from benchmarks.features.units import build_class_table
from benchmarks.tasks.base import score_task
from benchmarks.tasks.detection import match_boxes
from benchmarks.tasks.few_shot import draw_shots
from benchmarks.tasks.localisation import smooth_scores
from benchmarks.tasks.low_label import draw_share
from benchmarks.tasks.order import FRAME_ORDERS
from benchmarks.tasks.retrieval import rank_first_match
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import probes, tasks
from ssvid.shapes import Box, ClipSpec, Frozen, Grid, Row
from tests.helpers import facts

COUNTS = {"train": 96, "val": 48, "test": 240}
CLASSES = 4
RANKED = ("multi_label", "localisation", "detection")
TEXT = (
    "htm_align",
    "text_retrieval",
    "zero_shot",
)  # asked with sentences: tests/benchmarks/test_text_tasks.py
ASKED = tuple(name for name in tasks.names() if name not in TEXT)
PROBED = {
    "classify": {},
    "few_shot": {"shots": (1, 4), "draws": 3},
    "low_label": {"share": 0.5, "draws": 2},
    "order": {},
}


NAMES = tuple(f"class {n}" for n in range(CLASSES))


def row(split: str, i: int, kind: str) -> Row:
    """Two classes with their times, or two people in two frames, where the kind of unit wants them."""
    named, a, b = (
        {"path": f"{split}/{i}.mp4", "split": split, "group": f"{split}/{i // 2}"},
        *pair(i),
    )
    if kind == "boxes":
        left, right = (0.0, 0.0, 0.5, 1.0), (0.4, 0.0, 1.0, 1.0)
        return Row(
            **named,
            boxes=tuple(Box(t, *xy, (c,)) for t in (1.0, 2.0) for xy, c in ((left, a), (right, b))),
        )
    segments = ((1.0, 4.0, a), (5.0, 7.0, b))
    return Row(
        **named, label=a if kind == "clips" else None, segments=segments if kind != "clips" else ()
    )


def pair(i: int) -> tuple[str, str]:
    return NAMES[i % CLASSES], NAMES[(i // CLASSES + i + 1) % CLASSES]


def units(data: Manifest, kind: str) -> tuple[list[int], list[tuple[float, ...]], torch.Tensor]:
    """Row, place and labels of each."""
    if kind == "boxes":
        boxes = [(i, box) for i, one in enumerate(data.rows) for box in sorted(one.boxes)]
        return (
            [i for i, _ in boxes],
            [box[:5] for _, box in boxes],
            build_class_table([box.labels for _, box in boxes], NAMES),
        )
    if kind != "seconds":
        return list(range(len(data))), [], data.labels if kind == "clips" else data.targets
    cells = [(i, s) for i in range(len(data)) for s in range(8)]
    held = [
        {name for start, end, name in data.rows[i].segments if start <= s + 0.5 < end}
        for i, s in cells
    ]
    return [i for i, _ in cells], [(s,) for _, s in cells], build_class_table(held, NAMES)


def made(signal: float, seed: int = 0, kind: str = "clips", views: int = 1) -> Bench:
    """The encoder's features are `signal` times a unit's classes and noise, those of all controls noise alone."""
    fewer = 4 if kind == "seconds" else 1  # each has eight of them
    rows = [row(split, i, kind) for split, count in COUNTS.items() for i in range(count // fewer)]
    data = Manifest(tuple(rows), Path("nowhere"), NAMES)
    of, at, labels = units(data, kind)
    draw = torch.Generator().manual_seed(seed)
    held = F.one_hot(labels, CLASSES) if labels.ndim == 1 else labels
    code = signal * F.pad(held.float(), (0, 12))
    shape = (len(of), views) if views > 1 else (len(of),)
    code = code[:, None] if views > 1 else code

    def features(row: str) -> dict[str, torch.Tensor]:
        noise = torch.randn(*shape, 16, generator=draw)
        return {
            "mean@last": torch.randn(*shape, 8, generator=draw),
            "time@last": noise + code * (row == "encoder"),
        }

    names = dict.fromkeys(name for task in ASKED for name in task_of(task).source_names)
    splits = {
        split: [i for i, r in enumerate(of) if data.rows[r].split == split] for split in COUNTS
    }
    arrays = {name: features(name) for name in names}
    return Bench(
        data, of, at, labels, splits, arrays, [], ClipSpec(stride=1), Grid(2, 1, 1), {}, 0, views
    )


def task_of(name: str):
    settings = dict(PROBED.get(name, {}))
    if name in RANKED:
        settings["probe"] = probes["linear"](rates=(10.0, 100.0), min_steps=100)
    elif name != "retrieval":
        settings["probe"] = probes["prototypes"]()
    if name == "few_shot":
        settings["main"] = 4
    return tasks[name](**settings)


@pytest.mark.parametrize("name", ASKED)
def test_noise_scores_chance(name: str):
    task = task_of(name)
    found = score_task(task, made(0.0, kind=task.kind))
    if found.score.per_class is not None:  # the main number is their mean
        known = [value for value in found.score.per_class.values() if value is not None]
        assert found.score.value == pytest.approx(sum(known) / len(known), abs=1e-9)
    for row in (found.score, *found.controls.values()):
        low, high = row.interval
        assert low - 0.03 <= found.chance <= high + 0.03, (name, row)


@pytest.mark.parametrize("name", ["classify", "retrieval", "few_shot", "low_label", *RANKED])
def test_separable_features_are_all_right(name: str):
    task = task_of(name)
    found = score_task(task, made(40.0, kind=task.kind))
    best = found.score.more["map_50"] if name == "localisation" else found.score.value
    least = 0.2 if name in RANKED else 0.4
    gain = found.gains["random"]
    assert best >= 0.99 and gain.shown and gain.interval[0] > least
    if name in RANKED:
        by_class = list(found.score.per_class.values())
        assert set(found.score.per_class) == set(NAMES) and len(found.test.draws["encoder"]) == 1000
        assert found.score.value == pytest.approx(torch.tensor(by_class).mean().item())
    else:
        assert len(found.test.correct["encoder"]) == COUNTS["test"]


def test_two_people_that_overlap():
    """The surer box takes the true one it covers best; the other is then wrong although it is where it should be."""
    shared = torch.tensor([[1.0, 0.6], [0.6, 1.0]])
    one, both = torch.tensor([True, False]), torch.tensor([True, True])
    assert match_boxes(shared, torch.tensor([0.9, 0.1]), one).tolist() == [True, False]
    assert match_boxes(shared, torch.tensor([0.1, 0.9]), one).tolist() == [False, True]
    assert match_boxes(shared, torch.tensor([0.1, 0.9]), both).tolist() == [True, True]
    assert match_boxes(torch.eye(2), torch.tensor([0.1, 0.9]), one).tolist() == [True, False]


@pytest.mark.parametrize("swapped", [False, True])
def test_the_smoothing_is_chosen_on_val(swapped: bool, monkeypatch):
    """Here none is best; with the widths exchanged underneath it is the other."""
    kind, real = tasks["localisation"], tasks["localisation"].rank_segments
    if swapped:
        monkeypatch.setattr(
            kind, "rank_segments", lambda self, *of: real(self, *of[:-1], {1: 5, 5: 1}[of[-1]])
        )
    probe, bench = probes["linear"](rates=(30.0,), min_steps=60), made(2.0, kind="seconds")
    alone = {
        width: kind(probe, smooth=(width,)).answer(bench, "encoder").details["val_map"]
        for width in (1, 5)
    }
    for order in ((1, 5), (5, 1)):
        found = kind(probe, smooth=order).answer(bench, "encoder").details
        assert found["val_map"] == max(alone.values()) and found["chosen"]["smooth"] == (
            5 if swapped else 1
        )


def test_seconds_are_smoothed_over_those_that_are_there():
    found = smooth_scores(torch.tensor([[0.0], [3.0], [6.0], [3.0]]), 3)
    assert found[:, 0].tolist() == [1.5, 3.0, 4.0, 4.5]


def test_scores_of_views_are_averaged():
    """Of three views that each tell a little; every view is learnt from."""
    probe, bench = probes["linear"](rates=(10.0, 100.0), min_steps=100), made(2.0, views=3)
    found = score_task(tasks["classify"](probe), bench)
    single = score_task(
        tasks["classify"](probe), bench._replace(views=1, features=first_view(bench))
    )
    got = probe.run(*(bench.get_frozen_views("encoder", split) for split in COUNTS), 0)
    share = got.scores.softmax(-1).view(COUNTS["test"], 3, -1)
    assert (
        found.test.predictions["encoder"]
        == share.mean(1).argmax(-1).tolist()
        != share[:, 0].argmax(-1).tolist()
    )
    assert found.score.value > single.score.value + 0.05
    assert bench.get_frozen("encoder", "test").feats["time@last"].shape == (COUNTS["test"], 16)
    assert bench.get_frozen_views("encoder", "test").labels[:6].tolist() == [0, 0, 0, 1, 1, 1]


def first_view(bench: Bench) -> dict[str, dict[str, torch.Tensor]]:
    return {
        source: {name: table[:, 0] for name, table in of.items()}
        for source, of in bench.features.items()
    }


@pytest.mark.parametrize("name", ["classify", "multi_label"])
def test_several_seeds_are_a_mean_with_its_spread(name: str):
    task = task_of(name)
    if name == "classify":
        task = tasks[name](probes["linear"](rates=(30.0,), min_steps=20, batch=16))
    bench = made(1.0, kind=task.kind)
    alone = [score_task(task, bench._replace(seed=seed)) for seed in (0, 1)]
    both = score_task(task, bench, seeds=2)
    assert both.score.of_seeds == [one.score.value for one in alone] and both.seeds == [0, 1]
    assert both.score.value == pytest.approx(sum(both.score.of_seeds) / 2)
    assert both.score.interval[0] < both.score.value < both.score.interval[1]


def test_order_is_told_from_the_three_ways():
    bench = made(0.0)
    for way, place in zip(FRAME_ORDERS, range(3), strict=True):
        bench.features["encoder" + way]["time@last"][:, place] += 40.0
    found = score_task(task_of("order"), bench)
    assert (
        found.score.value >= 0.99
        and found.score.more["top1_reversed"] >= 0.99
        and found.gains["random"].shown
    )
    assert found.controls["random"].value < 0.5


def test_retrieval_by_hand():
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    queries = torch.tensor([[1.0, 0.05], [0.1, 1.0], [1.0, 0.0]])
    labels, asked = torch.tensor([0, 1, 1]), torch.tensor([1, 1, 2])
    assert rank_first_match(queries, asked, bank, labels, 3).tolist() == [1, 0, 3]
    assert rank_first_match(queries, asked, bank, labels, 1).tolist() == [1, 0, 1]


def test_shots_are_nested_balanced_and_the_same_for_all():
    bench = made(0.0)
    train = bench.get_frozen("encoder", "train")
    one, four = draw_shots(train, 1, 0, 3), draw_shots(train, 4, 0, 3)
    assert (
        four.labels.bincount().tolist() == [4] * CLASSES
        and one.labels.bincount().tolist() == [1] * CLASSES
    )
    rows = {tuple(row) for row in four.feats["mean@last"].tolist()}
    assert {tuple(row) for row in one.feats["mean@last"].tolist()} <= rows
    assert {tuple(row) for row in draw_shots(train, 4, 0, 4).feats["mean@last"].tolist()} != rows
    assert draw_share(train, 0.25, 0, 0).labels.bincount().tolist() == [6] * CLASSES
    assert draw_share(train, 0.001, 0, 0).labels.bincount().tolist() == [1] * CLASSES


def test_more_shots_than_clips():
    with pytest.raises(UserError, match=facts("100")):
        score_task(tasks["few_shot"](probes["prototypes"](), shots=(1, 100), main=100), made(1.0))
    found = score_task(
        tasks["few_shot"](probes["prototypes"](), shots=(1, 100), main=1, draws=2), made(1.0)
    )
    assert found.score.more["100_shot"] is None and found.score.more["1_shot"]["top1"] > 0.2


def test_prototypes_by_hand():
    feats = torch.tensor([[2.0, 0.0], [3.0, 1.0], [-2.0, 0.0], [-3.0, -1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    test = Frozen({"a": torch.tensor([[1.0, 0.2], [-1.0, 0.3]])}, torch.tensor([0, 1]), ["", ""])
    got = probes["prototypes"]().run(Frozen({"a": feats}, labels, [""] * 4), test, test, 0)
    unit = F.normalize(feats, dim=1)
    means = torch.stack([unit[:2].mean(0), unit[2:].mean(0)])
    assert torch.allclose(
        got.scores, F.normalize(test.feats["a"], dim=1) @ F.normalize(means, dim=1).T
    )
