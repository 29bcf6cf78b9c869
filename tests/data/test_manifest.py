import hashlib
import shutil
from collections import defaultdict
from dataclasses import replace
from itertools import product

import pytest
import torch

from ssvid.data import manifest as module
from ssvid.data.leaks import find_leaks
from ssvid.data.manifest import Manifest, select_labelled
from ssvid.data.splits import hold_out_groups
from ssvid.errors import UserError
from ssvid.shapes import Box, Row
from tests.helpers import facts, for_each, tells


def files(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def rows(n=40, classes=4, clips=3, split="train"):
    """n groups of `clips` files each."""
    return [
        Row(f"g{g}_c{c}.mp4", f"class{g % classes}", split, f"g{g}")
        for g, c in product(range(n), range(clips))
    ]


def make(tmp_path, listed):
    return Manifest.build(listed, files(tmp_path, *paths_of(listed)))


def paths_of(listed):
    return [row.path for row in listed]


def test_classes_are_of_the_whole_list(tmp_path):
    listed = [Row("a.mp4", "x", "train"), Row("b.mp4", "y", "val")]
    data = make(tmp_path, [*listed, Row("c.mp4", None, "test"), Row("d.mp4", "z", "test")])
    assert data.classes == ("x", "y", "z") and len(data) == 4
    test = data.split("test")
    assert (
        test.labels.tolist() == [-1, 2]
        and test.labels.dtype == torch.int64
        and test.classes == data.classes
    )
    assert test.path(1) == tmp_path / "d.mp4" and data.groups == [
        "a.mp4",
        "b.mp4",
        "c.mp4",
        "d.mp4",
    ]
    assert data.take([3]).labels.tolist() == [2]
    with pytest.raises(UserError, match=facts("train", "val", "test")):
        data.split("dev")


def test_no_test_split_val_becomes_test_and_a_fifth_of_train_val(tmp_path):
    listed = rows() + [Row(f"v{i}.mp4", f"class{i % 4}", "val", f"v{i}") for i in range(8)]
    data = make(tmp_path, listed)
    assert paths_of(data.split("test").rows) == [f"v{i}.mp4" for i in range(8)]
    train, val = data.split("train"), data.split("val")
    assert not set(train.groups) & set(val.groups)
    assert len(set(val.groups)) == 8 and set(train.classes) == {row.label for row in val.rows}
    again = Manifest.build(listed[::-1], tmp_path)
    assert set(paths_of(again.split("val").rows)) == {row.path for row in val.rows}  # not by order


@for_each("both", [f"both{i}" for i in range(6)])  # whichever the hash would take first
def test_carving_keeps_each_class_on_both_sides(both):
    listed = rows(4, 2) + [Row("lone.mp4", "lone", "train", "lone")]
    # a group of two classes: taking it would leave p without a train group
    listed += [
        Row("p.mp4", "p", "train", both),
        Row("q.mp4", "q", "train", both),
        Row("r.mp4", "q", "train", "r"),
    ]
    moved = hold_out_groups(listed, "val")
    labels, groups = defaultdict(set), defaultdict(set)  # of each split
    for row in moved:
        labels[row.split].add(row.label)
        groups[row.split].add(row.group)
    assert labels["train"] == {"class0", "class1", "lone", "p", "q"}
    assert labels["val"] == {"class0", "class1", "q"}
    assert not groups["train"] & groups["val"]


@for_each(
    "listed, words",
    [
        ([], ()),
        ([Row("a.mp4", split="dev")], ("dev",)),
        ([Row("a.mp4"), Row("a.mp4")], ("a.mp4",)),
        ([Row("a.mp4"), Row("gone/b.mp4"), Row("c.mp4")], ("2", "3", "gone/b.mp4")),
        ([Row("a.mp4", group="g"), Row("d.mp4", group="g", split="val")], ("g",)),
    ],
)
def test_faults_are_one_sentence_that_names_the_list(tmp_path, listed, words):
    files(tmp_path, "a.mp4", "d.mp4")
    with pytest.raises(UserError, match=facts(str(tmp_path / "list.csv"), *words)):
        Manifest.build(listed, tmp_path, source=tmp_path / "list.csv")


@for_each("alias", ["./0.mp4", "a/../0.mp4", "a//../0.mp4", "link.mp4", "b/0.mp4", "{root}/0.mp4"])
def test_one_file_under_two_names_is_refused(tmp_path, alias):
    files(tmp_path, "0.mp4", "a/1.mp4", "2.mp4")
    (tmp_path / "link.mp4").symlink_to("0.mp4")
    (tmp_path / "b").symlink_to(tmp_path)
    listed = [Row("2.mp4"), Row("0.mp4"), Row(alias.format(root=tmp_path), split="test")]
    with pytest.raises(UserError, match=facts("1", "0.mp4")):
        Manifest.build(listed, tmp_path)
    with pytest.raises(UserError, match=r"\b0\.mp4"):
        Manifest.build(listed[::-1], tmp_path)


def test_paths_are_made_plain_and_stay_the_users(tmp_path, monkeypatch):
    files(tmp_path, "0.mp4", "a/1.mp4", "away/in/2.mp4", "away/3.mp4", "3.mp4")
    (tmp_path / "link.mp4").symlink_to("0.mp4")
    (tmp_path / "hop").symlink_to(tmp_path / "away/in")
    names = ("./link.mp4", "./a//1.mp4", "hop/2.mp4", "hop/../3.mp4", "3.mp4")
    data = Manifest.build([Row(name) for name in names], tmp_path)
    assert paths_of(data.rows) == [
        "link.mp4",
        "a/1.mp4",
        "hop/2.mp4",
        "hop/../3.mp4",
        "3.mp4",
    ]
    assert data.groups == paths_of(data.rows)
    assert [data.path(i).read_text() for i in (3, 4)] == [
        "away/3.mp4",
        "3.mp4",
    ]  # beyond a link .. is elsewhere
    named = Manifest.build([Row("./0.mp4", group="film")], tmp_path)
    monkeypatch.chdir(tmp_path)
    assert (
        named.groups == ["film"]
        and named.hash == Manifest.build([Row("0.mp4", group="film")], ".").hash
    )


def test_real_paths_are_asked_for_links_only(tmp_path, monkeypatch):
    """A realpath is a stat for each part of a path: too slow for 240k files on a network disk."""
    resolved = []
    real = module.os.path.realpath
    monkeypatch.setattr(
        module.os.path, "realpath", lambda path: resolved.append(str(path)) or real(path)
    )
    make(tmp_path, rows())
    assert resolved == [str(tmp_path)]


def test_made_splits_are_said_once(tmp_path, capsys, monkeypatch):
    val = [Row(f"v{i}.mp4", f"class{i % 4}", "val", f"v{i}") for i in range(8)]
    test = [Row(row.path, row.label, "test", row.group) for row in val]
    for listed, options, expected in [
        (rows(), {"hold_out": True}, ("72 train", "24 val", "24 test")),
        (rows(), {}, ()),
        (rows() + val, {}, ("96 train", "24 val", "8 test")),
        (rows() + test, {}, ("96 train", "24 val", "8 test")),
        (rows(split="test"), {}, ()),
    ]:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        files(root, *paths_of(listed))
        for _ in range(2):
            data = Manifest.build(listed, root, **options)
        assert expected or len(data.split("val")) == 0, "what has one split alone stays as it is"
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == bool(expected) and (
            not expected or tells(lines[0], str(root), *expected)
        )
    monkeypatch.setenv("RANK", "1")
    Manifest.build(rows() + val, files(tmp_path / "rank", *paths_of(rows() + val)))
    assert capsys.readouterr().err == ""


def test_hash_is_of_the_rows_not_the_machine(tmp_path):
    first, second = make(tmp_path / "a", rows(3)), make(tmp_path / "b", rows(3))
    assert first.hash == second.hash
    assert first.hash != make(tmp_path / "a", rows(3, classes=2)).hash
    assert first.hash != first.take(range(8)).hash


def test_hashes_of_one_label_a_clip_stay_as_they_were(tmp_path):
    data = make(
        tmp_path,
        [
            Row("a.mp4", "x", "train", "g"),
            Row("b.mp4", None, "test", duration=3.0, video_id="film"),
        ],
    )
    lines = "a.mp4\tx\ttrain\tg\nb.mp4\t\ttest\tb.mp4"
    assert data.hash == hashlib.sha256(lines.encode()).hexdigest()


def test_clips_of_several_classes(tmp_path):
    segments = ((0.0, 1.5, "x"), (1.0, 2.0, "y"))
    boxes = (Box(1.0, 0.0, 0.1, 0.5, 1.0, ("y", "z"), "1"),)
    listed = [
        Row("a.mp4", split="test", segments=segments),
        Row("b.mp4", split="test", boxes=boxes),
        Row("c.mp4", "w"),
    ]
    data = make(tmp_path, listed)
    assert data.classes == ("w", "x", "y", "z") and data.labels.tolist() == [-1, -1, 0]
    assert data.targets.int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 0]]
    assert data.split("test").targets.shape == (2, 4) and data.targets.dtype == torch.bool
    other = [
        [replace(listed[0], segments=segments[::-1]), *listed[1:]],
        [replace(listed[0], segments=((0.0, 1.25, "x"), segments[1])), *listed[1:]],
        [listed[0], replace(listed[1], boxes=(boxes[0]._replace(person="2"),)), listed[2]],
        [replace(listed[0], segments=()), *listed[1:]],
    ]
    assert len({data.hash, *(Manifest.build(rows, tmp_path).hash for rows in other)}) == 5
    with pytest.raises(UserError):
        select_labelled(Manifest.build(listed[:2], tmp_path))


