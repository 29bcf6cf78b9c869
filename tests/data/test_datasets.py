import json

import pytest
from PIL import Image

from ssvid.errors import UserError
from ssvid.registry import datasets
from tests.data.bars import picture
from tests.helpers import facts, for_each


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return str(root)


def table(path, text):
    path.write_text(text)
    return str(path)


def splits(manifest):
    return {name: sorted(row.path for row in manifest.split(name).rows) for name in ("train", "val", "test")}


def test_csv(tmp_path):
    touch(tmp_path, "v/a.mp4", "v/b.mp4", "v/c.mp4", "v/d.mp4")
    text = "path,label,split,group,fold2,small\n" + "".join(
        f"v/{name}.mp4,x,{split},{group},{fold},{small}\n"
        for name, split, group, fold, small in [
            *(("a", "train", "g1", "2", 1), ("b", "train", "g2", "1", 1)),
            *(("c", "validation", "g3", "1", 0), ("d", "test", "g4", "0", 1)),
        ]
    )
    root = table(tmp_path / "labels.csv", text)
    made = datasets["csv"](root)
    assert splits(made) == {"train": ["v/a.mp4", "v/b.mp4"], "val": ["v/c.mp4"], "test": ["v/d.mp4"]}
    assert made.groups[0] == "x/g1" and made.rows[0].label == "x" and made.hash == datasets["csv"](str(tmp_path)).hash
    other = splits(datasets["csv"](root, split_column="fold2"))  # 1 train, 2 test, 0 unused
    assert other["test"] == ["v/a.mp4"] and sorted(other["train"] + other["val"]) == ["v/b.mp4", "v/c.mp4"]
    assert len(datasets["csv"](root, where="small=1")) == 3
    for options, words in [
        ({"group": "none"}, "no column 'none'.*path, label"),
        ({"where": "small"}, "COLUMN=VALUE"),
        ({"where": "small=7"}, "values are 0, 1"),
        ({"split_column": "fold9"}, "--data.split_column"),
    ]:
        with pytest.raises(UserError, match=words):
            datasets["csv"](root, **options)
    with pytest.raises(UserError, match=facts("labels.csv", "manifest.csv")):
        datasets["csv"](str(tmp_path / "v"))
    with pytest.raises(UserError, match="does not exist"):
        datasets["csv"](str(tmp_path / "none.csv"))


def test_csv_groups_and_leak(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    root = table(tmp_path / "m.csv", "path;subject;label;split\na.mp4;s1;x;train\nb.mp4;s1;x;val\n")
    with pytest.raises(UserError, match=facts("s1")):
        datasets["csv"](root)
    assert len(datasets["csv"](root, group="path")) == 2


def test_csv_with_too_many_fields(tmp_path):
    with pytest.raises(UserError, match=facts("m.csv", "4")):
        datasets["csv"](table(tmp_path / "m.csv", "path,label\n\n\na.mp4,x,y\n"))


@for_each(
    "data, words",
    [
        (b"", " is empty"),
        (b"\xef\xbb\xbf\n\n", " is empty"),
        (b"path,label\n", " lists no clips"),
        (b"path,label\na.mp4,\xff\xfe\n", ", line 2 is no UTF-8 text"),
        (bytes(range(256)), ", line 2 is no UTF-8 text"),
        ("path,label\na.mp4,x\n".encode("utf-16"), ", line 1 is no UTF-8 text"),
        (b"path,label\na.mp4,x\n\0\0\0\0", ", line 3 is no UTF-8 text"),
        (b"path,label\na.mp4,x\nb.mp4," + b"y" * 200_000, ", line 3 cannot be read as a csv: field larger"),
        (b"path,label\na.mp4,x\n,y\n", ", line 3 has no path"),
        (b"path,label\nnone.mp4,x\n", ": 1 of 1 files are missing, first none.mp4"),
        (b"path,label,split\na.mp4,x,odd\n", ": a.mp4 is in split 'odd'"),
        (b"path,label,split\na.mp4,x,train\n./a.mp4,x,test\n", " lists 1 files more than once, first a.mp4"),
    ],
)
def test_a_csv_that_is_none_is_named(tmp_path, data, words):
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "labels.csv").write_bytes(data)
    for root in (tmp_path, tmp_path / "labels.csv"):
        with pytest.raises(UserError) as error:
            datasets["csv"](str(root))
        assert str(error.value).startswith(f"{tmp_path / 'labels.csv'}{words}")


