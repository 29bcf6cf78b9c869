"""Few training clips of a class: drawn by a seed, or those of a published list."""

from pathlib import Path

import pytest

from ssvid.data.datasets.few_shot import few_shot
from ssvid.data.datasets.kinetics600_unseen import kinetics600_unseen
from ssvid.data.lists import read_names
from ssvid.errors import UserError
from tests.helpers import facts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, count in (("train", 4), ("val", 0), ("test", 1)):
        for name in ("jump", "run"):
            folder = tmp_path / "clips" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{split}_{name}_{number}.mp4").touch()
            (folder / "00000.mp4").touch()  # a name that every folder has
    return tmp_path / "clips"


def draw(root: Path, **changes):
    return few_shot(str(root), source="folder", **{"shots": 2, **changes})


def list_train(data) -> list[str]:
    return [row.path for row in data.split("train").rows]


def test_drawn_clips_are_a_function_of_the_seed(root: Path, tmp_path: Path):
    first, again, other = draw(root), draw(root), draw(root, seed=1)
    assert list_train(first) == list_train(again) != list_train(other)
    labels = [row.label for row in first.split("train").rows]
    assert labels == ["jump", "jump", "run", "run"] and len(set(list_train(first))) == 4
    assert len(first.split("val")) == 2 and len(first.split("test")) == 4
    assert first.classes == ("jump", "run")


def test_a_list_that_was_written_gives_the_same_clips(root: Path, tmp_path: Path):
    written = tmp_path / "list.txt"
    for shots in (2, 5):  # 5: all of them, the one whose name is not its own too
        first = draw(root, write=str(written), shots=shots)
        again = draw(root, seed=9, sample=str(written), shots=shots)
        assert sorted(list_train(again)) == sorted(list_train(first))


@pytest.mark.parametrize(
    "lines, words",
    [
        ("train_jump_0.mp4 0\ntest_run_0.mp4 1\n", ("test_run_0", "list.txt")),
        ("00000.mp4 0\n", ("00000.mp4", "4 clips")),
        ("train_jump_0.mp4 0\ntrain_jump_1.mp4 0\n", ("'run'", "0 clips", "--data.shots 2")),
    ],
)
def test_a_list_of_another_set_is_refused(root: Path, tmp_path: Path, lines: str, words):
    (tmp_path / "list.txt").write_text(lines)
    with pytest.raises(UserError, match=facts(*words)):
        draw(root, sample=str(tmp_path / "list.txt"))


def test_too_few_clips_are_told(root: Path):
    with pytest.raises(UserError, match=facts("--data.shots 6", "5 clips")):
        draw(root, shots=6)


def test_names_with_a_line_of_columns_are_read(tmp_path: Path):
    (tmp_path / "names.csv").write_text("id,name\n0,brush hair\n1,kick, ball\n")
    assert read_names(tmp_path / "names.csv") == {"0": "brush hair", "1": "kick, ball"}


@pytest.mark.parametrize("shots", [2, pytest.param(16, marks=pytest.mark.slow)])
def test_the_published_lists_of_ucf101_are_read(tmp_path: Path, shared: Path, shots: int):
    lists = shared / "annotations/ucf101"
    for name in ("trainlist01.txt", "testlist01.txt"):
        for line in next(lists.rglob(name)).read_text().splitlines():
            file = tmp_path / line.split()[0]
            file.parent.mkdir(exist_ok=True)
            file.touch()
    splits = str(next(lists.rglob("trainlist01.txt")).parent)
    sample = shared / "annotations/fewshot" / f"ucf_train1_few_shot_{shots}.txt"
    data = few_shot(
        str(tmp_path), source="ucf101", settings={"splits": splits}, shots=shots, sample=str(sample)
    )
    assert len(data.split("train")) == 101 * shots and len(data.split("test")) == 3783


def test_the_unseen_classes_of_kinetics600_are_read(tmp_path: Path, shared: Path):
    lists = shared / "annotations/kinetics600_zeroshot"
    with (lists / "test_split2_exist.txt").open() as file:
        for _, line in zip(range(20), file, strict=False):
            name = line.split()[0].removesuffix(".mp4")
            (tmp_path / f"{name}.mp4").touch()
    data = kinetics600_unseen(str(tmp_path), splits=str(lists), fold=2, missing_ok=0.999)
    assert len(data.split("test")) == 20 and len(data.classes) == 160
    assert all(row.label in data.classes for row in data.rows)
    with pytest.raises(UserError, match=facts("listed clips are missing")):
        kinetics600_unseen(str(tmp_path), splits=str(lists), fold=2)
