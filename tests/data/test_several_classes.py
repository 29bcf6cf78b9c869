"""Charades, ActivityNet and AVA, by small lists in their forms: clips of several classes."""

import json

from ssvid.registry import datasets
from tests.data.test_datasets import check_refusal, splits, table, touch
from tests.data.test_official import counts, disjoint
from tests.helpers import tells

HEAD = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"


def charades(tmp_path, train=None):
    train = train or [
        f"T{i},S{i},Bed,6,6,Yes,'a, b',x,y,c000 0.00 5.50;c001 2.00 9.10,12.5" for i in range(6)
    ]
    home = tmp_path / "Charades"
    home.mkdir(exist_ok=True)
    table(
        home / "Charades_v1_train.csv",
        HEAD + "\n".join(train).replace("'", '"') + "\n",
    )
    table(
        home / "Charades_v1_test.csv",
        HEAD + "E0,Z0,Bed,6,6,Yes,s,x,y,c002 1.00 2.00,9\nE1,S1,Bed,6,6,No,s,x,y,,9\n",
    )
    table(home / "Charades_v1_classes.txt", "c000 Holding clothes\nc001 Sitting\nc002 Eating\n")
    names = [*(line.partition(",")[0] for line in train), "E0", "E1"]
    return touch(tmp_path / "Charades_v1_480", *(f"{name}.mp4" for name in names))


def test_charades_has_several_classes_a_clip(tmp_path):
    data = datasets["charades"](charades(tmp_path))
    assert (
        counts(data) == (6, 2)
        and disjoint(data)
        and data.classes == ("Eating", "Holding clothes", "Sitting")
    )
    row = data.rows[0]
    assert row.segments == ((0.0, 5.5, "Holding clothes"), (2.0, 9.1, "Sitting"))
    assert (row.label, row.duration, row.group, row.video_id) == (None, 12.5, "subject S0", "T0")
    assert (
        data.rows[1].group == "T1.mp4"
    )  # S1 is in the official test too, so this clip stands alone
    assert set(data.labels.tolist()) == {-1}
    assert data.split("test").targets.tolist() == [[True, False, False], [False] * 3]
    assert data.split("train").targets.tolist()[0] == [False, True, True]


def test_charades_lists_that_are_wrong(tmp_path, capsys):
    for actions in ("c999 0 1", "c000 0", "c000 a 1", "c000 nan 1"):
        root = charades(tmp_path, [f"T0,S0,Bed,6,6,Yes,s,x,y,{actions},9"])
        check_refusal("charades", root, "Charades_v1_train.csv", "2", actions)
    lines = ["T0,S0,Bed,6,6,Yes,s,x,y,c000 5 1;c001 1 5,9", "T1,S2,Bed,6,6,Yes,s,x,y,c000 1 1,9"]
    data = datasets["charades"](charades(tmp_path, lines))
    assert sorted(len(row.segments) for row in data.rows) == [0, 1, 1, 1]
    assert tells(capsys.readouterr().err, "1")


def activitynet(tmp_path, **extra_videos):
    part = [
        {"segment": [1.5, 20], "label": "Surfing"},
        {"segment": [30, 40.25], "label": "Rafting"},
    ]
    video = {
        "duration": 60,
        "subset": "training",
        "annotations": part,
        "url": "",
        "resolution": "320x240",
    }
    base = {f"{i}abcdefghi_": video for i in range(5)}
    base |= {"-valabcdefg": video | {"subset": "validation", "annotations": part[:1]}}
    base |= {"testabcdefg": video | {"subset": "testing", "annotations": []}, **extra_videos}
    table(
        tmp_path / "activity_net.v1-3.min.json",
        json.dumps({"database": base, "taxonomy": [], "version": "1.3"}),
    )
    return touch(
        tmp_path / "v",
        *(f"v_{name}.mp4" for name in base if name[0] not in "-t"),
        "-valabcdefg.mkv",
    )