def test_groups_of_one_clip_are_said(tmp_path, capsys):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    text = "path,label,split,group\na.mp4,x,train,1\nb.mp4,x,train,{}\nc.mp4,x,test,3\n"
    datasets["csv"](table(tmp_path / "lone.csv", text.format(2)))
    assert "lone.csv: each group of column 'group' holds one clip" in capsys.readouterr().err
    datasets["csv"](table(tmp_path / "fine.csv", text.format(1)))
    datasets["csv"](table(tmp_path / "none.csv", text.format(1).replace("group", "other")))
    assert "holds one clip" not in capsys.readouterr().err


def test_an_empty_class_is_named(tmp_path):
    for layout in ("x/1.mp4", "y/2.mp4"), ("train/x/1.mp4", "train/y/2.mp4", "test/x/3.mp4"):
        root = tmp_path / layout[0].split("/")[0]
        made = touch(root, *layout)
        inside = root / layout[0].rpartition("/x/")[0]
        (inside / ".cache").mkdir()
        touch(inside, "lists/a.txt")  # no class, but not empty either
        assert datasets["folder"](made).classes == ("x", "y")
        (inside / "z/deep").mkdir(parents=True)
        with pytest.raises(UserError, match=f"{made}: class folders z hold no files"):
            datasets["folder"](made)
        assert datasets["folder"](made, labels=False).classes == ()


def test_folder_layouts(tmp_path):
    flat = datasets["folder"](touch(tmp_path / "flat", "a.mp4", "deep/er/b.webm", ".hid/c.mp4", "n.txt"))
    assert splits(flat) == {"train": ["a.mp4", "deep/er/b.webm"], "val": [], "test": []} and flat.classes == ()
    names = [f"{c}/v_{c}_g{g:02d}_c{i:02d}.avi" for c in ("Dive", "Surf") for g in range(1, 11) for i in (1, 2)]
    classes = datasets["folder"](touch(tmp_path / "classes", *names))
    assert classes.classes == ("Dive", "Surf")
    assert {split: len(classes.split(split)) for split in ("train", "val", "test")} == {
        **{"train": 24, "val": 8, "test": 8}
    }
    groups = [set(classes.split(split).groups) for split in ("train", "val", "test")]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    given = datasets["folder"](
        touch(tmp_path / "given", "train/x/1.mp4", "train/y/2.mp4", "val/x/3.mp4", "test/y/4.mp4")
    )
    assert splits(given)["test"] == ["test/y/4.mp4"] and given.classes == ("x", "y")
    assert datasets["folder"](str(tmp_path / "classes"), labels=False).classes == ()


def test_folder_says_which_splits_it_made(tmp_path, capsys):
    names = [f"{c}/v_{c}_g{g:02d}_c{i:02d}.avi" for c in ("Dive", "Surf") for g in range(1, 11) for i in (1, 2)]
    datasets["folder"](touch(tmp_path / "classes", *names))
    assert capsys.readouterr().err.endswith(
        "classes: no split given, whole groups are held out: 24 train, 8 val, 8 test clips.\n"
    )
    datasets["folder"](touch(tmp_path / "given", "train/x/1.mp4", "val/x/3.mp4", "test/y/4.mp4"))
    datasets["folder"](touch(tmp_path / "flat", "1.mp4", "2.mp4"))
    assert capsys.readouterr().err == ""


def test_folder_faults(tmp_path):
    with pytest.raises(UserError, match="holds no video files"):
        datasets["folder"](touch(tmp_path, "notes.txt"))
    with pytest.raises(UserError, match="does not exist"):
        datasets["folder"](str(tmp_path / "none"))
    with pytest.raises(UserError, match=facts("a.mp4")):
        datasets["folder"](touch(tmp_path / "m", "a.mp4", "x/b.mp4"), labels=True)


def test_frames(tmp_path):
    for clip in ("train/x/one", "train/y/two", "test/x/three"):
        (tmp_path / clip).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(picture(i)).save(tmp_path / clip / f"{i:05d}.jpg")
    made = datasets["frames"](str(tmp_path), fps=12.0)
    assert splits(made)["test"] == ["test/x/three"] and {row.fps for row in made.rows} == {12.0}
    listed = datasets["frames"](table(tmp_path / "l.csv", "path,label\ntrain/x/one,x\ntest/x/three,x\n"), fps=5.0)
    assert len(listed) == 2 and listed.rows[0].fps == 5.0
    with pytest.raises(UserError, match="no folders of jpeg"):
        datasets["frames"](touch(tmp_path / "e", "a.txt"), fps=5.0)
    with pytest.raises(UserError, match="not a rate"):
        datasets["frames"](str(tmp_path), fps=0.0)


