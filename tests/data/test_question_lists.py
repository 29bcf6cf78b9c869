import json
from collections import Counter
from operator import attrgetter

from ssvid.data.datasets.msvd_qa import read_mapping
from ssvid.data.datasets.synthetic_captioned import synthetic_captioned
from ssvid.data.official import SOURCES
from ssvid.data.question_lists import read_form
from ssvid.data.training import training
from ssvid.registry import datasets
from ssvid.shapes import ClipSpec, Questions, Views
from tests.data.test_datasets import check_refusal, fields, table, touch
from tests.helpers import for_each

HQGA = {
    "msrvtt_qa": "video,question,answer,qid,type\n7010,what is a man playing,guitar,5,0\n",
    "msvd_qa": "video,width,height,question,answer,qid\n7,600,480,who opened the box,someone,5\n",
}
OPEN = "video,frame_count,width,height,question,answer,qid,type"
CHOICES = f"{OPEN},a0,a1,a2,a3,a4"
ASKED = "40,369,640,480,how do they play"


def list_questions(data):
    questions = []
    for row in data.rows:
        questions += row.questions
    return questions


def count_kinds(questions):
    return Counter(map(attrgetter("kind"), questions))


def list_videos(file, column="video"):
    return [line[column] for _, line in read_form(file, frozenset(read_head(file)))]


def read_head(file):
    return file.read_text().partition("\n")[0].split(",")


# over the real lists


def test_the_real_msrvtt_qa_val(shared, tmp_path):
    folder = shared / "annotations/msrvtt_qa"
    names = {f"video{n}.mp4" for n in list_videos(folder / "val.csv")}
    root = touch(tmp_path / "v", *names)
    data = datasets["msrvtt_qa"](root, annotations=str(folder))
    questions = list_questions(data)
    assert (len(data.split("test")), len(questions)) == (497, 12278)  # val is the test without one
    kinds = count_kinds(questions)
    assert kinds == {"what": 8337, "who": 3439, "how": 344, "when": 106, "where": 52}
    assert questions[0].text == "what are three people sitting on"
    assert questions[0].answers == (("couch", 1.0),) and questions[0].id == "158581"
    assert data.rows[0].columns == (("category", "14"),)


def test_the_real_msvd_qa_test(shared, tmp_path):
    folder = shared / "annotations/msvd_qa"
    name_of = read_mapping(folder / "youtube_mapping.txt")
    assert len(name_of) == 1970 and name_of["1"] == "-4wsuPCjDBc_5_15"
    names = {f"{name_of[n]}.avi" for n in list_videos(folder / "test.csv")}
    root = touch(tmp_path / "v", *names)
    data = datasets["msvd_qa"](root, annotations=str(folder))
    questions = list_questions(data)
    assert (len(data.split("test")), len(questions)) == (504, 13157)
    assert data.rows[0].path == f"{name_of['1451']}.avi" and data.rows[0].video_id == "1451"


def test_the_real_nextqa_val_and_its_hard_part(shared, tmp_path):
    folder = shared / "annotations/nextqa"
    path_of = json.loads((folder / "map_vid_vidorID.json").read_text())
    names = {f"{path_of[n]}.mp4" for n in list_videos(folder / "val.csv")}
    root = touch(tmp_path / "v", *names)
    data = datasets["nextqa"](root, annotations=str(folder))
    questions = list_questions(data)
    assert (len(data), len(questions)) == (570, 4996)
    kinds = {"CW": 1924, "TN": 895, "CH": 683, "TC": 663, "DO": 305, "DL": 295, "DC": 177, "TP": 54}
    assert count_kinds(questions) == kinds
    for question in questions:
        assert len(question.choices) == 5 and question.answers[0][0] in question.choices
    hard = folder / "atp_hard_rows.txt"
    data = datasets["nextqa"](root, annotations=str(folder), hard_rows=str(hard))
    kinds = count_kinds(list_questions(data))
    assert kinds == {"CW": 954, "TN": 543, "CH": 380, "TC": 363, "TP": 29}
    assert kinds.total() == 2269


def test_the_real_open_ended_nextqa_test(shared, tmp_path):
    folder = shared / "annotations/nextqa_oe"
    root = touch(tmp_path / "v", *{f"{n}.mp4" for n in list_videos(folder / "test.csv")})
    data = datasets["nextqa"](root, annotations=str(folder))
    questions = list_questions(data)
    assert (len(data), len(questions)) == (1000, 9178)
    # 4632 have a second answer, which is equal to the first in 725.
    counts = Counter(len(question.answers) for question in questions)
    assert counts == {1: 9178 - 4632 + 725, 2: 4632 - 725}
    assert not any(question.choices for question in questions)


# made-up lists of the real forms


def write_json(path, **change):
    entry = {"question": "what?", "answer": "cat", "video_id": 7, "id": 5, "category_id": 3}
    return table(path, json.dumps([{**entry, **change}]))


