"""Lines of a list, labels and what a list may hold beside them."""

import json

import pytest

from ssvid.data.labels import parse_label
from ssvid.data.manifest import select_labelled
from ssvid.errors import UserError
from ssvid.registry import datasets
from tests.data.test_datasets import check_refusal, fields, table, touch
from tests.helpers import facts, for_each

CLIPS = ("a/1.mp4", "b/2.ts", "my class/one two.mp4", "x,y/3.mp4", "d/4", "e f/5")


def make_root(tmp_path, names=CLIPS):
    """A folder of videos, and beside it one of folders of frames."""
    touch(tmp_path / "v", *filter(lambda name: "." in name, names))
    touch(tmp_path / "frames", *(f"{name}/1.jpg" for name in names if "." not in name))
    return str(tmp_path / "v")


def read_pairs(root, train, **options):
    return fields(datasets["pathlist"](root, train=train, **options), "path", "label")


@for_each(
    "text, pairs",
    [
        (
            '"my class/one two.mp4" 0\na/1.mp4 1\n',
            [("my class/one two.mp4", "0"), ("a/1.mp4", "1")],
        ),
        ("my class/one two.mp4 0\n", [("my class/one two.mp4", "0")]),
        ("x,y/3.mp4 0\na/1.mp4,1\n", [("x,y/3.mp4", "0"), ("a/1.mp4", "1")]),
        ('a/1.mp4 "run, or ""jump"""\n', [("a/1.mp4", 'run, or "jump"')]),
        ('"a/1.mp4","run, jump"\n', [("a/1.mp4", "run, jump")]),
        ("a/1.mp4 put one, then two\n", [("a/1.mp4", "put one, then two")]),
        ('a/1.mp4 "2 steps"\n', [("a/1.mp4", "2 steps")]),
        ("a/1.mp4 2 steps\nb/2.ts run\n", [("a/1.mp4", "2 steps"), ("b/2.ts", "run")]),
        ("a/1.mp4\tput on\r\nb/2.ts\toff \r\n", [("a/1.mp4", "put on"), ("b/2.ts", "off")]),
        ("\ufeff\n# a comment\n#\na/1.mp4 1  \n\n", [("a/1.mp4", "1")]),
        ("a/1.mp4 0 -1\nb/2.ts 0 -1\n", [("a/1.mp4", None), ("b/2.ts", None)]),
        ("a/1.mp4,0,-1\n", [("a/1.mp4", None)]),
        ("a/1.mp4 -1\nb/2.ts nan\n", [("a/1.mp4", None), ("b/2.ts", None)]),
        ("a/1.mp4\nb/2.ts,\n", [("a/1.mp4", None), ("b/2.ts", None)]),
        ("path,label\na/1.mp4,0\n", [("a/1.mp4", "0")]),
        ("Label;Filename\nrun;a/1.mp4\n", [("a/1.mp4", "run")]),
        (",path,class\n0,a/1.mp4,run\n", [("a/1.mp4", "run")]),
        ('path label\n"my class/one two.mp4" 3\n', [("my class/one two.mp4", "3")]),
        ("\tpath\tlabel\n0\ta/1.mp4\t3\n", [("a/1.mp4", "3")]),
        ("video_path\na/1.mp4\n", [("a/1.mp4", None)]),
        ("File Name,Class_ID,label\na/1.mp4,3,run\n", [("a/1.mp4", "run")]),
        ("# by hand\npath,label\na/1.mp4,-1\n", [("a/1.mp4", None)]),
        ("clip_path,action_id\na/1.mp4,3\n", [("a/1.mp4", "3")]),
        ("video_path,caption\na/1.mp4,a dog\n", [("a/1.mp4", None)]),
        ("path frames\na/1.mp4 64\n", [("a/1.mp4", None)]),
        ("a/1.mp4 0\nb/2.ts 1.0\n", [("a/1.mp4", "0"), ("b/2.ts", "1")]),
        ("a/1.mp4 1.5\nb/2.ts 2.0\n", [("a/1.mp4", "1.5"), ("b/2.ts", "2")]),
        ("a/1.mp4 1.0\nb/2.ts run\n", [("a/1.mp4", "1.0"), ("b/2.ts", "run")]),
        ("a/1.mp4 None\nb/2.ts none\n", [("a/1.mp4", None), ("b/2.ts", "none")]),
    ],
)
def test_forms_of_lines(tmp_path, text, pairs):
    train = table(tmp_path / "t.csv", text)
    assert read_pairs(make_root(tmp_path), train) == pairs


@for_each(
    "text, pairs",
    [
        ("d/4 64 7\ne f/5 120 8\n", [("d/4", "7"), ("e f/5", "8")]),
        ("d/4 64 -1\ne f/5 0 -1\n", [("d/4", None), ("e f/5", None)]),
        ("d/4 7\ne f/5 8\n", [("d/4", "7"), ("e f/5", "8")]),
        ("d/4 run\ne f/5 jump\n", [("d/4", "run"), ("e f/5", "jump")]),
        ('d/4 "run up"\n', [("d/4", "run up")]),
        ("d/4,run up\ne f/5,jump\n", [("d/4", "run up"), ("e f/5", "jump")]),
        ("d/4\ne f/5\n", [("d/4", None), ("e f/5", None)]),
    ],
)
def test_forms_of_lines_for_folders_of_frames(tmp_path, text, pairs):
    make_root(tmp_path)
    train = table(tmp_path / "t.txt", text)
    assert read_pairs(str(tmp_path / "frames"), train, fps=8.0) == pairs


