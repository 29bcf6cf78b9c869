"""Leave one group out: every clip is test once, by a probe that has seen none of its group."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.features.bench import Bench, split_into_folds
from benchmarks.features.folds import count_val_folds, read_fold_names, split_by_fold
from benchmarks.probes.base import Probe, ProbeResult, make_result
from benchmarks.suites.runner import begin_folds, refuse_folds_of
from benchmarks.tasks import floor
from benchmarks.tasks.scoring import score_task
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import datasets, probes, tasks
from ssvid.shapes import ClipSpec, Frozen, Grid, Row
from tests.helpers import facts

PEOPLE, CLIPS = 6, 8  # clips of each person


def make_data(**changes) -> Manifest:
    rows = []
    for person in range(PEOPLE):
        for clip in range(CLIPS):
            row = Row(
                path=f"{person}_{clip}.mp4",
                label="ab"[clip % 2],
                group=f"person {person}",
                columns=(("room", str(person // 2)), ("take", str(clip))),
            )
            rows.append(replace(row, **changes))
    return Manifest(tuple(rows), Path("videos"), ("a", "b"))


def make_folded_bench(column: str = "group") -> Bench:
    """The label shows in the first column of the features; the person in the others."""
    data = make_data()
    draw = torch.Generator().manual_seed(0)
    of_person = torch.randn(PEOPLE, 6, generator=draw).repeat_interleave(CLIPS, 0)
    feats = of_person + 0.3 * torch.randn(len(data), 6, generator=draw)
    feats[:, 0] += 4.0 * data.labels
    features = {}
    for name in ("encoder", "encoder/single_frame", "encoder/bag", "encoder/shuffled"):
        features[name] = {"mean@last": feats}
    for name in ("pixels", "twin0", "twin1"):
        features[name] = {"mean@last": torch.randn(len(data), 6, generator=draw)}
    for twin in ("twin0", "twin1"):
        for change in ("single_frame", "shuffled"):
            features[f"{twin}/{change}"] = features[twin]
    bench = Bench(
        data=split_by_fold(data, read_fold_names(data, column), 0),
        row_of_unit=range(len(data)),
        position_of_unit=(),
        labels=data.labels,
        splits={},
        features=features,
        unreadable_files=[],
        spec=ClipSpec(frames=2, stride=1, size=16),
        grid=Grid(1, 1, 1),
        cost={},
        seed=0,
        twins=2,
    )
    readable = torch.ones(len(data), dtype=torch.bool)
    readable[5] = False
    return split_into_folds(bench, column, readable)


@pytest.mark.parametrize(("column", "folds"), [("group", 6), ("room", 3)])
def test_every_clip_is_test_once_and_no_group_is_on_two_sides(column: str, folds: int):
    bench = make_folded_bench(column)
    tested = []
    for fold in bench.list_folds():
        assert fold.refits
        groups = {}
        for split, units in fold.splits.items():
            assert units, split
            groups[split] = set(fold.get_groups_of_units(units))
        assert not groups["test"] & (groups["train"] | groups["val"])
        assert not groups["train"] & groups["val"]
        tested += fold.splits["test"]
    assert len(bench.folds) == folds
    assert tested == bench.splits["test"]
    assert sorted(tested) == [unit for unit in range(PEOPLE * CLIPS) if unit != 5]
    assert str(folds) in bench.notes[-1] and column in bench.notes[-1]


def test_the_folds_are_the_units_of_chance():
    """Three rooms of two people each: the test is over rooms, which were held out together."""
    scored = score_task(tasks["classify"](probes["prototypes"]()), make_folded_bench("room"))
    assert set(scored.test.groups) == {"0", "1", "2"}
    assert scored.gains["random"].least is None  # three groups show nothing


def test_a_class_of_one_person_does_not_stop_the_folds():
    data = make_data()
    rows = list(data.rows)
    rows[0] = replace(rows[0], label="c")
    data = replace(data, rows=tuple(rows), classes=("a", "b", "c"))
    usable = begin_folds(data, "group", "clips")
    assert {row.group for row in usable.split("test").rows} == {"person 1"}


def test_val_is_about_a_fifth_of_the_other_folds():
    assert [count_val_folds(folds) for folds in (3, 6, 11, 21)] == [1, 1, 2, 4]


@probes.register("test_recorder")
class Recorder(Probe):
    """Answers the first class, and notes on which groups it was trained and tested."""

    def __init__(self) -> None:
        self._runs: list[tuple[set[str], set[str]]] = []
        self._refits: list[tuple[set[str], set[str]]] = []

    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        self._runs.append((set(train.groups), set(val.groups)))
        return self.answer(test)

    def refit(self, train: Frozen, test: Frozen, chosen: dict, seed: int) -> ProbeResult:
        self._refits.append((set(train.groups), set(test.groups)))
        return self.answer(test)

    def answer(self, test: Frozen) -> ProbeResult:
        scores = torch.zeros(len(test.labels), 2)
        return make_result(scores, test.labels, {"pooling": "mean@last", "val/top1": 0.5}, [])


def test_probes_are_trained_anew_on_train_and_val():
    probe, bench = Recorder(), make_folded_bench()
    task = tasks["classify"](probe)
    scored = score_task(task, bench)
    assert scored.score.value == pytest.approx(24 / 47)  # the unreadable clip was of class b
    assert len(scored.test.paths) == len(set(scored.test.paths)) == 47
    for (train, val), (both, test) in zip(probe._runs, probe._refits, strict=True):
        assert both == train | val and not both & test and len(test) == 1


QUICK = {"linear": {"rates": (30.0,), "lambdas": (1.0,), "min_steps": 10}}  # of each probe


@pytest.mark.parametrize("probe", ["linear", "knn", "prototypes"])
def test_folds_find_what_does_not_depend_on_the_person(probe: str):
    task = tasks["classify"](probes[probe](**QUICK.get(probe, {})))
    scored = score_task(task, make_folded_bench())
    assert scored.score.value > 0.85
    assert len(scored.score.details["chosen_by_fold"]) == PEOPLE
    assert set(scored.test.groups) == {f"person {n}" for n in range(PEOPLE)}


def test_each_fold_has_a_floor_of_its_own(monkeypatch: pytest.MonkeyPatch):
    """Although all people act alike, so that the labels of their folds are the same."""
    monkeypatch.setattr(floor, "Floor", lambda: probes["knn"]())  # it stands for the floor
    bench = make_folded_bench()._replace(floors={})
    feats = torch.randn(len(bench.data), 6, generator=torch.Generator().manual_seed(1))
    bench.features["pixels"] = {"colour8@pixels": feats}
    answers = []
    for fold in bench.list_folds()[1:3]:
        train, val, test = fold.get_splits("pixels")
        answers.append(floor.run_floor(fold, train, val, test).scores)
        alone = probes["knn"]().run(train, val, test, fold.seed)
        torch.testing.assert_close(answers[-1], alone.scores)
    assert not torch.equal(*answers)


@pytest.mark.parametrize("task", ["retrieval", "few_shot", "low_label"])
def test_other_tasks_answer_every_clip_too(task: str):
    if task == "retrieval":
        scored = score_task(tasks[task](), make_folded_bench())
    else:
        scored = score_task(tasks[task](probes["prototypes"]()), make_folded_bench())
    assert len(scored.test.correct["encoder"]) == 47


def test_bad_columns(tmp_path: Path):
    data = make_data()
    with pytest.raises(UserError, match=facts("--folds", "nobody", "room", "take")):
        read_fold_names(data, "nobody")
    with pytest.raises(UserError, match=facts("--folds", "person 0")):
        read_fold_names(data, "take")
    with pytest.raises(UserError, match=facts("--folds", "3")):
        read_fold_names(make_data(group="all"), "group")
    for kind in ("ten_crops", "captions:10", "named"):
        with pytest.raises(UserError, match=facts("--folds")):
            refuse_folds_of(kind)
    refuse_folds_of("clips")


def test_a_csv_tells_its_columns(tmp_path: Path):
    lines = ["path,label,split,subject,room"]
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        (tmp_path / f"{name}.mp4").touch()
        lines.append(f"{name}.mp4,x,{split},{name},kitchen {name}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    data = datasets["csv"](str(tmp_path))
    assert read_fold_names(data, "room") == ["kitchen a", "kitchen b", "kitchen c"]
    assert read_fold_names(data, "group") == ["a", "b", "c"]
    text = (tmp_path / "labels.csv").read_text().replace("subject", "group")
    (tmp_path / "labels.csv").write_text(text)
    data = datasets["csv"](str(tmp_path))
    assert data.groups[0] == "x/a"  # a group counts within its class
    assert read_fold_names(data, "group") == ["a", "b", "c"]  # a fold is a value of the column