@for_each("name, file", [("msrvtt_qa", "video7010.mp4"), ("msvd_qa", "vid7.avi")])
def test_a_csv_of_hqga(tmp_path, name, file):
    root = touch(tmp_path / "v", file)
    (tmp_path / "test.csv").write_text(HQGA[name])
    (row,) = datasets[name](root).rows
    assert row.path == file and row.split == "test" and len(row.questions) == 1
    assert row.questions[0].id == "5" and row.questions[0].kind in ("what", "who")


def test_official_jsons_go_before_others_and_a_split_may_be_absent(tmp_path):
    root = touch(tmp_path / "v", "video7.mp4", "video8.mp4", "video7010.mp4")
    (tmp_path / "test.csv").write_text(HQGA["msrvtt_qa"])
    write_json(tmp_path / "test_qa.json")
    write_json(tmp_path / "train_qa.json", video_id=8, id=6, question="is it?")
    data = datasets["msrvtt_qa"](root)
    assert fields(data, "path", "split") == [("video8.mp4", "train"), ("video7.mp4", "test")]
    assert [row.questions[0].kind for row in data.rows] == ["other", "what"]
    assert data.rows[1].questions[0].text == "what?"


@for_each(
    "change, words",
    [
        ({"question": " "}, ("entry 1", "question")),
        ({"answer": ""}, ("entry 1", "answer")),
        ({"answer": 3}, ("entry 1", "answer")),
        ({"video_id": "video7"}, ("entry 1", "video7")),
        ({"video_id": 9}, ("1 of 1", "video9")),
    ],
)
def test_questions_that_cannot_be_are_refused(tmp_path, change, words):
    root = touch(tmp_path / "v", "video7.mp4")
    write_json(tmp_path / "test_qa.json", **change)
    check_refusal("msrvtt_qa", root, *words)


@for_each("text", ["{}", "[]", "[3]", '[{"question": "a", "answer": "b"}]'])
def test_a_json_of_another_form_is_refused(tmp_path, text):
    root = touch(tmp_path / "v", "video7.mp4")
    table(tmp_path / "test_qa.json", text)
    check_refusal("msrvtt_qa", root, "test_qa.json", "question, answer, video_id, id")


def test_videos_that_are_absent_are_counted(tmp_path, capsys):
    root = touch(tmp_path / "v", "video7010.mp4")
    (tmp_path / "test.csv").write_text(HQGA["msrvtt_qa"] + "7011,who sings,man,6,0\n")
    check_refusal("msrvtt_qa", root, "1 of 2", "video7011", "--data.missing_ok")
    assert len(datasets["msrvtt_qa"](root, missing_ok=0.5)) == 1
    assert "1 of 2 listed clips are missing, first video7011" in capsys.readouterr().err
    (tmp_path / "test.csv").write_text(HQGA["msrvtt_qa"] * 2)
    check_refusal("msrvtt_qa", root, "test.csv")
    (tmp_path / "test.csv").write_text(HQGA["msrvtt_qa"] + "7010,who sings,man,5,0\n")
    check_refusal("msrvtt_qa", root, "id 5", "7010")


def test_names_of_msvd_are_cut_from_the_right(tmp_path):
    text = "-4ws_PCjDBc_5_15 vid7\r\na_b_1_2 vid8"
    name_of = read_mapping(write(tmp_path / "youtube_mapping.txt", text))
    assert name_of == {"7": "-4ws_PCjDBc_5_15", "8": "a_b_1_2"}
    root = touch(tmp_path / "v", "-4ws_PCjDBc_5_15.avi")
    (tmp_path / "test.csv").write_text(HQGA["msvd_qa"])
    (row,) = datasets["msvd_qa"](root).rows
    assert row.path == "-4ws_PCjDBc_5_15.avi"
    for bad in ("vid7\n", "a vid7\nb vid7\n", "a b vid7\n", "a seven\n"):
        file = write(tmp_path / "m.txt", bad)
        check_refusal("msvd_qa", root, "m.txt", "line", mapping=str(file))


def write(path, text):
    path.write_bytes(text.encode())
    return path


def write_nextqa(tmp_path, header, *lines, split="val"):
    (tmp_path / f"{split}.csv").write_text("\n".join((header, *lines)) + "\n")
    return touch(tmp_path / "v", "0101/40.mp4", "0102/41.mp4")


