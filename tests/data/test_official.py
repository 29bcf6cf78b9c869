import inspect
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from ssvid.data import lists
from ssvid.data.official import SOURCES
from ssvid.errors import UserError
from ssvid.registry import datasets
from tests.data.test_datasets import check_groups, check_refusal, fields, splits, table, touch
from tests.helpers import ROOT, facts, for_each

BRUSH = "brush_hair_u_nm_np1_ba_goo"


def empty_files(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return str(root)


def counts(data):
    """Clips of the official train and test; val is cut from train."""
    return len(data.split("train")) + len(data.split("val")), len(data.split("test"))


def disjoint(data):
    check_groups(data)
    return all(splits(data).values())


def read_list_lines(folder):
    """The lines of UCF101's first train and test list."""
    texts = [(folder / f"{name}list01.txt").read_text() for name in ("train", "test")]
    return "".join(texts).splitlines()


# over the real lists


@pytest.mark.slow
def test_ucf101_has_three_official_folds(shared, tmp_path):
    listed = shared / "annotations/ucf101"
    lines = read_list_lines(listed)
    root = empty_files(tmp_path / "UCF-101", [line.split()[0] for line in lines])
    data = {fold: datasets["ucf101"](root, splits=str(listed), fold=fold) for fold in (1, 2, 3)}
    assert list(map(counts, data.values())) == [(9537, 3783), (9586, 3734), (9624, 3696)]
    for manifest in data.values():
        assert len(manifest.classes) == 101 and disjoint(manifest)
    classes = lists.read_names(listed / "classInd.txt")
    assert classes["1"] == "ApplyEyeMakeup" and tuple(sorted(classes.values())) == data[1].classes


def test_hmdb51_has_three_official_folds(shared, tmp_path):
    file = shared / "annotations/hmdb51/hmdb51.csv"
    rows, _ = lists.read_table(file)
    names = [f"{line['label'].removesuffix('_test')}/{line['video_id']}" for _, line in rows]
    assert len(set(names)) == 6766
    root = empty_files(tmp_path / "hmdb51", names)
    tests = []
    for fold in (1, 2, 3):
        data = datasets["hmdb51"](root, splits=str(file), fold=fold)
        assert counts(data) == (3570, 1530) and disjoint(data)  # groups do not cross in any fold
        assert set(Counter(row.label for row in data.split("test").rows).values()) == {30}
        tests.append(set(data.split("test").video_ids))
    assert data.classes == tuple(sorted((file.parent / "label_map.txt").read_text().split()))
    assert len(tests[0] & tests[1]) < 200 and len(set.union(*tests)) > 4000


def test_kinetics_few_shot_list(shared, tmp_path):
    file = shared / "annotations/kinetics/k400_test_10shot.json"
    names = [entry.names for entry in lists.read_entries(file)[1]]
    root = empty_files(tmp_path / "k400", [f"test/{Path(name[0]).name}" for name in names])
    label_map = str(file.with_name("label_map_k400.txt"))
    data = datasets["pathlist"](root, train=str(file), label_map=label_map)
    assert len(data) == 4000 == len(set(data.groups)) and len(data.classes) == 400
    assert set(data.classes) == set(Path(label_map).read_text().splitlines())


def test_jester_list_and_its_ids(shared, tmp_path):
    file = shared / "annotations/jester/vallist.txt"
    form, entries = lists.read_entries(file)
    listed = list(entries)
    assert len(listed) == 14787
    assert {entry.label for entry in listed} == set(map(str, range(1, 28)))
    names = file.with_name("label_map.txt")
    root = empty_files(tmp_path / "v", [f"{entry.names[0]}/00001.jpg" for entry in listed[:200]])
    options = {"val": str(file), "missing_ok": 1.0}
    check_refusal("pathlist", root, "27", "0", "26", "1", label_map=str(names), **options)
    numbered = [f"{i} {name}" for i, name in enumerate(names.read_text().splitlines(), start=1)]
    label_map = table(tmp_path / "names.txt", "\n".join(numbered) + "\n")
    data = datasets["pathlist"](root, label_map=label_map, fps=12.0, **options)
    assert counts(data) == (0, 200) and set(data.classes) <= set(names.read_text().splitlines())
    assert {row.fps for row in data.rows} == {12.0}


@for_each(
    "name, count, pair",
    [
        ("activitynet/label_map.txt", 200, ("0", "Applying sunscreen")),
        ("ava/label_map.txt", 60, ("80", "watch (a person)")),
        ("diving48/label_map.txt", 48, ("0", "Back+15som+05Twis+FREE")),
        ("finegym/label_map_gym99.txt", 99, None),  # one name stands there twice
        ("jester/label_map.txt", 27, ("0", "Swiping Left")),
        ("kinetics/label_map_k400.txt", 400, ("0", "abseiling")),
        ("kinetics/label_map_k600.txt", 600, ("0", "abseiling")),
        ("kinetics/label_map_k700.txt", 700, ("699", "zumba")),
        ("mit/label_map.txt", 339, ("0", "clapping")),
        ("ssv2/label_map.txt", 174, ("0", "Approaching something with your camera")),
        ("ucf101/classInd.txt", 101, ("101", "YoYo")),
    ],
)
def test_official_class_names(shared, name, count, pair):
    names = lists.read_names(shared / "annotations" / name)
    assert len(names) == count == len(set(names.values()))
    assert pair is None or names[pair[0]] == pair[1]


# made-up lists of the real forms


def hmdb51(tmp_path, marks="1210"):
    films = ("Film_#20", "Film_#20", "Other;-)", "Other;-)")
    names = [f"{film}_{BRUSH}_{i}.avi" for film, i in zip(films, (0, 1, 0, 1), strict=True)]
    (tmp_path / "testTrainMulti_7030_splits").mkdir(exist_ok=True)
    lines = {
        "brush_hair": list(zip(names, marks, strict=True)),
        "dive": [("a.avi", "1"), ("b.avi", "2")],
    }
    for label, marked in lines.items():
        for fold in (1, 2, 3):
            (tmp_path / f"testTrainMulti_7030_splits/{label}_test_split{fold}.txt").write_text(
                "".join(f"{name} {mark} \n" for name, mark in marked)
            )
        touch(tmp_path / "hmdb51_org", *(f"{label}/{name}" for name, _ in marked))
    return str(tmp_path / "hmdb51_org")


def test_hmdb51_split_files(tmp_path):
    root = hmdb51(tmp_path, "1120")
    data = datasets["hmdb51"](root)
    names = [f"brush_hair/Film_#20_{BRUSH}_{i}.avi" for i in (0, 1)]
    paths = splits(data)
    assert sorted(paths["train"] + paths["val"]) == [*names, "dive/a.avi"]
    assert paths["test"] == [
        f"brush_hair/Other;-)_{BRUSH}_0.avi",
        "dive/b.avi",
    ]  # mark 0 is in neither
    assert data.groups[:2] == ["brush_hair/Film_#20_brush_hair"] * 2
    assert data.classes == ("brush_hair", "dive")
    check_refusal("hmdb51", root, "1", "2", "3", fold=0)
    (tmp_path / "hmdb51_org/dive/a.avi").unlink()
    check_refusal("hmdb51", root, "1", "5", "dive/a.avi", "--data.present")
    assert len(datasets["hmdb51"](root, present=True)) == 4


def test_hmdb51_lists_that_are_wrong(tmp_path):
    check_refusal("hmdb51", hmdb51(tmp_path, "1210"), "brush_hair/Film_#20_brush_hair")
    check_refusal("hmdb51", hmdb51(tmp_path, "1100"), "brush_hair", "2")
    check_refusal("hmdb51", hmdb51(tmp_path, "1123"), "brush_hair_test_split1.txt", "3", "1")
    bad = table(tmp_path / "h.csv", "video_id,label,split1\na.avi,dive_test,7\n")
    check_refusal(
        "hmdb51", tmp_path / "hmdb51_org", "h.csv", "2", "split1", "a.avi", "7", splits=bad
    )
    check_refusal("hmdb51", tmp_path / "hmdb51_org", "split2", splits=bad, fold=2)


K = "-AbCdEfGh_0"
ENTRY = {"annotations": {"label": "air drumming", "segment": [9.0, 19.0]}, "subset": "train"}
KINETICS = "label,youtube_id,time_start,time_end,split"
FORMS = [
    ("k.csv", f"{KINETICS},is_cc\nair drumming,{K},9,19,train,0\n", f"x/{K}_000009_000019"),
    ("k.csv", f'{KINETICS}\n"air drumming",{K},9,19,train\n', f"{K}_9_19"),
    ("k.csv", f"{KINETICS}\nair drumming,{K},9.0,19.0,validate\n", f"a b/{K}"),
    ("k.json", json.dumps({K: ENTRY}), f"{K}_000009_000019"),
    (
        "k.json",
        json.dumps(
            [{"file": f"t/{K}_000009_000019.mp4", "label": "air drumming", "youtube_id": K}]
        ),
        K,
    ),
    ("m.csv", "air drumming/yt-ab_12.mp4,air drumming,3,0\n", "training/air drumming/yt-ab_12"),
    ("j.csv", "34870;air drumming\n", "34870"),
    ("j.csv", "video_id,label,frames\n34870,air drumming,37\n", "34870"),
    (
        "s.json",
        json.dumps([{"id": "7", "label": "air", "template": "air [drumming]", "placeholders": []}]),
        "7",
    ),
    (
        "d.json",
        json.dumps([{"vid_name": "v_00001", "label": 1, "start_frame": 0, "end_frame": 9}]),
        "rgb/v_00001",
    ),
]


@for_each("name, text, path", FORMS)
def test_one_reader_knows_the_published_forms(tmp_path, name, text, path):
    root = touch(tmp_path / "v", f"{path}.mp4", "other.mp4")
    names = table(tmp_path / "names.json", json.dumps(["x", "air drumming"]))
    data = datasets["pathlist"](root, train=table(tmp_path / name, text), label_map=names)
    assert fields(data, "path", "label") == [(f"{path}.mp4", "air drumming")]
    assert data.video_ids == [K if K in path else Path(path).name]
    assert data.groups == (
        [K] if K in path else [f"{path}.mp4"] if name[0] not in "sd" else [Path(path).name]
    )


def test_moments_clips_of_two_classes_may_share_a_name(tmp_path):
    names = [
        "training/sit/yt_1.mp4",
        "training/run/yt_1.mp4",
        "validation/sit/yt_2.mp4",
        "validation/run/yt_2.mp4",
    ]
    root = touch(tmp_path / "v", *names)
    train = table(tmp_path / "trainingSet.csv", "sit/yt_1.mp4,sit,3,0\nrun/yt_1.mp4,run,4,1\n")
    val = table(tmp_path / "validationSet.csv", "run/yt_2.mp4,run,3,0\n")
    data = datasets["pathlist"](root, train=train, val=val)
    assert {row.path: row.label for row in data.rows} == {
        names[0]: "sit",
        names[1]: "run",
        names[3]: "run",
    }


def test_a_class_name_may_hold_the_marks_of_a_list(tmp_path):
    root = touch(tmp_path / "v", "1.webm", "2.webm")
    text = "1;Putting something, something and something on a table\n2;Pretending; or not\n"
    data = datasets["pathlist"](root, train=table(tmp_path / "t.csv", text))
    assert data.classes == (
        "Pretending; or not",
        "Putting something, something and something on a table",
    )


def test_class_names_in_every_published_form(tmp_path):
    same = {"0": "clapping", "1": "sit"}
    for name, text in [
        ("a.txt", "clapping\nsit\n\n"),
        ("a.txt", "0 clapping\n1 sit\n"),
        ("a.txt", "1: sit\n0: clapping"),
        ("a.txt", "clapping,0\nsit,1\n"),
        ("a.json", '{"clapping": "0", "sit": "1"}'),
        (
            "a.pbtxt",
            'label {\n  name: "clapping"\n  label_id: 0\n  label_type: X\n}\n'
            'label {\n name: "sit"\n label_id: 1\n}',
        ),
        ("a.pbtxt", 'item {\n  name: "clapping"\n  id: 0\n}\nitem {\n  name: "sit"\n  id: 1\n}\n'),
    ]:
        assert lists.read_names(Path(table(tmp_path / name, text))) == same, text
    vocabulary = table(tmp_path / "v.json", '[["Back", "15som"], ["Inward", "Dive"]]')
    assert lists.read_names(Path(vocabulary)) == {"0": "Back+15som", "1": "Inward+Dive"}
    assert lists.read_names(Path(table(tmp_path / "c.txt", "c000 Hold\nc001 Sit\n"))) == {
        "c000": "Hold",
        "c001": "Sit",
    }
    assert lists.read_names(Path(table(tmp_path / "n.txt", "2 steps\n2 jumps\n"))) == {
        "0": "2 steps",
        "1": "2 jumps",
    }
    with pytest.raises(UserError, match=facts("p.pbtxt")):
        lists.read_names(Path(table(tmp_path / "p.pbtxt", "label { name: }")))


# what is missing, and from where it comes


@for_each("name", ["ucf101", "hmdb51", "charades", "activitynet", "ava"])
def test_a_missing_folder_or_list_says_what_to_get(tmp_path, name):
    source = SOURCES[name]
    flag = "splits" if name in ("ucf101", "hmdb51") else "annotations"
    absent, root = str(tmp_path / "none"), touch(tmp_path / "v", "a.mp4")
    check_refusal(name, absent, absent, "--data.root", source.videos, source.site, source.terms)
    for options in ({}, {flag: str(tmp_path / "gone")}):
        words = (f"--data.{flag}", source.lists, source.site, source.terms, *options.values())
        check_refusal(name, root, *words, **options)


@for_each("name, text, path", FORMS)
def test_missing_clips_of_a_known_form_say_whose_they_are(tmp_path, name, text, path):
    whose = {"k": "kinetics", "m": "moments", "j": "jester", "s": "ssv2", "d": "diving48"}[name[0]]
    root = touch(tmp_path / "v", "another.mp4")
    options = {"train": table(tmp_path / name, text)}
    for missing_ok in (0.0, 1.0):  # none at all is never right
        words = ("1", SOURCES[whose].site, SOURCES[whose].terms)
        check_refusal("pathlist", root, *words, missing_ok=missing_ok, **options)


def test_a_missing_pathlist_says_whose_it_may_be(tmp_path):
    root = touch(tmp_path / "v", "a.mp4")
    kinetics = str(tmp_path / "K400/train.csv")
    check_refusal("pathlist", root, "Kinetics-400/600/700", "train.csv", "4.0", train=kinetics)
    absent = tmp_path / "ssv2"
    check_refusal("pathlist", absent, SOURCES["ssv2"].terms, train=str(tmp_path / "train.json"))
    check_refusal("pathlist", root, "docs/datasets.md", train=str(tmp_path / "train.txt"))
    listed = table(tmp_path / "t.txt", "a.mp4 1\n")
    check_refusal("pathlist", root, "missing_ok", "2", train=listed, missing_ok=2.0)


def test_the_docs_name_every_data_set_and_only_flags_that_exist():
    text = (ROOT / "docs/datasets.md").read_text()
    text += (ROOT / "docs/guides/narrated.md").read_text()
    text += (ROOT / "docs/guides/flow.md").read_text()
    for name in datasets.names():
        assert f"`{name}`" in text, name
        flags = set(inspect.signature(datasets[name]).parameters)
        commands = re.findall(rf"--data {name}\b([^\n`]*)", text)
        assert commands, name
        for command in commands:
            assert set(re.findall(r"--data\.(\w+)", command)) <= flags, command
    for source in SOURCES.values():
        assert source.name in text and source.site.split(",")[0].split(";")[0] in text, source.name
