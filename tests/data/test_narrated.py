import csv
import io
import json
from collections import Counter
from itertools import starmap

import numpy as np
import pytest

from ssvid.data import files
from ssvid.data.datasets.htm_align import Spoken, load_annotation
from ssvid.data.datasets.youcook2 import DROPPED
from ssvid.data.official import SOURCES
from ssvid.errors import UserError
from ssvid.registry import datasets
from tests.data.test_datasets import check_refusal, fields, splits, table, touch
from tests.helpers import facts, for_each, squares, tells, write_video


def arrays(root, seconds, width=4):
    """A store: a .npy of so many seconds for each name."""
    for name, rows in seconds.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / name, np.zeros((rows, width), np.float16))
    return str(root)


def transcript(path, ids, rows=((5.0, 9.0, "later"), (1.0, 3.0, "first"))):
    start, end, text = zip(*rows, strict=True)
    return table(path, json.dumps({id: {"text": text, "start": start, "end": end} for id in ids}))


def counted(file):
    return dict(Counter(json.loads(line)["why"] for line in file.read_text().splitlines()))


# narrated


def test_features_alone_are_paired_by_the_id(tmp_path):
    root = arrays(tmp_path / "store", {"abc.mp4.npy": 100, "de.f.npy": 80, "deep/g.webm.npy": 70})
    data = datasets["narrated"](
        root, transcripts=transcript(tmp_path / "t.json", ["abc", "de.f", "g"]), features=root
    )
    assert fields(data, "video_id", "path", "features", "duration", "split") == [
        ("abc", "abc.mp4.npy", "abc.mp4.npy", 100.0, "train"),
        ("de.f", "de.f.npy", "de.f.npy", 80.0, "train"),
        ("g", "deep/g.webm.npy", "deep/g.webm.npy", 70.0, "train"),
    ]
    assert (
        data.rows[0].sentences == ((1.0, 3.0, "first"), (5.0, 9.0, "later"))
        and data.rows[0].label is None
    )
    assert data.groups == ["abc", "de.f", "g"] and np.load(
        data.root / data.rows[2].features
    ).shape == (70, 4)


def test_features_count_from_where_the_command_stands(tmp_path, monkeypatch, capsys):
    """And below the root, with a warning, where they are only there."""
    root = touch(tmp_path / "root", "notes.txt")
    spoken_file = transcript(tmp_path / "t.json", ["a"])
    monkeypatch.chdir(tmp_path)
    arrays(tmp_path / "root" / "store", {"a.npy": 100})
    below = datasets["narrated"](root, transcripts=spoken_file, features="store")
    assert tells(capsys.readouterr().err, "warning", "--data.features store", f"{root}/store")
    assert below.rows[0].path == "store/a.npy"
    arrays(tmp_path / "store", {"a.npy": 90})
    here = datasets["narrated"](root, transcripts=spoken_file, features="store")
    assert capsys.readouterr().err == "" and here.rows[0].duration == 90
    assert np.load(here.root / here.rows[0].features).shape == (90, 4)


def test_videos_without_features(tmp_path):
    root = tmp_path / "v"
    root.mkdir()
    write_video(root / "a.mp4", squares(0, frames=10))
    write_video(root / "b.mp4", squares(1, frames=20))
    (root / "c.mp4").write_bytes(b"no video")
    spoken_file = transcript(
        root / "t.json", "abc", [(0.5, 3.0, "in a and b"), (1.5, 1.7, "in b alone")]
    )
    list_ = tmp_path / "left.jsonl"
    options = {"least_s": 0.0, "left_out": str(list_)}
    data = datasets["narrated"](str(root), transcripts="t.json", **options)
    assert [(r.path, r.features, round(r.duration, 3), len(r.sentences)) for r in data.rows] == [
        ("a.mp4", "", 1.0, 1),
        ("b.mp4", "", 2.0, 2),
    ]
    assert counted(list_) == {"begins past the video's end": 1, "damaged video": 1}
    (root / "t.json").unlink()
    durations_csv = table(tmp_path / "l.csv", "a,70\nb,80\nc,90")
    data = datasets["narrated"](
        str(root), transcripts=transcript(tmp_path / "t.json", "abc"), durations=durations_csv
    )
    assert (
        fields(data, "duration")
        == [
            70.0,
            80.0,
            90.0,
        ]
        and spoken_file
    )  # no file was opened