def test_ucf101_with_the_official_lists(shared, tmp_path):
    lists = shared / "annotations/ucf101"
    listed = [
        line.split()[0]
        for n in ("train", "test")
        for line in (lists / f"{n}list01.txt").read_text().split("\n")
        if line
    ]
    few = [name for name in listed if name.startswith(("Archery/", "Surfing/"))]
    root = touch(tmp_path / "videos", *(name.replace(".avi", ".mp4") for name in few))
    with pytest.raises(UserError, match=facts("13049", "13320", "--data.present")):
        datasets["ucf101"](root, splits=str(lists))
    made = datasets["ucf101"](root, splits=str(lists), present=True)
    assert made.classes == ("Archery", "Surfing") and len(made.split("test")) == 41 + 33
    assert made.groups[0] == "Archery_g01" and made.video_id(0) == "v_Archery_g01_c01"
    each = [datasets["ucf101"](root, splits=str(lists), present=True, fold=k) for k in (1, 2, 3)]
    assert len({tuple(row.path for row in fold.rows) for fold in each}) == 1  # in one order: they share features
    folds = [set(fold.split("test").video_ids) for fold in each]
    assert not folds[0] & folds[1] and not folds[1] & folds[2]
    with pytest.raises(UserError, match=facts("1", "2", "3")):
        datasets["ucf101"](root, splits=str(lists), fold=4)


def test_pathlist_lines(tmp_path):
    root = touch(tmp_path / "v", "a b/one two.mp4", "x,y.mp4", "three.mp4", "four.webm", "five.mp4")
    train = table(tmp_path / "train.txt", "a b/one two.mp4 3\nx,y.mp4,12\nthree.mp4\t0\n\n")
    made = datasets["pathlist"](root, train=train, val=table(tmp_path / "val.txt", "sub/four 1\nfive.mp4\n"))
    rows = {row.path: row.label for row in made.rows}
    assert rows == {"a b/one two.mp4": "3", "x,y.mp4": "12", "three.mp4": "0", "four.webm": "1", "five.mp4": None}
    names = table(tmp_path / "map.txt", "\n".join(f"class {i}" for i in range(13)))
    assert datasets["pathlist"](root, train=train, label_map=names).classes == ("class 0", "class 12", "class 3")
    with pytest.raises(UserError, match=facts("1", "2", "gone.mp4")):
        datasets["pathlist"](root, train=table(tmp_path / "t.txt", "gone.mp4 1\nfive.mp4 1\n"))
    assert len(datasets["pathlist"](root, train=str(tmp_path / "t.txt"), missing_ok=0.5)) == 1
    with pytest.raises(UserError, match=facts("--data.train")):
        datasets["pathlist"](root)


def test_pathlist_kinetics_csv(tmp_path):
    root = touch(tmp_path / "v", "abseiling/-abcdefghij_000012_000022.mp4", "zumba/___________.mkv")
    head = "label,youtube_id,time_start,time_end,split\n"
    train = table(tmp_path / "k.csv", head + "abseiling,-abcdefghij,12,22,train\nzumba,___________,3,13,train\n")
    made = datasets["pathlist"](root, train=train)
    assert made.classes == ("abseiling", "zumba") and made.groups == ["-abcdefghij", "___________"] == made.video_ids


def test_pathlist_ssv2_and_diving48_json(tmp_path):
    root = touch(tmp_path / "v", "101.webm", "102.webm", "dv_00001.mp4")
    entries = [{"id": "101", "template": "Putting [something] on [a] surface"}, {"id": "102", "template": "Dropping"}]
    train = table(tmp_path / "train.json", json.dumps(entries))
    made = datasets["pathlist"](root, train=train)
    assert made.classes == ("Dropping", "Putting something on a surface") and made.video_ids == ["101", "102"]
    test = table(tmp_path / "dv.json", json.dumps([{"vid_name": "dv_00001", "label": 7, "start_frame": 0}]))
    names = table(tmp_path / "names.json", json.dumps({"Back": 7}))
    assert datasets["pathlist"](root, test=test, label_map=names).classes == ("Back",)


