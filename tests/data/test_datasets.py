import json
from itertools import product
from operator import attrgetter

import pytest
from PIL import Image

from ssvid.data import files
from ssvid.data.manifest import SPLITS, select_labelled
from ssvid.errors import UserError
from ssvid.registry import datasets
from tests.data.bars import picture
from tests.helpers import facts, for_each, tells


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return str(root)


def table(path, text):
    path.write_text(text)
    return str(path)


def check_refusal(name, root, *words, **options):
    """The data set `name` refuses these options in a message that names each of `words`."""
    with pytest.raises(UserError, match=facts(*words)):
        datasets[name](str(root), **options)


def paths_of(manifest):
    return tuple(row.path for row in manifest.rows)


def fields(manifest, *names):
    """These fields of each row."""
    return list(map(attrgetter(*names), manifest.rows))


def splits(manifest):
    return {name: sorted(paths_of(manifest.split(name))) for name in ("train", "val", "test")}


def check_groups(manifest):
    """No group is in two splits."""
    groups = [set(manifest.split(name).groups) for name in ("train", "val", "test")]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_csv(tmp_path):
    touch(tmp_path, "v/a.mp4", "v/b.mp4", "v/c.mp4", "v/d.mp4")
    text = "path,label,split,group,fold2,small\nv/a.mp4,x,train,g1,2,1\nv/b.mp4,x,train,g2,1,1\n"
    text += "v/c.mp4,x,validation,g3,1,0\nv/d.mp4,x,test,g4,0,1\n"
    root = table(tmp_path / "labels.csv", text)
    data_set = datasets["csv"](root)
    assert splits(data_set) == {
        "train": ["v/a.mp4", "v/b.mp4"],
        "val": ["v/c.mp4"],
        "test": ["v/d.mp4"],
    }
    assert (
        data_set.groups[0] == "x/g1"
        and data_set.rows[0].label == "x"
        and data_set.hash == datasets["csv"](str(tmp_path)).hash
    )
    other = splits(datasets["csv"](root, split_column="fold2"))  # 1 train, 2 test, 0 unused
    assert other["test"] == ["v/a.mp4"] and sorted(other["train"] + other["val"]) == [
        "v/b.mp4",
        "v/c.mp4",
    ]
    assert len(datasets["csv"](root, where="small=1")) == 3
    for options, words in [
        ({"group": "none"}, ("none", "path", "label", "group")),
        ({"where": "small"}, ("COLUMN=VALUE",)),
        ({"where": "small=7"}, ("0", "1")),
        ({"split_column": "fold9"}, ("--data.split_column",)),
    ]:
        check_refusal("csv", root, *words, **options)
    check_refusal("csv", tmp_path / "v", "labels.csv", "manifest.csv")
    check_refusal("csv", tmp_path / "none.csv", "none.csv")


def test_csv_groups_and_leak(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    root = table(tmp_path / "m.csv", "path;subject;label;split\na.mp4;s1;x;train\nb.mp4;s1;x;val\n")
    check_refusal("csv", root, "s1")
    assert len(datasets["csv"](root, group="path")) == 2


@for_each(
    "data, words",
    [
        (b"", ()),
        (b"\xef\xbb\xbf\n\n", ()),
        (b"path,label\n", ()),
        (b"path,label\na.mp4,\xff\xfe\n", ("2", "UTF-8")),
        ("path,label\na.mp4,x\n".encode("utf-16"), ("1", "UTF-8")),
        (b"path,label\na.mp4,x\n\0\0\0\0", ("3", "UTF-8")),
        # The line is counted in bytes, of which these letters and the mark at the start have more.
        ("path,label\n\u00e9\u00e9.mp4,x\n\0".encode(), ("3", "UTF-8")),
        (b"\xef\xbb\xbfpath,label\na.mp4,x\n\xff", ("3", "UTF-8")),
        (b"path,label\na.mp4,x\nb.mp4," + b"y" * 200_000, ("3",)),
        (b"path,label\n\n\na.mp4,x,y\n", ("4",)),
        (b"path,label\na.mp4,x\n,y\n", ("3",)),
        (b"path,label\nnone.mp4,x\n", ("1", "none.mp4")),
        (b"path,label,split\na.mp4,x,odd\n", ("a.mp4", "odd")),
        (b"path,label,split\na.mp4,x,train\n./a.mp4,x,test\n", ("1", "a.mp4")),
    ],
)
def test_a_csv_that_is_none_is_named(tmp_path, data, words):
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "labels.csv").write_bytes(data)
    for root in (tmp_path, tmp_path / "labels.csv"):
        check_refusal("csv", root, str(tmp_path / "labels.csv"), *words)


