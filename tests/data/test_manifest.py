import shutil

import pytest
import torch

from ssvid.data.manifest import Manifest, carve, leaks
from ssvid.errors import UserError
from ssvid.shapes import Row


def files(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def rows(n=40, classes=4, clips=3, split="train"):
    """n groups of `clips` files each."""
    return [Row(f"g{g}_c{c}.mp4", f"class{g % classes}", split, f"g{g}") for g in range(n) for c in range(clips)]


def make(tmp_path, listed):
    return Manifest.build(listed, files(tmp_path, *(row.path for row in listed)))


def test_classes_are_of_the_whole_list(tmp_path):
    listed = [
        Row("a.mp4", "x", "train"),
        Row("b.mp4", "y", "val"),
        Row("c.mp4", None, "test"),
        Row("d.mp4", "z", "test"),
    ]
    made = make(tmp_path, listed)
    assert made.classes == ("x", "y", "z") and len(made) == 4
    test = made.split("test")
    assert test.labels.tolist() == [-1, 2] and test.labels.dtype == torch.int64 and test.classes == made.classes
    assert test.path(1) == tmp_path / "d.mp4" and made.groups == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    assert made.take([3]).labels.tolist() == [2]
    with pytest.raises(UserError, match="train, val, test"):
        made.split("dev")


def test_no_test_split_val_becomes_test_and_a_fifth_of_train_val(tmp_path):
    listed = rows() + [Row(f"v{i}.mp4", f"class{i % 4}", "val", f"v{i}") for i in range(8)]
    made = make(tmp_path, listed)
    assert [row.path for row in made.split("test").rows] == [f"v{i}.mp4" for i in range(8)]
    train, val = made.split("train"), made.split("val")
    assert not set(train.groups) & set(val.groups)
    assert len(set(val.groups)) == 8 and set(train.classes) == {row.label for row in val.rows}
    again = Manifest.build(listed[::-1], tmp_path)
    assert {row.path for row in again.split("val").rows} == {row.path for row in val.rows}  # not by order


def test_only_train_stays_train(tmp_path):
    assert len(make(tmp_path, rows()).split("train")) == 120


@pytest.mark.parametrize("both", [f"both{i}" for i in range(6)])  # whichever the hash would take first
def test_carving_keeps_each_class_on_both_sides(both):
    listed = rows(4, 2) + [Row("lone.mp4", "lone", "train", "lone")]
    # a group of two classes: taking it would leave p without a train group
    listed += [Row("p.mp4", "p", "train", both), Row("q.mp4", "q", "train", both), Row("r.mp4", "q", "train", "r")]
    moved = carve(listed, "val")
    where = {side: {row.label for row in moved if row.split == side} for side in ("train", "val")}
    assert where["train"] == {"class0", "class1", "lone", "p", "q"}
    assert where["val"] == {"class0", "class1", "q"}
    groups = {side: {row.group for row in moved if row.split == side} for side in ("train", "val")}
    assert not groups["train"] & groups["val"]


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ([], "no clips"),
        ([Row("a.mp4", split="dev")], "'dev'.*train, val, test"),
        ([Row("a.mp4"), Row("a.mp4")], "more than once, first a.mp4"),
        ([Row("a.mp4"), Row("gone/b.mp4"), Row("c.mp4")], "2 of 3 files are missing, first gone/b.mp4"),
        ([Row("a.mp4", group="g"), Row("d.mp4", group="g", split="val")], "'g' stands in splits train and val"),
    ],
)
def test_faults_are_one_sentence(tmp_path, listed, words):
    files(tmp_path, "a.mp4", "d.mp4")
    with pytest.raises(UserError, match=words):
        Manifest.build(listed, tmp_path)


def test_hash_is_of_the_rows_not_the_machine(tmp_path):
    first, second = make(tmp_path / "a", rows(3)), make(tmp_path / "b", rows(3))
    assert first.hash == second.hash
    assert first.hash != make(tmp_path / "a", rows(3, classes=2)).hash
    assert first.hash != first.take(range(8)).hash


def test_video_ids(tmp_path):
    made = make(tmp_path, [Row("a/v_x_g01_c02.avi"), Row("a/1.mp4"), Row("b/1.mp4"), Row("c/2.mp4", video_id="film")])
    assert made.video_ids == ["v_x_g01_c02", "a/1", "b/1", "film"] and made.video_id(1) == "a/1"


def test_leaks_by_path_id_and_content(tmp_path):
    names = ("v_Surf_g01_c01.avi", "clip_1.mp4", "same.mp4", "other.mp4", "fine.mp4")
    test = make(tmp_path / "t", [Row(name) for name in names])
    own = files(tmp_path / "p", "v_Surf_g01_c01.mp4", "clip_1.mp4", "renamed.mp4", "fine2.mp4")
    shutil.copy(tmp_path / "t/same.mp4", own / "renamed.mp4")
    (own / "linked.mp4").symlink_to(tmp_path / "t/other.mp4")
    (own / "fine2.mp4").write_text("9.mp4!!!")  # as long as fine.mp4's text, another content
    (own / "clip_1.mp4").write_text("a clip of another set that has this name too")
    pretraining = Manifest.build([Row(path.name) for path in sorted(own.iterdir())], own)
    assert [row.path for row in leaks(pretraining, test)] == ["linked.mp4", "renamed.mp4", "v_Surf_g01_c01.mp4"]
    assert leaks(test, test.take([])) == []