def test_carving_counts_each_class_of_a_clip(tmp_path):
    both = ((0.0, 1.0, "p"), (0.0, 1.0, "q"))
    listed = [
        Row(f"{i}.mp4", group=f"g{i}", segments=both if i < 4 else both[i % 2 : i % 2 + 1])
        for i in range(12)
    ]
    moved = hold_out_groups(listed, "val")
    for name in ("p", "q"):
        assert {row.split for row in moved if name in row.classes} == {"train", "val"}
    lone = hold_out_groups(
        [*listed, Row("r.mp4", group="r", segments=((0.0, 1.0, "rare"),))], "val"
    )
    assert lone[-1].split == "train" and lone[:-1] == moved


def test_carving_many_groups_of_no_class_is_quick():
    moved = hold_out_groups(
        (Row(f"{i}.mp4", group=str(i)) for i in range(20_000)), "val"
    )  # as sets, this took minutes
    assert sum(row.split == "val" for row in moved) == 4000


@for_each(
    "listed, words",
    [
        (["train/x", "val/x"], ("test",)),
        (["train/x", "val/x", "test/x", "test/y"], ("test", "train", "y")),
    ],
)
def test_labels_that_give_no_score_are_one_sentence(tmp_path, listed, words):
    rows = [Row(f"{name}.mp4", name[-1], name.split("/")[0]) for name in listed]
    files(tmp_path, *paths_of(rows))
    with pytest.raises(UserError, match=facts(*words)):
        select_labelled(Manifest(tuple(rows), tmp_path, ("x", "y")))