def test_a_labelled_csv_without_splits_holds_groups_out(tmp_path, capsys):
    names, lines = [], []
    for number in range(20):
        names.append(f"{number}.mp4")
        lines.append(f"{number}.mp4,{'xy'[number % 2]},p{number // 4}")
    touch(tmp_path, *names)
    root = table(tmp_path / "people.csv", "\n".join(["path,label,person", *lines]))
    data = datasets["csv"](root, group="person")
    people = {}
    for name in SPLITS:
        people[name] = {row.group for row in data.split(name).rows}
    assert all(people.values()) and not people["test"] & (people["train"] | people["val"])
    assert "--data.group" not in capsys.readouterr().err
    datasets["csv"](root)
    assert tells(capsys.readouterr().err, "warning", "person", "--data.group")
    unlabelled = table(tmp_path / "plain.csv", "\n".join(["path", *names]))
    assert len(datasets["csv"](unlabelled).split("train")) == 20


def test_groups_of_one_clip_are_said(tmp_path, capsys):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    text = "path,label,split,group\na.mp4,x,train,1\nb.mp4,x,train,{}\nc.mp4,x,test,3\n"
    datasets["csv"](table(tmp_path / "lone.csv", text.format(2)))
    assert tells(capsys.readouterr().err, "lone.csv", "--data.group")
    datasets["csv"](table(tmp_path / "fine.csv", text.format(1)))
    assert not tells(capsys.readouterr().err, "--data.group")
    other = text.format(1).replace("group", "person")
    for _ in range(2):  # it is told once
        datasets["csv"](table(tmp_path / "none.csv", other))
    err = capsys.readouterr().err
    assert tells(err, "none.csv", "warning", "person", "--data.group") and err.count("--data") == 1
    datasets["csv"](str(tmp_path / "none.csv"), group="person")
    datasets["csv"](table(tmp_path / "train.csv", other.replace("test", "train")))
    assert capsys.readouterr().err == ""  # nothing is held out


def test_a_folder_whose_names_tell_no_films_says_so(tmp_path, capsys):
    datasets["folder"](touch(tmp_path / "plain", "x/1.mp4", "x/2.mp4", "y/1.mp4", "y/2.mp4"))
    assert tells(capsys.readouterr().err, "warning", str(tmp_path / "plain"), "csv", "group")
    films = [f"{name}/v_{name}_g0{g}_c0{c}.avi" for name, g, c in product("xy", "12", "12")]
    datasets["folder"](touch(tmp_path / "films", *films))
    datasets["folder"](touch(tmp_path / "flat", "1.mp4", "2.mp4"))
    assert "warning" not in capsys.readouterr().err


def test_an_empty_class_is_named(tmp_path):
    for layout in ("x/1.mp4", "y/2.mp4"), ("train/x/1.mp4", "train/y/2.mp4", "test/x/3.mp4"):
        root = tmp_path / layout[0].split("/")[0]
        data_set = touch(root, *layout)
        inside = root / layout[0].rpartition("/x/")[0]
        (inside / ".cache").mkdir()
        touch(inside, "lists/a.txt")  # no class, but not empty either
        assert datasets["folder"](data_set).classes == ("x", "y")
        (inside / "z/deep").mkdir(parents=True)
        check_refusal("folder", data_set, data_set, "z")
        assert datasets["folder"](data_set, labels=False).classes == ()


def test_folder_layouts(tmp_path, capsys):
    flat = datasets["folder"](
        touch(tmp_path / "flat", "a.mp4", "deep/er/b.webm", ".hid/c.mp4", "n.txt")
    )
    assert (
        splits(flat) == {"train": ["a.mp4", "deep/er/b.webm"], "val": [], "test": []}
        and flat.classes == ()
    )
    names = []
    for label, group in product(("Dive", "Surf"), range(1, 11)):
        names += [f"{label}/v_{label}_g{group:02d}_c{i:02d}.avi" for i in (1, 2)]
    assert capsys.readouterr().err == ""
    classes = datasets["folder"](touch(tmp_path / "classes", *names))
    assert tells(capsys.readouterr().err, "24", "8"), "it says which splits it made"
    assert classes.classes == ("Dive", "Surf")
    assert list(map(len, splits(classes).values())) == [24, 8, 8]
    check_groups(classes)
    with_splits = datasets["folder"](
        touch(tmp_path / "given", "train/x/1.mp4", "train/y/2.mp4", "val/x/3.mp4", "test/y/4.mp4")
    )
    assert splits(with_splits)["test"] == ["test/y/4.mp4"] and with_splits.classes == ("x", "y")
    warned = capsys.readouterr().err.replace(str(tmp_path), "")  # which may hold that number
    assert "24" not in warned, "it makes no splits"
    assert datasets["folder"](str(tmp_path / "classes"), labels=False).classes == ()