@for_each(
    "text, words",
    [
        ("a/1.mp4 1\nb/2.ts 0 12\n", ("2", "VideoMAEv2", "mmaction2")),
        ("a/1.mp4 3 5 7\n", ("1", "several")),
        ("a/1.mp4,3,5,7\n", ("1", "several")),
        ('a/1.mp4,"3,5"\n', ("1", "several")),
        ("d/4 0 64\n", ("1", "VideoMAEv2")),
        ("d/4 1 64\ne f/5 1 32\n", ("1", "VideoMAEv2")),
        ("d/4 64 7\ne f/5 8\n", ("1", "2", "mmaction2")),
        ("d/4 64 7 9\n", ("1", "several")),
        ("a/1.mp4,run,train\n", ("1", "path,label,split")),
        ("path,label\na/1.mp4,3|5\n", ("a/1.mp4", "several")),
        ("path,label\n,3\n", ("2", "path")),
        ("a/1.mp4 64 run\nb/2.ts 32 nan\n", ("1", "64 run", "mmaction2")),
        ("1;3;5\n", ("1", "several")),
        ("a/1.mp4 inf\nb/2.ts 1\n", ("a/1.mp4", "inf", "-1")),
        ("clip_source,action_number\na/1.mp4,3\n", ("head", "clip_source", "path", "label")),
        ("clip,caption\na/1.mp4,3\n", ("head", "clip", "caption")),
    ],
)
def test_what_has_several_meanings_is_refused_by_name(tmp_path, text, words):
    train = table(tmp_path / "t.txt", text)
    check_refusal("pathlist", make_root(tmp_path), train, *words, train=train)


def test_several_labels_in_json_are_refused_and_class_0_is_a_class(tmp_path):
    root = touch(tmp_path / "v", "1.mp4", "2.mp4")
    train = table(tmp_path / "t.json", json.dumps([{"id": 1, "label": 0}, {"id": 2, "label": -1}]))
    assert read_pairs(root, train) == [("1.mp4", "0"), ("2.mp4", None)]
    several = table(tmp_path / "s.json", json.dumps([{"vid_name": "1", "label": [3, 5]}]))
    check_refusal("pathlist", root, several, "1", "several", train=several)


def test_whole_numbers_are_one_class_in_all_lists_and_in_a_csv(tmp_path):
    root = touch(tmp_path, "1.mp4", "2.mp4", "3.mp4", "4.mp4")
    train = table(tmp_path / "t.txt", "1.mp4 0\n2.mp4 1\n")
    val = table(tmp_path / "v.txt", "3.mp4 0.0\n4.mp4 1.000000e+00\n")
    assert datasets["pathlist"](root, train=train, val=val).classes == ("0", "1")
    text = "path,label,split\n1.mp4,0,train\n2.mp4,1.0,train\n3.mp4,,train\n4.mp4,x,unused\n"
    data = datasets["csv"](table(tmp_path / "labels.csv", text))
    assert data.classes == ("0", "1") and data.labels.tolist() == [0, 1, -1]


def test_json_that_is_nested_too_deeply_is_refused(tmp_path):
    root = touch(tmp_path / "v", "1.mp4")
    train = table(tmp_path / "t.json", "[" * 100_000)
    check_refusal("pathlist", root, train, train=train)


def test_no_label(tmp_path):
    for text in ("", " ", "-1", "-1.0", "nan", "NaN", "null", "NULL", "None", "NA", "N/A", None):
        assert parse_label("", text) is None
    for text in ("0", "1", "-2", "none", "na", "Null", "a b", "1.5", "2023-05-01"):
        assert parse_label("", text) == text
    assert parse_label("", "cafe\u0301") == "caf\u00e9"
    with pytest.raises(UserError, match=facts("line 3", "3,5")):
        parse_label("line 3", "3,5")
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4")
    text = "\n# by hand\npath,label\n1.mp4,-1\n2.mp4,nan\n# 3 is dark\n3.mp4,run\n"
    data = datasets["csv"](table(tmp_path / "labels.csv", text))
    assert data.labels.tolist() == [-1, -1, 0] and data.classes == ("run",)
    text += "2.mp4,x,y\n"
    check_refusal("csv", table(tmp_path / "labels.csv", text), "8")


@for_each(
    "paths, words",
    [
        (["x/1.mp4", "x/2.mp4"], ("one", "x")),
        (["train/x/1.mp4", "val/x/2.mp4"], ("one", "x")),
        (["train/x/1.mp4", "train/y/2.mp4", "val/z/3.mp4", "test/y/4.mp4"], ("val", "z")),
        (["1.mp4", "2.mp4"], ("train",)),
    ],
)
def test_too_few_classes_are_told_as_that(tmp_path, paths, words):
    data = datasets["folder"](touch(tmp_path, *paths))
    with pytest.raises(UserError, match=facts(str(tmp_path), *words)):
        select_labelled(data)


def test_one_labelled_class_is_no_choice(tmp_path):
    data = datasets["folder"](touch(tmp_path, "x/1.mp4", "x/2.mp4", "x/3.mp4"), labels=True)
    with pytest.raises(UserError, match=facts("one", "x")):
        select_labelled(data)
