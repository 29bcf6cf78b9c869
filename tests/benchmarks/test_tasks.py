"""Tasks score chance on noise and all right on separable features. Their numbers by hand."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.features.bench import Bench
from benchmarks.features.units import build_class_table
from benchmarks.tasks.detection import match_boxes
from benchmarks.tasks.few_shot import draw_shots
from benchmarks.tasks.localisation import smooth_scores
from benchmarks.tasks.low_label import draw_share
from benchmarks.tasks.order import FRAME_ORDERS
from benchmarks.tasks.retrieval import rank_first_match
from benchmarks.tasks.scoring import score_task
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import probes, tasks
from ssvid.shapes import Box, ClipSpec, Frozen, Grid, Row
from tests.helpers import facts

COUNTS = {"train": 96, "val": 48, "test": 240}
CLASSES = 4
RANKED = ("multi_label", "localisation", "detection")
# tests/benchmarks/test_text_tasks.py and test_video_qa.py
TEXT = ("htm_align", "text_retrieval", "video_qa", "zero_shot")
ASKED = sorted(set(tasks.names()) - set(TEXT))
PROBED = {
    "classify": {},
    "few_shot": {"shots": (1, 4)},
    "low_label": {"share": 0.5},
    "order": {},
}


NAMES = tuple(f"class {n}" for n in range(CLASSES))


def row(split: str, i: int, kind: str) -> Row:
    """A label, two classes with their times, or two people in two frames, as the kind needs."""
    path = {"path": f"{split}/{i}.mp4", "split": split, "group": f"{split}/{i // 2}"}
    a, b = pair(i)
    if kind == "boxes":
        boxes = []
        for time_s in (1.0, 2.0):
            boxes.append(Box(time_s, 0.0, 0.0, 0.5, 1.0, (a,)))
            boxes.append(Box(time_s, 0.4, 0.0, 1.0, 1.0, (b,)))
        return Row(**path, boxes=tuple(boxes))
    if kind == "clips":
        return Row(**path, label=a)
    return Row(**path, segments=((1.0, 4.0, a), (5.0, 7.0, b)))


def pair(i: int) -> tuple[str, str]:
    return NAMES[i % CLASSES], NAMES[(i // CLASSES + i + 1) % CLASSES]


def list_units(
    data: Manifest, kind: str
) -> tuple[list[int], list[tuple[float, ...]], torch.Tensor]:
    """Row, position and labels of each unit."""
    rows, positions, classes = [], [], []
    if kind == "boxes":
        for i, row in enumerate(data.rows):
            for box in sorted(row.boxes):
                rows.append(i)
                positions.append(box[:5])
                classes.append(box.labels)
        return rows, positions, build_class_table(classes, NAMES)
    if kind != "seconds":
        return list(range(len(data))), [], data.labels if kind == "clips" else data.targets
    for i, row in enumerate(data.rows):
        for second in range(8):
            rows.append(i)
            positions.append((second,))
            middle = second + 0.5
            classes.append({name for start, end, name in row.segments if start <= middle < end})
    return rows, positions, build_class_table(classes, NAMES)


def make_bench(signal: float, seed: int = 0, kind: str = "clips", views: int = 1) -> Bench:
    """Features of the encoder are noise and `signal` times a unit's classes, of controls noise."""
    divisor = 4 if kind == "seconds" else 1  # a video has eight seconds
    rows = []
    for split, count in COUNTS.items():
        rows += [row(split, i, kind) for i in range(count // divisor)]
    data = Manifest(tuple(rows), Path("nowhere"), NAMES)
    row_of_unit, positions, labels = list_units(data, kind)
    draw = torch.Generator().manual_seed(seed)
    code = F.one_hot(labels, CLASSES) if labels.ndim == 1 else labels
    code = signal * F.pad(code.float(), (0, 12))
    shape = (len(row_of_unit), views) if views > 1 else (len(row_of_unit),)
    code = code[:, None] if views > 1 else code

    def features(row: str) -> dict[str, torch.Tensor]:
        noise = torch.randn(*shape, 16, generator=draw)
        mean = torch.randn(*shape, 8, generator=draw)
        return {"mean@last": mean, "time@last": noise + code * (row == "encoder")}

    names = {}
    for task in ASKED:
        names |= dict.fromkeys(create_task(task).list_source_names(1))
    splits = {split: [] for split in COUNTS}
    for unit, row_number in enumerate(row_of_unit):
        splits[data.rows[row_number].split].append(unit)
    arrays = {name: features(name) for name in names}
    return Bench(
        data,
        row_of_unit,
        positions,
        labels,
        splits,
        arrays,
        [],
        ClipSpec(stride=1),
        Grid(2, 1, 1),
        {},
        0,
        views,
    )


def create_task(name: str):
    settings = dict(PROBED.get(name, {}))
    if name in RANKED:
        settings["probe"] = probes["linear"](rates=(10.0, 100.0), lambdas=(0.1,), min_steps=100)
    elif name != "retrieval":
        settings["probe"] = probes["prototypes"]()
    if name == "few_shot":
        settings["main"] = 4
    return tasks[name](**settings)


@pytest.mark.parametrize("name", ASKED)
def test_noise_scores_chance(name: str):
    task = create_task(name)
    scored = score_task(task, make_bench(0.0, kind=task.kind))
    if scored.score.per_class is not None:  # the main number is their mean
        values = [value for value in scored.score.per_class.values() if value is not None]
        assert scored.score.value == pytest.approx(sum(values) / len(values), abs=1e-9)
    for row in (scored.score, *scored.controls.values()):
        low, high = row.interval
        assert low - 0.03 <= scored.chance <= high + 0.03, (name, row)


@pytest.mark.parametrize("name", ["classify", "retrieval", "few_shot", "low_label", *RANKED])
def test_separable_features_are_all_right(name: str):
    task = create_task(name)
    scored = score_task(task, make_bench(40.0, kind=task.kind))
    best = scored.score.details["map_50"] if name == "localisation" else scored.score.value
    least = 0.2 if name in RANKED else 0.4
    gain = scored.gains["random"]
    assert best >= 0.99 and gain.shown and gain.interval[0] > least
    if name in RANKED:
        by_class = list(scored.score.per_class.values())
        assert set(scored.score.per_class) == set(NAMES)
        of_groups = scored.test.of_groups["encoder"]
        assert len(of_groups) == len(scored.test.groups)
        assert sum(of_groups) / len(of_groups) == pytest.approx(scored.score.value, abs=1e-5)
        assert scored.score.value == pytest.approx(torch.tensor(by_class).mean().item())
    else:
        assert len(scored.test.correct["encoder"]) == COUNTS["test"]


def test_two_people_that_overlap():
    """The box with the higher score is matched to the true one that it covers best.

    The other box is then wrong, although it is in the right position.
    """
    iou = torch.tensor([[1.0, 0.6], [0.6, 1.0]])
    single, both = torch.tensor([True, False]), torch.tensor([True, True])
    assert match_boxes(iou, torch.tensor([0.9, 0.1]), single).tolist() == [True, False]
    assert match_boxes(iou, torch.tensor([0.1, 0.9]), single).tolist() == [False, True]
    assert match_boxes(iou, torch.tensor([0.1, 0.9]), both).tolist() == [True, True]
    assert match_boxes(torch.eye(2), torch.tensor([0.1, 0.9]), single).tolist() == [True, False]


@pytest.mark.parametrize("swapped", [False, True])
def test_the_smoothing_is_chosen_on_val(swapped: bool, monkeypatch):
    """Here no smoothing is best; with the widths exchanged underneath it is the larger width."""
    kind, real = tasks["localisation"], tasks["localisation"].rank_segments
    if swapped:
        monkeypatch.setattr(
            kind,
            "rank_segments",
            lambda self, *args: real(self, *args[:-1], {1: 5, 5: 1}[args[-1]]),
        )
    probe, bench = probes["linear"](rates=(30.0,), min_steps=60), make_bench(2.0, kind="seconds")
    val_map = []
    for width in (1, 5):
        answer = kind(probe, smooth=(width,)).answer(bench, "encoder")
        val_map.append(answer.details["val_map"])
    for widths in ((1, 5), (5, 1)):
        details = kind(probe, smooth=widths).answer(bench, "encoder").details
        assert details["val_map"] == max(val_map)
        assert details["chosen"]["smooth"] == (5 if swapped else 1)


def test_seconds_are_smoothed_over_those_that_are_there():
    smooth = smooth_scores(torch.tensor([[0.0], [3.0], [6.0], [3.0]]), 3)
    assert smooth[:, 0].tolist() == [1.5, 3.0, 4.0, 4.5]


def test_scores_of_views_are_averaged():
    """The scores of three views, each of which tells a little. Every view is learnt from."""
    probe, bench = (
        probes["linear"](rates=(10.0, 100.0), lambdas=(0.1,), min_steps=100),
        make_bench(2.0, views=3),
    )
    scored = score_task(tasks["classify"](probe), bench)
    single_view = score_task(
        tasks["classify"](probe), bench._replace(views=1, features=first_view(bench))
    )
    splits = [bench.get_frozen_views("encoder", split) for split in COUNTS]
    result = probe.run(*splits, 0)
    probability = result.scores.softmax(-1).view(COUNTS["test"], 3, -1)
    assert (
        scored.test.predictions["encoder"]
        == probability.mean(1).argmax(-1).tolist()
        != probability[:, 0].argmax(-1).tolist()
    )
    assert scored.score.value > single_view.score.value + 0.05
    assert bench.get_frozen("encoder", "test").feats["time@last"].shape == (COUNTS["test"], 16)
    assert bench.get_frozen_views("encoder", "test").labels[:6].tolist() == [0, 0, 0, 1, 1, 1]


def first_view(bench: Bench) -> dict[str, dict[str, torch.Tensor]]:
    features = {}
    for source, tables in bench.features.items():
        features[source] = {name: table[:, 0] for name, table in tables.items()}
    return features


@pytest.mark.parametrize("name", ["classify", "multi_label"])
def test_several_seeds_are_a_mean_with_its_spread(name: str, monkeypatch):
    monkeypatch.setattr("benchmarks.probes.floor.MEMBERS", ("perceptron",))  # cheaper than all
    probe = probes["linear"](rates=(30.0,), lambdas=(0.1,), min_steps=20, batch=16)
    task = tasks[name](probe)
    bench = make_bench(1.0, kind=task.kind)
    alone = [score_task(task, bench._replace(seed=seed)) for seed in (0, 1)]
    both = score_task(task, bench, seeds=2)
    assert both.score.of_seeds == [run.score.value for run in alone] and both.seeds == [0, 1]
    assert both.score.value == pytest.approx(sum(both.score.of_seeds) / 2)
    assert both.score.interval[0] < both.score.value < both.score.interval[1]


def test_order_is_told_from_the_three_ways():
    bench = make_bench(0.0)
    for column, order in enumerate(FRAME_ORDERS):
        bench.features["encoder" + order]["time@last"][:, column] += 40.0
    scored = score_task(create_task("order"), bench)
    assert (
        scored.score.value >= 0.99
        and scored.score.details["top1_reversed"] >= 0.99
        and scored.gains["random"].shown
    )
    assert scored.controls["random"].value < 0.5


def test_retrieval_by_hand():
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    queries = torch.tensor([[1.0, 0.05], [0.1, 1.0], [1.0, 0.0]])
    labels, query_labels = torch.tensor([0, 1, 1]), torch.tensor([1, 1, 2])
    assert rank_first_match(queries, query_labels, bank, labels, 3).tolist() == [1, 0, 3]
    assert rank_first_match(queries, query_labels, bank, labels, 1).tolist() == [1, 0, 1]


def list_rows(frozen: Frozen) -> set[tuple[float, ...]]:
    return set(map(tuple, frozen.feats["mean@last"].tolist()))


def test_shots_are_nested_balanced_and_the_same_for_all():
    bench = make_bench(0.0)
    train = bench.get_frozen("encoder", "train")

    def draw(k, number):
        rows = draw_shots(train.labels, k, 0, number + 1)[number]
        return Frozen({"mean@last": train.feats["mean@last"][rows]}, train.labels[rows], [])

    single, four = draw(1, 3), draw(4, 3)
    assert (
        four.labels.bincount().tolist() == [4] * CLASSES
        and single.labels.bincount().tolist() == [1] * CLASSES
    )
    assert list_rows(single) <= list_rows(four) != list_rows(draw(4, 4))
    labels = train.labels
    assert labels[draw_share(labels, 0.25, 0, 1)[0]].bincount().tolist() == [6] * CLASSES
    assert labels[draw_share(labels, 0.001, 0, 1)[0]].bincount().tolist() == [1] * CLASSES


def test_more_shots_than_clips():
    with pytest.raises(UserError, match=facts("100")):
        score_task(
            tasks["few_shot"](probes["prototypes"](), shots=(1, 100), main=100), make_bench(1.0)
        )
    scored = score_task(
        tasks["few_shot"](probes["prototypes"](), shots=(1, 100), main=1), make_bench(1.0)
    )
    assert scored.score.details["100_shot"] is None and scored.score.details["1_shot"]["top1"] > 0.2


@pytest.mark.parametrize("name", ["few_shot", "low_label"])
def test_few_labels_read_no_val_and_answer_by_draw(name: str):
    task, bench = create_task(name), make_bench(1.0)
    answer = task.answer(bench, "encoder")
    assert answer.draws.shape == (20, COUNTS["test"])
    torch.testing.assert_close(answer.correct, answer.draws.mean(0))
    bench.features["encoder"]["time@last"][bench.splits["val"]] = 1e6
    assert torch.equal(task.answer(bench, "encoder").draws, answer.draws)
    with pytest.raises(UserError, match=facts("draws", "19")):
        tasks[name](probes["prototypes"](), draws=19)


@pytest.mark.parametrize("probe", ["linear", "knn", "perceptron"])
def test_the_floor_of_few_labels_is_fixed_by_all_labels(probe: str, monkeypatch):
    """Its probe and descriptor are those that it has with all labels, whatever the task's are."""
    monkeypatch.setattr("benchmarks.probes.floor.MEMBERS", (probe,))
    bench = make_bench(0.0)
    code = F.pad(F.one_hot(bench.labels, CLASSES).float(), (0, 12))
    bench.features["pixels"]["time@last"] += 40 * code
    answer = create_task("low_label").answer(bench, "pixels")
    assert answer.details["chosen"]["probe"] == probe
    assert answer.details["chosen"]["pooling"] == "time@last"
    assert answer.draws.shape == (20, COUNTS["test"]) and answer.correct.mean() > 0.95


def test_the_floor_is_the_same_number_in_all_tasks_of_the_same_clips():
    bench = make_bench(0.0)
    code = F.pad(F.one_hot(bench.labels, CLASSES).float(), (0, 12))
    bench.features["pixels"]["time@last"] += 2 * code
    answers = [create_task(name).answer(bench, "pixels") for name in ("classify", "retrieval")]
    assert torch.equal(answers[0].correct, answers[1].correct) and answers[0].correct.mean() > 0.4
    assert answers[0].details["chosen"] == answers[1].details["chosen"]


def test_prototypes_by_hand():
    feats = torch.tensor([[2.0, 0.0], [3.0, 1.0], [-2.0, 0.0], [-3.0, -1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    test = Frozen({"a": torch.tensor([[1.0, 0.2], [-1.0, 0.3]])}, torch.tensor([0, 1]), ["", ""])
    result = probes["prototypes"]().run(Frozen({"a": feats}, labels, [""] * 4), test, test, 0)
    unit = F.normalize(feats, dim=1)
    means = torch.stack([unit[:2].mean(0), unit[2:].mean(0)])
    assert torch.allclose(
        result.scores, F.normalize(test.feats["a"], dim=1) @ F.normalize(means, dim=1).T
    )


def test_the_numbers_of_several_nets_are_their_means():
    """R@1 and R@5 of the untrained row are means over the twins, in the main number and beside."""
    bench = make_bench(4.0)._replace(twins=2)
    for source in ("twin0", "twin0/single_frame", "twin0/shuffled"):
        reversed_rows = {name: table.flip(0) for name, table in bench.features[source].items()}
        bench.features[source.replace("0", "1")] = reversed_rows
    bench.features["twin0"] = bench.features["encoder"]
    scored = score_task(tasks["retrieval"](ks=(1, 5)), bench)
    row = scored.controls["random"]
    first, second = row.of_nets
    assert first > second + 0.2 and row.value == pytest.approx((first + second) / 2)
    assert row.details["recall1"] == pytest.approx(row.value)
