import json

from ssvid.registry import datasets
from tests.data.test_datasets import check_refusal, fields, table, touch
from tests.data.test_narrated import arrays


def test_the_real_didemo_test(shared, tmp_path):
    folder = shared / "annotations/didemo"
    entries = json.loads((folder / "test_data.json").read_text())
    stems = {entry["video"].rpartition(".")[0] or entry["video"] for entry in entries}
    root = arrays(tmp_path, dict.fromkeys(map("{}.npy".format, stems), 40))
    data = datasets["didemo"](root, annotations=str(folder), features=root)
    assert len(data) == len(data.split("test")) == 1004 and len(entries) == 4021
    for row in data.rows:
        assert row.sentences[0][:2] == (0.0, 30.0)


def test_the_real_activitynet_captions(shared, tmp_path):
    folder = shared / "annotations/activitynet_captions"
    table_of = json.loads((folder / "val.json").read_text())
    root = touch(tmp_path / "v", *map("{}.mp4".format, table_of))
    data = datasets["activitynet_captions"](root, annotations=str(folder))
    assert len(data) == len(data.split("test")) == 4917
    assert sum(len(video["sentences"]) for video in table_of.values()) == 17505
    assert data.rows[0].sentences[0][1] == table_of[data.rows[0].video_id]["duration"]


def test_all_sentences_of_a_didemo_video_are_one_caption(tmp_path):
    root = arrays(tmp_path / "v", {"1@N00_77_ab.mov.npy": 25, "2@N00_78_cd.npy": 40, "79.npy": 8})
    entries = [
        {"video": "1@N00_77_ab.mov", "description": " a dog "},
        {"video": "2@N00_78_cd", "description": "b"},
        {"video": "1@N00_77_ab.mp4", "description": "it  runs"},
        {"video": "3@N00_79_ef.3gp", "description": "c"},
    ]
    file = tmp_path / "test_data.json"
    table(file, json.dumps(entries))
    data = datasets["didemo"](root, features=root)
    assert fields(data, "video_id", "sentences") == [
        ("1@N00_77_ab", ((0.0, 25.0, "a dog it runs"),)),
        ("2@N00_78_cd", ((0.0, 30.0, "b"),)),
        ("3@N00_79_ef", ((0.0, 8.0, "c"),)),
    ]
    for bad in ("{}", "[]", '[{"video": "a.mp4"}]', '[{"video": "", "description": "x"}]'):
        table(file, bad)
        check_refusal("didemo", root, "test_data.json", "video", "description", features=root)
    table(file, json.dumps([*entries[:1], {"video": "4@N00_80_e.mp4", "description": "x"}]))
    check_refusal("didemo", root, "1 of 2", "4@N00_80_e", "--data.missing skip", features=root)
    assert len(datasets["didemo"](root, features=root, missing="skip")) == 1
    table(file, json.dumps([{**entries[0], "description": " "}]))
    check_refusal("didemo", root, "1@N00_77_ab", "words", features=root)


def test_all_sentences_of_an_activitynet_video_are_one_caption(tmp_path):
    root = touch(tmp_path / "v", "v_a-b.mp4", "_c.mp4")
    video = {"duration": 9.5, "timestamps": [[0, 1], [1, 9]], "sentences": ["A man.", "  He runs."]}
    table(tmp_path / "val_1.json", json.dumps({"v_a-b": video}))
    table(tmp_path / "train.json", json.dumps({"v__c": {**video, "sentences": ["C."]}}))
    data = datasets["activitynet_captions"](root)
    assert fields(data, "path", "sentences") == [
        ("_c.mp4", ((0.0, 9.5, "C."),)),
        ("v_a-b.mp4", ((0.0, 9.5, "A man. He runs."),)),
    ]
    for change in ({"sentences": []}, {"sentences": [1]}, {"duration": "x"}, {"duration": 0}):
        table(tmp_path / "val_1.json", json.dumps({"v_a-b": {**video, **change}}))
        check_refusal("activitynet_captions", root, "v_a-b", "sentences", "duration")
    table(tmp_path / "val_1.json", "[]")
    check_refusal("activitynet_captions", root, "val_1.json", "timestamps")