def test_nextqa_tells_its_form_from_its_header(tmp_path):
    root = write_nextqa(tmp_path, CHOICES, f"{ASKED},2,6,CH,roll,tap,strum,hit,pat")
    table(tmp_path / "map_vid_vidorID.json", '{"40": "0101/40"}')
    (row,) = datasets["nextqa"](root).rows
    (question,) = row.questions
    assert row.path == "0101/40.mp4" and question.id == "40_6" and question.kind == "CH"
    assert question.answers == (("strum", 1.0),)
    assert question.choices == ("roll", "tap", "strum", "hit", "pat")
    write_nextqa(tmp_path, OPEN, f"{ASKED},with hands,6,CH", split="test")
    check_refusal("nextqa", root, "choices", "open-ended")
    (tmp_path / "val.csv").unlink()
    second = table(tmp_path / "add_reference_answer_test.json", '{"40": {"6": "by hand"}}')
    (row,) = datasets["nextqa"](root).rows
    assert row.questions[0].answers == (("with hands", 0.5), ("by hand", 0.5))
    check_refusal("nextqa", root, "qid", references=table(tmp_path / "r.json", '{"40": "by hand"}'))
    check_refusal("nextqa", root, "folder/video", mapping=second)


@for_each(
    "header, line, words",
    [
        (CHOICES, f"{ASKED},5,6,CH,roll,tap,strum,hit,pat", ("val.csv, line 2", "5", "0 to 4")),
        (CHOICES, f"{ASKED},hit,6,CH,roll,tap,strum,hit,pat", ("line 2", "hit")),
        (CHOICES, f"{ASKED},1,6,CH,roll,tap,,hit,pat", ("line 2", "choice")),
        (CHOICES, "40,1,2,3,,1,6,CH,roll,tap,a,hit,pat", ("line 2", "question")),
        (OPEN, f"{ASKED},,6,CH", ("line 2", "answer")),
        (OPEN, f"{ASKED},a,,CH", ("line 2", "qid")),
        (f"{OPEN},a0,a1", f"{ASKED},1,6,CH,roll,tap", ("val.csv", "a0,a1", "a4")),
        ("video,question,answer,qid,type", "7,who,man,5,0", ("val.csv", "frame_count")),
        (OPEN, "", ("val.csv", "0 rows")),
    ],
)
def test_nextqa_lists_that_are_wrong(tmp_path, header, line, words):
    check_refusal("nextqa", write_nextqa(tmp_path, header, line), *words)


def test_hard_rows_cut_val(tmp_path):
    lines = [f"4{i % 2},1,2,3,why {i},0,{i},CW,a,b,c,d,e" for i in range(6)]
    root = write_nextqa(tmp_path, CHOICES, *lines)
    write_nextqa(tmp_path, CHOICES, f"{ASKED},2,6,CH,a,b,c,d,e", split="train")
    hard = table(tmp_path / "hard.txt", "5\n0\n2\n")
    options = {"annotations": str(tmp_path), "hard_rows": hard}
    write_nextqa(tmp_path, CHOICES, "9,1,2,3,who,0,1,CW,a,b,c,d,e", split="train")
    data = datasets["nextqa"](touch(tmp_path / "v", "9.mp4"), **options)
    assert list(map(attrgetter("id"), list_questions(data.split("test")))) == [
        "40_0",
        "40_2",
        "41_5",
    ]
    for bad in ("6", "-1", "x"):
        table(tmp_path / "hard.txt", bad)
        check_refusal("nextqa", root, "hard.txt", repr(bad), "6 rows", **options)
    (tmp_path / "val.csv").unlink()
    check_refusal("nextqa", root, "--data.hard_rows", "val.csv", **options)


@for_each("name", ["msrvtt_qa", "msvd_qa", "nextqa", "didemo", "activitynet_captions"])
def test_a_missing_folder_or_list_says_what_to_get(tmp_path, name):
    source, root = SOURCES[name], touch(tmp_path / "v", "a.mp4")
    absent = str(tmp_path / "none")
    check_refusal(name, absent, absent, "--data.root", source.videos, source.site, source.terms)
    for options in ({}, {"annotations": str(tmp_path / "gone")}):
        words = ("--data.annotations", source.lists, source.site, *options.values())
        check_refusal(name, root, *words, **options)


def test_films_of_a_list_come_with_their_questions(tmp_path):
    options = {"size": 16, "frames": 4, "motions": ("grows", "shrinks")}
    films = synthetic_captioned(str(tmp_path / "films"), train=3, val=1, test=1, **options)
    lines = []
    for number, row in enumerate(films.rows):
        films.path(number).rename(tmp_path / f"video{number}.mp4")
        entry = {"answer": dict(row.columns)["colour"], "id": number, "video_id": number}
        lines.append({**entry, "category_id": 0, "question": "what colour is it?"})
    for split, part in (("train", lines[:3]), ("test", lines[3:])):
        table(tmp_path / f"{split}_qa.json", json.dumps(part))
    data = datasets["msrvtt_qa"](str(tmp_path), annotations=str(tmp_path))
    views = Views(clips=(ClipSpec(frames=2, whole=True, size=16),), text=Questions())
    sample = training(data.split("test"), views, seed=0)[0, 0]
    assert sample["clips"].shape == (1, 3, 2, 16, 16)
    assert sample["questions"][0].answers[0][0] == dict(films.rows[3].columns)["colour"]