def test_all_that_cannot_be_paired_is_counted_and_listed(tmp_path, capsys):
    root = touch(
        tmp_path / "v",
        *(f"{id}.mp4" for id in ("fine", "mute", "bare", "held", "far", "wide", "torn")),
        "x/fine.mp4",
    )
    touch(tmp_path / "v", "short.mp4", "long.mp4")
    (tmp_path / "v/x/fine.mp4").rename(tmp_path / "v/fine.mkv")
    store = tmp_path / "v/store"
    arrays(
        store,
        {f"{id}.npy": 100 for id in ("fine", "mute", "held", "far")}
        | {"short.npy": 64, "long.npy": 1000},
    )
    arrays(store, {"wide.npy": 100}, width=5)
    np.save(store / "flat.npy", np.zeros(100, np.float16))
    touch(store, "torn.npy")
    ids = ["absent", "bare", "far", "fine", "held", "long", "short", "torn", "wide"]
    seconds = {**dict.fromkeys([*ids, "mute"], 102), "far": 120, "short": 64, "long": 1000}
    durations_csv = table(
        tmp_path / "l.csv", "".join(f"{id},{value}\n" for id, value in seconds.items())
    )
    list_ = tmp_path / "left.jsonl"
    options = {
        "features": str(store),
        "durations": durations_csv,
        "held_out": table(tmp_path / "h.txt", "held\nother\n"),
    }
    spoken_file = transcript(tmp_path / "t.json", ids, [(1.0, 3.0, "x"), (3.0, 2.0, "y")])
    data = datasets["narrated"](root, transcripts=spoken_file, left_out=str(list_), **options)
    assert fields(data, "video_id", "features", "duration") == [("fine", "store/fine.npy", 100.0)]
    assert counted(list_) == {
        **{
            "end not after start": 9,
            "no video": 1,
            "no features": 1,
            "features of another length": 1,
        },
        **{"features of another width": 1, "features of another form": 1, "held out": 1},
        **{"not between 64 and 1000 s": 2, "no transcript": 2, "another file of the same id": 1},
    }
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and tells(error, "20", "9")
    alone = transcript(tmp_path / "u.json", ["held"])
    check_refusal("narrated", root, root, transcripts=alone, **options)


def test_store_json_says_the_width(tmp_path):
    arrays(tmp_path, {"a.npy": 100}, width=5)
    root = arrays(tmp_path, {"b.npy": 100})
    spoken_file = transcript(tmp_path / "t.json", "ab")
    assert (
        datasets["narrated"](root, transcripts=spoken_file, features=root).rows[0].video_id == "a"
    )
    table(tmp_path / "store.json", '{"dim": 4}')
    assert (
        datasets["narrated"](root, transcripts=spoken_file, features=root).rows[0].video_id == "b"
    )
    table(tmp_path / "store.json", "{}")
    check_refusal("narrated", root, "store.json", transcripts=spoken_file, features=root)


def test_the_first_share_of_the_ids_is_val(tmp_path):
    ids = list(map("v{:02d}".format, range(59)))
    root = arrays(tmp_path, dict.fromkeys(map("{}.npy".format, ids), 65))
    spoken_file = transcript(tmp_path / "t.json", reversed(ids))
    data = datasets["narrated"](root, transcripts=spoken_file, features=root)
    assert splits(data) == {
        "train": [f"{id}.npy" for id in ids[2:]],
        "val": ["v00.npy", "v01.npy"],
        "test": [],
    }
    assert (
        len(
            datasets["narrated"](root, transcripts=spoken_file, features=root, val=0.0).split(
                "train"
            )
        )
        == 59
    )
    check_refusal("narrated", root, "--val", "2", transcripts=spoken_file, features=root, val=2.0)


def test_plain_lists_and_folders_of_transcripts(tmp_path):
    root = arrays(tmp_path, {"a.npy": 65, "x/1.npy": 70, "y/1.npy": 75})
    (tmp_path / "said/x").mkdir(parents=True)
    (tmp_path / "said/y").mkdir()
    table(tmp_path / "said/a.txt", "cut it\nboil it\n")
    for folder in "xy":
        table(tmp_path / f"said/{folder}/1.srt", f"1\n00:00:01,000 --> 00:00:02,000\n{folder}\n")
    data = datasets["narrated"](root, transcripts="said", features=root)
    assert fields(data, "video_id", "path", "sentences") == [
        ("a", "a.npy", ((0.0, 65.0, "cut it"), (0.0, 65.0, "boil it"))),
        ("x/1", "x/1.npy", ((1.0, 2.0, "x"),)),
        ("y/1", "y/1.npy", ((1.0, 2.0, "y"),)),
    ]