@for_each(
    "name, data, words",
    [
        ("b.json", b"", " is not json"),
        ("b.json", b"{", " is not json"),
        ("b.json", b"[\n\xff\xfe]", ", line 2 is no UTF-8 text"),
        ("b.json", b'{"101": "Dropping"}', " is neither SSv2"),
        ("b.json", b"7", " is neither SSv2"),
        ("b.json", b'[{"id": 101}, 3]', ", entry 2 is neither SSv2"),
        ("b.json", b'[{"vid_name": "101"}]', ", entry 1 is neither SSv2"),
        ("b.json", b'[{"id": "101"}, {"label": 7}]', ", entry 2 is neither SSv2"),
        ("b.txt", b"", " lists no clips"),
        ("b.txt", b"101 3\n102 \xff\n", ", line 2 is no UTF-8 text"),
        ("b.csv", b"101 3\n" + bytes(range(256)), ", line 3 is no UTF-8 text"),
        ("b.csv", b"label,youtube_id,time_start,time_end\na,b,0,1\na,101,x,12\n", ", line 3: time_start"),
        ("b.csv", b"label,youtube_id,time_start,time_end\na,101,2,\n", ", line 2: time_start"),
        ("b.csv", b"label,youtube_id,time_start,time_end\na,101,inf,nan\n", ", line 2: time_start"),
        ("b.csv", b"label,youtube_id,time_start\na,101,2\n", ", line 2: time_start"),
        ("b.csv", b"label,the youtube_id\na,101\n", " has no column 'youtube_id'"),
    ],
)
def test_a_list_that_is_none_is_named(tmp_path, name, data, words):
    root = touch(tmp_path / "v", "101.webm", "102.webm")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        datasets["pathlist"](root, train=str(tmp_path / name), missing_ok=1.0)
    assert str(error.value).startswith(f"{tmp_path / name}{words}")


def test_numbers_where_a_json_list_has_text(tmp_path):
    root = touch(tmp_path / "v", "101.webm", "102.webm")
    train = table(tmp_path / "b.json", json.dumps([{"id": 101, "label": 3}, {"vid_name": 102, "label": 4}]))
    assert [(row.path, row.label) for row in datasets["pathlist"](root, train=train).rows] == [
        *(("101.webm", "3"), ("102.webm", "4"))
    ]


def test_label_maps(tmp_path):
    root = touch(tmp_path / "v", "101.webm")
    train = table(tmp_path / "b.txt", "101.webm 1\n")
    for text, name in [('["a", "b"]', "b"), ('["0", "7"]', "7"), ('{"b": 1}', "b"), ('{"1": "b"}', "b")]:
        made = datasets["pathlist"](root, train=train, label_map=table(tmp_path / "map.json", text))
        assert made.classes == (name,)
    for name, data, words in [
        ("map.json", b"{", " is not json"),
        ("map.json", b"3", " is not a table"),
        ("map.json", b'{"1": ["b"]}', " is not a table"),
        ("map.json", b"\xff", ", line 1 is no UTF-8 text"),
        ("map.txt", b"a\n\xff", ", line 2 is no UTF-8 text"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError) as error:
            datasets["pathlist"](root, train=train, label_map=str(tmp_path / name))
        assert str(error.value).startswith(f"{tmp_path / name}{words}")


def test_ucf101_list_that_is_no_text(tmp_path):
    root = touch(tmp_path / "videos", "Surf/v_Surf_g01_c01.avi")
    (tmp_path / "trainlist01.txt").write_bytes(b"Surf/v_Surf_g01_c01.avi 1\n\xff\xfe\n")
    with pytest.raises(UserError, match=facts("trainlist01.txt", "2", "UTF-8")):
        datasets["ucf101"](root, splits=str(tmp_path))


def test_jester_list_reads(shared, tmp_path):
    lines = (shared / "annotations/jester/vallist.txt").read_text().splitlines()[:20]
    for line in lines:
        (tmp_path / "v" / line.split()[0]).mkdir(parents=True)
        Image.fromarray(picture(0)).save(tmp_path / "v" / line.split()[0] / "00001.jpg")
    made = datasets["pathlist"](str(tmp_path / "v"), val=table(tmp_path / "l.txt", "\n".join(lines)))
    assert len(made.split("test")) == 20


def test_a_csv_head_with_spaces_is_read_and_two_alike_are_refused(tmp_path):
    for name in ("0.mp4", "1.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "labels.csv").write_text("path, label, split, group\n0.mp4, a, train, g0\n1.mp4, a, test, g1\n")
    rows = datasets["csv"](str(tmp_path)).rows
    assert [(r.label, r.split, r.group) for r in rows if r.path == "1.mp4"][0][:2] == ("a", "test")
    (tmp_path / "labels.csv").write_text("path,label,label\n0.mp4,a,b\n")
    with pytest.raises(UserError, match=facts("label")):
        datasets["csv"](str(tmp_path))