@for_each(
    "names, words",
    [
        (("a.mp4", "b.mp4"), ("a.mp4", "ROOT/CLASS/clip.mp4")),
        (("a/b/1.mp4", "a/b/2.mp4"), ("a", "ROOT/CLASS/clip.mp4")),
        (("videos/x/1.mp4", "videos/y/2.mp4"), ("videos", "x, y", "--data.root {root}/videos")),
    ],
)
def test_a_score_of_a_folder_without_classes_names_the_layout(tmp_path, names, words):
    data = datasets["folder"](touch(tmp_path, *names))
    with pytest.raises(UserError, match=facts(*(word.format(root=tmp_path) for word in words))):
        select_labelled(data)


def test_folder_faults(tmp_path):
    check_refusal("folder", touch(tmp_path, "notes.txt"), str(tmp_path))
    check_refusal("folder", tmp_path / "none", str(tmp_path / "none"))
    check_refusal("folder", touch(tmp_path / "m", "a.mp4", "x/b.mp4"), "a.mp4", labels=True)


def test_frames(tmp_path):
    for clip in ("train/x/one", "train/y/two", "test/x/three"):
        (tmp_path / clip).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(picture(i)).save(tmp_path / clip / f"{i:05d}.jpg")
    data_set = datasets["frames"](str(tmp_path), fps=12.0)
    assert splits(data_set)["test"] == ["test/x/three"] and {row.fps for row in data_set.rows} == {
        12.0
    }
    listed = datasets["frames"](
        table(tmp_path / "l.csv", "path,label\ntrain/x/one,x\ntest/x/three,x\n"), fps=5.0
    )
    assert len(listed) == 2 and listed.rows[0].fps == 5.0
    check_refusal("frames", touch(tmp_path / "e", "a.txt"), str(tmp_path / "e"), fps=5.0)
    check_refusal("frames", tmp_path, "--data.fps", "0", fps=0.0)


def test_ucf101_with_the_official_lists(shared, tmp_path):
    lists = shared / "annotations/ucf101"
    texts = [(lists / f"{name}list01.txt").read_text() for name in ("train", "test")]
    lines = "".join(texts).splitlines()
    few = [line.split()[0] for line in lines if line.startswith(("Archery/", "Surfing/"))]
    root = touch(tmp_path / "videos", *(name.replace(".avi", ".mp4") for name in few))
    check_refusal("ucf101", root, "13049", "13320", "--data.present", splits=str(lists))
    data_set = datasets["ucf101"](root, splits=str(lists), present=True)
    assert data_set.classes == ("Archery", "Surfing") and len(data_set.split("test")) == 41 + 33
    assert data_set.groups[0] == "Archery_g01" and data_set.video_id(0) == "v_Archery_g01_c01"
    data_of_fold = [
        datasets["ucf101"](root, splits=str(lists), present=True, fold=k) for k in (1, 2, 3)
    ]
    # In one order, so that the folds share features.
    assert len(set(map(paths_of, data_of_fold))) == 1
    folds = [set(fold.split("test").video_ids) for fold in data_of_fold]
    assert not folds[0] & folds[1] and not folds[1] & folds[2]
    check_refusal("ucf101", root, "1", "2", "3", splits=str(lists), fold=4)


def test_pathlist_lines(tmp_path):
    root = touch(tmp_path / "v", "a b/one two.mp4", "x,y.mp4", "three.mp4", "four.webm", "five.mp4")
    train = table(tmp_path / "train.txt", "a b/one two.mp4 3\nx,y.mp4,12\nthree.mp4\t0\n\n")
    data_set = datasets["pathlist"](
        root, train=train, val=table(tmp_path / "val.txt", "sub/four 1\nfive.mp4\n")
    )
    rows = {row.path: row.label for row in data_set.rows}
    assert rows == {
        "a b/one two.mp4": "3",
        "x,y.mp4": "12",
        "three.mp4": "0",
        "four.webm": "1",
        "five.mp4": None,
    }
    names = table(tmp_path / "map.txt", "\n".join(map("class {}".format, range(13))))
    assert datasets["pathlist"](root, train=train, label_map=names).classes == (
        "class 0",
        "class 12",
        "class 3",
    )
    half = table(tmp_path / "t.txt", "gone.mp4 1\nfive.mp4 1\n")
    check_refusal("pathlist", root, "1", "2", "gone.mp4", train=half)
    assert len(datasets["pathlist"](root, train=half, missing_ok=0.5)) == 1
    check_refusal("pathlist", root, "--data.train")