def test_activitynet_has_segments(tmp_path):
    data = datasets["activitynet"](activitynet(tmp_path))
    assert counts(data) == (5, 1) and disjoint(data) and data.classes == ("Rafting", "Surfing")
    row = data.rows[0]
    assert (
        row.segments == ((1.5, 20.0, "Surfing"), (30.0, 40.25, "Rafting")) and row.duration == 60.0
    )
    assert splits(data)["test"] == ["-valabcdefg.mkv"] and row.path == "v_0abcdefghi_.mp4"
    assert data.split("test").targets.tolist() == [[False, True]]
    for bad, words in [
        ({"subset": "dev"}, ("training", "validation", "testing")),
        (
            {"subset": "training", "annotations": [{"segment": [1], "label": "x"}]},
            ("segment", "label"),
        ),
        ({"subset": "training", "annotations": [{"segment": [1, 2]}]}, ("segment", "label")),
    ]:
        check_refusal("activitynet", activitynet(tmp_path, bad=bad), "bad", *words)
    annotations = table(tmp_path / "x.json", "[]")
    check_refusal("activitynet", tmp_path / "v", annotations, "database", annotations=annotations)


def ava(tmp_path, line=""):
    home = tmp_path / "annotations"
    home.mkdir(exist_ok=True)
    films = ""
    for i in range(5):
        films += f"film{i}abcdef,0902,0.077,0.151,0.283,0.811,80,1\n"
        films += f"film{i}abcdef,0902,0.077,0.151,0.283,0.811,9,1\n"
        films += f"film{i}abcdef,0903,0.5,0.1,0.9,1.000,12,7\nfilm{i}abcdef,0904\n"
        films += f"film{i}abcdef,0905,0.1,0.1,0.2,0.2,12,3\n"
    table(home / "ava_train_v2.1.csv", "of an older version")
    table(home / "ava_train_v2.2.csv", films + line)
    table(home / "ava_val_v2.2.csv", "valabcdefgh,0910.5,0.1,0.2,0.3,0.4,12,0\n")
    table(home / "ava_train_excluded_timestamps_v2.2.csv", "film0abcdef,0905\n")
    pair = 'label {{\n  name: "{}"\n  label_id: {}\n  label_type: PERSON_MOVEMENT\n}}\n'
    text = pair.format("martial art", 9) + pair.format("stand", 12)
    text += pair.format("watch (a person)", 80)
    table(home / "ava_action_list_v2.2.pbtxt", text)
    table(home / "few.pbtxt", 'item {\n  name: "stand"\n  id: 12\n}\n')
    return touch(tmp_path / "films", *(f"film{i}abcdef.mkv" for i in range(5)), "valabcdefgh.mp4")


def count_boxes(manifest):
    return [len(row.boxes) for row in manifest.rows]


def test_ava_has_boxes(tmp_path, capsys):
    root = ava(tmp_path)
    data = datasets["ava"](root)
    assert (
        counts(data) == (5, 1)
        and disjoint(data)
        and data.classes == ("martial art", "stand", "watch (a person)")
    )
    first = data.rows[0].boxes
    assert first[0] == (902.0, 0.077, 0.151, 0.283, 0.811, ("watch (a person)", "martial art"), "1")
    assert (first[1].time_s, first[1].y1, first[1].labels, first[1].person) == (
        903.0,
        1.0,
        ("stand",),
        "7",
    )
    # A second of film0 is excluded.
    assert count_boxes(data) == [2, 3, 3, 3, 3, 1]
    assert splits(data)["test"] == ["valabcdefgh.mp4"] and data.rows[0].label is None
    cut = datasets["ava"](root, begins_s=900.0)  # files that begin at the film's second 900
    assert [box.time_s for box in cut.rows[-1].boxes] == [10.5] and cut.hash != data.hash
    check_refusal("ava", root, "902", "--data.begins_s", "905", begins_s=905.0)
    few = datasets["ava"](root, classes=str(tmp_path / "annotations/few.pbtxt"))
    assert few.classes == ("stand",) and count_boxes(few) == [1, 2, 2, 2, 2, 1]
    assert tells(capsys.readouterr().err, "5", "1")
    for numbers in ("0902,0.5,0.1,0.4,0.9,12,1", "0902,0,0,2,1,12,1", "x,0,0,1,1,12,1"):
        check_refusal("ava", ava(tmp_path, f"film0abcdef,{numbers}\n"), "ava_train_v2.2.csv", "26")