def test_faults_of_flags(tmp_path):
    root = arrays(tmp_path / "s", {"a.npy": 100})
    spoken_file = transcript(tmp_path / "t.json", "a")
    empty = touch(tmp_path / "e", "a.txt")
    for where, options, words in [
        (str(tmp_path / "none"), {}, ("none", "--data.root")),
        (empty, {}, ("--data.root", "--data.features")),
        (empty, {"features": "none"}, ("none", "--data.features")),
        (empty, {"features": empty}, (empty, ".npy")),
        (root, {"features": root, "transcripts": "none.json"}, ("none.json",)),
        (
            root,
            {"features": root, "held_out": table(tmp_path / "h.txt", "two words\n")},
            ("h.txt",),
        ),
        (root, {"features": root, "durations": table(tmp_path / "d.csv", "a\nb\n")}, ("d.csv",)),
    ]:
        check_refusal("narrated", where, *words, **{"transcripts": spoken_file, **options})


def test_the_published_list_of_held_out_ids(shared, tmp_path):
    held = shared / "annotations/howto100m/htm_holdout_vid.txt"
    ids = held.read_text().split()[:3]
    root = arrays(tmp_path, dict.fromkeys(map("{}.mp4.npy".format, [*ids, "trains"]), 100))
    spoken_file = transcript(tmp_path / "t.json", [*ids, "trains"])
    data = datasets["narrated"](root, transcripts=spoken_file, features=root, held_out=str(held))
    assert fields(data, "video_id") == ["trains"]


# HTM-Align

HTM = {"b": [[0, 9.5, 12, "later"], [1, 1.5, 3, "first"]], "a": [[1, 0, 2.5, "x"]]}


def test_htm_align_keeps_flags_and_order(tmp_path):
    root = arrays(tmp_path / "s", {"a.mp4.npy": 30, "b.mp4.npy": 40, "other.npy": 5})
    file = table(tmp_path / "htm_align.json", json.dumps(HTM))
    data = datasets["htm_align"](root, features=root)
    assert fields(data, "video_id", "split", "duration") == [
        ("a", "test", 30.0),
        ("b", "test", 40.0),
    ]
    spoken = load_annotation(file)
    assert spoken["b"] == [Spoken(False, 9.5, 12.0, "later"), Spoken(True, 1.5, 3.0, "first")]
    for row in data.rows:
        assert row.sentences == tuple((s.start, s.end, s.text) for s in spoken[row.video_id])


def test_the_reference_annotation_is_read(shared):
    file = shared / "reference/tan/htm_align_annotation.json"
    raw = json.loads(file.read_text())
    assert load_annotation(file) == {id: list(starmap(Spoken, rows)) for id, rows in raw.items()}


@for_each(
    "held, words",
    [
        ([], ("list",)),
        ({}, ()),
        ({"a": {"text": ["x"], "start": [0], "end": [1]}}, ()),
        ({"a": [[1, 0, 1, "x"], [2, 0, 1, "x"]]}, ("1", "2", "0", "x")),
        ({"a": [[1, 0, "x"]]}, ("a", "0")),
        ({"a": [[1, 3, 1, "x"]]}, ("a", "0")),
        ({"a": [[1, -3, 1, "x"]]}, ("a", "0")),
        ({"a": [[0, None, 1, "x"]]}, ("a", "0")),
        ({"a": [["1", 0, 1, "x"]]}, ("a", "0")),
    ],
)
def test_an_annotation_of_another_form_is_refused(tmp_path, held, words):
    with pytest.raises(UserError, match=facts("x.json", *words)):
        load_annotation(table(tmp_path / "x.json", json.dumps(held)))


def test_missing_videos_are_refused_or_skipped(tmp_path, capsys):
    root = arrays(tmp_path, {"a.npy": 30})
    table(tmp_path / "htm_align.json", json.dumps({**HTM, "c": HTM["a"]}))
    words = ("2", "3", "b", "--data.missing", SOURCES["htm_align"].site)
    check_refusal("htm_align", root, *words, features=root)
    data = datasets["htm_align"](root, features=root, missing="skip")
    assert fields(data, "video_id") == ["a"]
    assert tells(capsys.readouterr().err, "htm_align.json", "2", "b")
    table(tmp_path / "htm_align.json", json.dumps({"b": HTM["b"]}))
    check_refusal(
        "htm_align", root, "1", "b", features=root, missing="skip"
    )  # none at all is never right


# YouCook2 and MSR-VTT


def test_the_real_youcook2_list(shared, tmp_path):
    file = shared / "annotations/youcook2/validation_youcook.csv"
    ids = {row["video_id"] for row in csv.DictReader(io.StringIO(files.read_text(file)))}
    root = arrays(tmp_path, dict.fromkeys(map("{}.mp4.npy".format, ids), 3))
    data = datasets["youcook2"](root, annotations=str(file), features=root)
    assert (
        len(data) == 436 == len(data.split("test"))
        and sum(len(row.sentences) for row in data.rows) == 3350
    )
    assert data.rows[0].video_id == "xHr8X2Wpmno"
    assert data.rows[0].sentences[0] == (47.0, 60.0, "pick the ends off the verdalago")
    assert all(
        list(row.sentences) == sorted(row.sentences, key=lambda s: s[0]) for row in data.rows
    )
    assert not DROPPED & ids  # those that TAN drops are no part of this list
    assert len(datasets["youcook2"](root, annotations=str(file), features=root, drop=True)) == 436