@for_each(
    "name, data, words",
    [
        ("b.json", b"{", ()),
        ("b.json", b"[\n\xff\xfe]", ("2", "UTF-8")),
        ("b.json", b'{"101": "Dropping"}', ("SSv2",)),
        ("b.json", b"7", ("SSv2",)),
        ("b.json", b'[{"id": 101}, 3]', ("2", "SSv2")),
        ("b.json", b'[{"vid_name": "101"}]', ("1", "SSv2")),
        ("b.json", b'[{"id": "101"}, {"label": 7}]', ("2", "SSv2")),
        ("b.txt", b"", ()),
        ("b.txt", b"101 3\n102 \xff\n", ("2", "UTF-8")),
        ("b.csv", b"101 3\n" + bytes(range(256)), ("3", "UTF-8")),
        (
            "b.csv",
            b"label,youtube_id,time_start,time_end\na,b,0,1\na,101,x,12\n",
            ("3", "time_start"),
        ),
        ("b.csv", b"label,youtube_id,time_start,time_end\na,101,2,\n", ("2", "time_start")),
        ("b.csv", b"label,youtube_id,time_start,time_end\na,101,inf,nan\n", ("2", "time_start")),
        ("b.csv", b"label,youtube_id,time_start\na,101,2\n", ("2", "time_start")),
        ("b.csv", b"label,the youtube_id\na,101\n", ("youtube_id",)),
    ],
)
def test_a_list_that_is_none_is_named(tmp_path, name, data, words):
    root = touch(tmp_path / "v", "101.webm", "102.webm")
    (tmp_path / name).write_bytes(data)
    train = str(tmp_path / name)
    check_refusal("pathlist", root, train, *words, train=train, missing_ok=1.0)


def test_numbers_where_a_json_list_has_text(tmp_path):
    root = touch(tmp_path / "v", "101.webm", "102.webm")
    train = table(
        tmp_path / "b.json", json.dumps([{"id": 101, "label": 3}, {"vid_name": 102, "label": 4}])
    )
    data_set = datasets["pathlist"](root, train=train)
    assert fields(data_set, "path", "label") == [
        ("101.webm", "3"),
        ("102.webm", "4"),
    ]


def test_label_maps(tmp_path):
    root = touch(tmp_path / "v", "101.webm")
    train = table(tmp_path / "b.txt", "101.webm 1\n")
    for text, name in [
        ('["a", "b"]', "b"),
        ('["0", "7"]', "7"),
        ('{"b": 1}', "b"),
        ('{"1": "b"}', "b"),
    ]:
        data_set = datasets["pathlist"](
            root, train=train, label_map=table(tmp_path / "map.json", text)
        )
        assert data_set.classes == (name,)
    for name, data, words in [
        ("map.json", b"{", ()),
        ("map.json", b"3", ()),
        ("map.json", b'{"1": ["b"]}', ()),
        ("map.json", b"\xff", ("1", "UTF-8")),
        ("map.txt", b"a\n\xff", ("2", "UTF-8")),
    ]:
        (tmp_path / name).write_bytes(data)
        label_map = str(tmp_path / name)
        check_refusal("pathlist", root, label_map, *words, train=train, label_map=label_map)


def test_ucf101_list_that_is_no_text(tmp_path):
    root = touch(tmp_path / "videos", "Surf/v_Surf_g01_c01.avi")
    (tmp_path / "trainlist01.txt").write_bytes(b"Surf/v_Surf_g01_c01.avi 1\n\xff\xfe\n")
    check_refusal("ucf101", root, "trainlist01.txt", "2", "UTF-8", splits=str(tmp_path))


def test_a_csv_head_with_spaces_is_read_and_two_alike_are_refused(tmp_path):
    for name in ("0.mp4", "1.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "labels.csv").write_text(
        "path, label, split, group\n0.mp4, a, train, g0\n1.mp4, a, test, g1\n"
    )
    rows = datasets["csv"](str(tmp_path)).rows
    assert [(r.label, r.split, r.group) for r in rows if r.path == "1.mp4"][0][:2] == ("a", "test")
    (tmp_path / "labels.csv").write_text("path,label,label\n0.mp4,a,b\n")
    check_refusal("csv", tmp_path, "label")


def test_each_folder_is_read_once_whatever_links_lead_to_it(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    touch(root, "a/1.mp4", "b/2.mp4")
    touch(outside, "3.mp4")
    links = [("again", "."), ("a/up", ".."), ("a/b", "../b"), ("b/a", "../a"), ("c", outside)]
    for link, target in links:
        (root / link).symlink_to(target)
    assert files.list_videos(root) == ["a/1.mp4", "b/2.mp4", "c/3.mp4"]