def test_video_ids(tmp_path):
    data = make(
        tmp_path,
        [Row("a/v_x_g01_c02.avi"), Row("a/1.mp4"), Row("b/1.mp4"), Row("c/2.mp4", video_id="film")],
    )
    assert data.video_ids == ["v_x_g01_c02", "a/1", "b/1", "film"] and data.video_id(1) == "a/1"


def test_leaks_by_path_id_and_content(tmp_path):
    names = ("v_Surf_g01_c01.avi", "clip_1.mp4", "same.mp4", "other.mp4", "fine.mp4")
    test = make(tmp_path / "t", [Row(name) for name in names])
    folder = files(tmp_path / "p", "v_Surf_g01_c01.mp4", "clip_1.mp4", "renamed.mp4", "fine2.mp4")
    shutil.copy(tmp_path / "t/same.mp4", folder / "renamed.mp4")
    (folder / "linked.mp4").symlink_to(tmp_path / "t/other.mp4")
    (folder / "fine2.mp4").write_text("9.mp4!!!")  # as long as fine.mp4's text, another content
    (folder / "clip_1.mp4").write_text("a clip of another set that has this name too")
    pretraining = Manifest.build([Row(path.name) for path in sorted(folder.iterdir())], folder)
    assert paths_of(find_leaks(pretraining, test)) == [
        "linked.mp4",
        "renamed.mp4",
        "v_Surf_g01_c01.mp4",
    ]
    assert find_leaks(test, test.take([])) == []


def test_leaks_see_through_aliases(tmp_path):
    """By path alone: the content of folders is not compared, and these names are not unique."""
    files(tmp_path, *(f"{name}/0.jpg" for name in ("1", "2", "3", "sub/4")))
    (tmp_path / "5").symlink_to("2")
    (tmp_path / "other").symlink_to(tmp_path)
    test = Manifest.build([Row("1"), Row("2")], tmp_path)
    for name, leaked in [("./1", 1), ("sub/../1", 1), ("5", 1), ("other/2", 1), ("./3", 0)]:
        built, raw = (
            Manifest.build([Row(name)], tmp_path),
            Manifest((Row(name, video_id="x"),), tmp_path),
        )
        assert len(find_leaks(built, test)) == len(find_leaks(raw, test)) == leaked, name
        assert len(find_leaks(Manifest((Row(name),), tmp_path / "other"), test)) == leaked, name