def test_youcook2_lists_of_both_forms(tmp_path):
    root = arrays(tmp_path / "s", {"a.npy": 60, "FtHLUsOntqI.npy": 60})
    text = "end,start,task,text,video_id\n60,47,1,cut,a\n9,5,1,boil,a\n9,5,1,fry,FtHLUsOntqI\n"
    table(tmp_path / "s/validation_youcook.csv", text)
    part = [
        {"segment": [47, 60], "id": 0, "sentence": "cut"},
        {"segment": [5, 9], "id": 1, "sentence": "boil"},
    ]
    both = datasets["youcook2"](root, features=root)
    assert both.rows[0].sentences == ((5.0, 9.0, "boil"), (47.0, 60.0, "cut")) and len(both) == 2
    one = datasets["youcook2"](root, features=root, drop=True)
    assert fields(one, "video_id") == ["a"]
    base = {
        "a": {"subset": "validation", "annotations": part},
        "t": {"subset": "training", "annotations": part},
    }
    table(tmp_path / "youcookii_annotations_trainval.json", json.dumps({"database": base}))
    assert datasets["youcook2"](root, features=root).rows == one.rows
    for bad, words in [
        ("end,start,text\n1,0,x\n", ("start", "end", "text", "video_id")),
        ("end,start,text,video_id\n1,2,x,a\n", ("1", "a")),
        ("end,start,text,video_id\n2,1,,a\n", ("1", "a")),
        ("[]", ("database",)),
        ('{"database": {"a": {}}}', ("a", "annotations")),
        (
            '{"database": {"a": {"subset": "validation", "annotations": [{"segment": [1]}]}}}',
            ("a", "segment"),
        ),
        (
            '{"database": {"a": {"subset": "validation", "annotations": [{"segment": [1, 2]}]}}}',
            ("1", "a"),
        ),
    ]:
        file = table(tmp_path / f"bad.{'json' if bad[0] in '[{' else 'csv'}", bad)
        check_refusal("youcook2", root, file, *words, features=root, annotations=file)


def test_the_real_msrvtt_lists_are_the_same_pairs(shared, tmp_path):
    lists = [
        shared / "annotations/msrvtt" / name
        for name in ("msrvtt_1kA_test.csv", "MSRVTT_JSFUSION_test.csv")
    ]
    ids = [row["video_id"] for row in csv.DictReader(io.StringIO(files.read_text(lists[0])))]
    root = arrays(tmp_path, dict.fromkeys(map("{}.npy".format, ids), 10))
    data = [datasets["msrvtt"](root, annotations=str(file), features=root) for file in lists]
    assert data[0].rows == data[1].rows and len(data[0].split("test")) == 1000
    assert data[0].rows[0].sentences == ((0.0, 10.0, "a person is connecting something to system"),)
    assert all(len(row.sentences) == 1 for row in data[0].rows)


def test_msrvtt_reads_the_length_off_the_clip(tmp_path):
    write_video(tmp_path / "video7.mp4", squares(0, frames=20))
    text = "key;vid_key;video_id;sentence\r\nret0;msr7;video7;a man, and a dog\r\n"
    table(tmp_path / "MSRVTT_JSFUSION_test.csv", text)
    (row,) = datasets["msrvtt"](str(tmp_path)).rows
    assert row.path == "video7.mp4" and row.split == "test" and row.features == ""
    assert [(round(end, 3), text) for _, end, text in row.sentences] == [(2.0, "a man, and a dog")]
    for bad, words in [
        ("video,text\n1,2\n", ("video", "text")),
        ("video_id,sentence\nvideo7,\n", ("bad.csv",)),
    ]:
        check_refusal("msrvtt", tmp_path, *words, annotations=table(tmp_path / "bad.csv", bad))


@for_each("name", ["htm_align", "youcook2", "msrvtt"])
def test_a_missing_folder_or_list_says_what_to_get(tmp_path, name):
    source, root = SOURCES[name], touch(tmp_path / "v", "a.mp4")
    for where, options in (
        (str(tmp_path / "none"), {}),
        (root, {}),
        (root, {"annotations": str(tmp_path / "gone")}),
    ):
        wanted = "--data.root" if where != root else source.lists
        check_refusal(name, where, *options.values(), source.site, source.terms, wanted, **options)
