import csv
import json
import shutil
from operator import attrgetter

import numpy as np
import pytest
from PIL import Image

from ssvid.data import fingerprints
from ssvid.data.clean_list import check_listable
from ssvid.data.corpus import describe_corpus, find_near
from ssvid.data.datasets.csv import csv as read_csv
from ssvid.data.datasets.folder import folder
from ssvid.data.datasets.mixture import mixture
from ssvid.data.fingerprints import Fingerprint, Likeness
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.shapes import Question, Row
from tests.helpers import command, facts, for_each, sentence, write_video

SIZE, FRAMES = 96, 20


def draw_scene(seed, frames=FRAMES, size=SIZE):
    """T H W 3: blurred patches of colour, over which the view glides."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
    wide = np.asarray(coarse.resize((2 * size, 2 * size), Image.Resampling.BICUBIC))
    dy, dx = rng.integers(1, 4, 2)
    return np.stack([wide[t * dy :, t * dx :][:size, :size] for t in range(frames)])


def resize(scene, size):
    return np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in scene])


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Web: 5 films, one of them twice. Clean: a csv with 4 films, of which two are web's own in
    another form. Test: a film of web, cut and small, and two strangers.
    """
    root = tmp_path_factory.mktemp("corpora")
    for i in range(5):
        write_video(root / "web" / f"film_{i}.mp4", draw_scene(i))
    shutil.copy(root / "web" / "film_0.mp4", root / "web" / "film_9.mp4")
    (root / "clean").mkdir()
    write_video(root / "clean" / "small.mp4", resize(draw_scene(1), (64, 48)), fps=12)
    write_video(root / "clean" / "cropped.mp4", draw_scene(2)[:, 4:-6, 6:-4])
    for i in (20, 21):
        write_video(root / "clean" / f"new_{i}.mp4", draw_scene(i))
    lines = ["path,caption,duration,split,label"]
    for name in ("small", "cropped", "new_20"):
        lines.append(f"{name}.mp4,a view of {name},2,train,view")
    lines += ["new_20.mp4,one more view,2,train,view", "new_21.mp4,,,train,"]
    (root / "clean" / "list.csv").write_text("\n".join(lines))
    (root / "held").mkdir()
    barred = np.pad(resize(draw_scene(3)[5:], (48, 48)), ((0, 0), (8, 8), (0, 0), (0, 0)))
    write_video(root / "held" / "a.mp4", barred)
    for i in (30, 31):
        write_video(root / "held" / f"{i}.mp4", draw_scene(i))
    (root / "held" / "test.csv").write_text("path,split\na.mp4,test\n30.mp4,test\n31.mp4,train\n")
    return root


def open_mixture(root):
    web = {"name": "folder", "root": str(root / "web"), "weight": 3, "cleanliness": "noisy"}
    return mixture(parts={"web": web, "clean": {"name": "csv", "root": f"{root}/clean/list.csv"}})


def read_pairs(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def describe(root, tmp_path, **options):
    files = {"pairs": str(tmp_path / "pairs.csv"), "out": str(tmp_path / "clean.csv")}
    return describe_corpus(open_mixture(root), workers=1, **{**files, **options})


def test_copies_of_all_kinds_are_listed_and_left_out(corpora, tmp_path):
    test = f"csv={corpora}/held/test.csv"
    result = describe(corpora, tmp_path, benchmarks=[test])
    assert result["twins"]["corpus"] == {"bytes": 1, "near": 2}
    assert result["twins"][test] == {"near": 1} and result["removable"] == 4
    pairs = {}
    for row in read_pairs(tmp_path / "pairs.csv"):
        pairs[row["clip"].rsplit("/", 1)[1]] = (row["kind"], row["twin"].rsplit("/", 1)[1])
        assert row["where"] == (test if "film_3" in row["clip"] else "corpus")
    assert pairs == {
        "film_9.mp4": ("bytes", "film_0.mp4"),
        "small.mp4": ("near", "film_1.mp4"),
        "cropped.mp4": ("near", "film_2.mp4"),
        "film_3.mp4": ("near", "a.mp4"),
    }
    rows = read_csv(str(tmp_path / "clean.csv")).rows
    names = [row.path.rsplit("/", 1)[1] for row in rows]
    assert names == ["film_0.mp4", "film_1.mp4", "film_2.mp4", "film_4.mp4"] + [
        "new_20.mp4",
        "new_21.mp4",
    ]


def test_a_clean_list_is_a_mixture_again_and_nothing_more_is_in_it_twice(corpora, tmp_path):
    describe(corpora, tmp_path, benchmarks=[f"{corpora}/held/test.csv"])
    listed = {"name": "csv", "root": str(tmp_path / "clean.csv")}
    parts = {name: {**listed, "where": f"source={name}"} for name in ("web", "clean")}
    data = mixture(parts=parts)
    before = {row.path.rsplit("/", 1)[1]: row for row in open_mixture(corpora).rows}
    for row in data.rows:
        old = before[row.path.rsplit("/", 1)[1]]
        assert (row.source, row.label, row.split) == (old.source, old.label, old.split)
        assert [text for *_, text in row.sentences] == [text for *_, text in old.sentences]
    again = describe_corpus(data, benchmarks=[f"{corpora}/held/test.csv"], workers=1)
    assert again["removable"] == 0 and again["clips"] == 6


def test_numbers_are_told_by_source_and_cleanliness(corpora, tmp_path):
    result = describe(corpora, tmp_path)
    web, clean = result["sources"]["web"], result["sources"]["clean"]
    assert result["cleanliness"] == {"noisy": 6, "not stated": 4} and result["clips"] == 10
    assert web["share_of_draws"] == 0.75 and web["captioned"] == 0 and clean["captioned"] == 0.75
    assert clean["captions"] == 4 and clean["caption_words"]["most"] == 4
    assert clean["caption_words"]["median"] == 4 and clean["labelled"] == 3
    # Lists state 2 s of three films; the files of the fourth and of web's five others last 2 s.
    assert clean["clips_of_known_length"] == 4 and clean["hours"] == pytest.approx(8 / 3600)
    assert web["clips_of_known_length"] == 5 and web["hours"] == pytest.approx(10 / 3600)
    quick = describe_corpus(open_mixture(corpora), near=False, workers=1)
    assert quick["sources"]["web"]["hours"] == 0 and quick["twins"]["corpus"] == {"bytes": 1}


def test_cuts_of_one_film_look_alike_and_stay(corpora, tmp_path):
    scene = draw_scene(50, frames=30)
    for i, part in enumerate((scene[:20], scene[10:])):
        write_video(tmp_path / "cuts" / f"v_view_g01_c0{i}.mp4", part)
    result = describe_corpus(folder(str(tmp_path / "cuts")), workers=1)
    assert result["twins"]["corpus"] in ({}, {"scene": 1}) and result["removable"] == 0
    lines = "path,subject\ncuts/v_view_g01_c00.mp4,me\ncuts/v_view_g01_c01.mp4,{}\n"
    removable = []
    for name in ("me", "you"):
        (tmp_path / "list.csv").write_text(lines.format(name))
        result = describe_corpus(read_csv(str(tmp_path / "list.csv")), workers=1)
        removable.append(result["removable"])
    assert removable == [0, 1]


def test_a_bad_file_is_counted_and_stays(corpora, tmp_path):
    shutil.copytree(corpora / "web", tmp_path / "web")
    (tmp_path / "web" / "film_4.mp4").write_bytes(b"no film")
    out = str(tmp_path / "list.csv")
    result = describe_corpus(folder(str(tmp_path / "web")), out=out, workers=1)
    assert result["unreadable"] == 1 and result["removable"] == 1
    assert "film_4.mp4" in (tmp_path / "list.csv").read_text()


def test_a_test_clip_of_the_same_path_or_name_is_listed_without_being_read(corpora, tmp_path):
    (tmp_path / "test.csv").write_text(f"path,split\n{corpora}/web/film_2.mp4,test\n")
    shutil.copy(corpora / "clean" / "new_20.mp4", tmp_path / "renamed.mp4")
    (tmp_path / "other.csv").write_text("path,split\nrenamed.mp4,test\n")
    tests = [f"csv={tmp_path}/test.csv", f"{tmp_path}/other.csv"]
    result = describe(corpora, tmp_path, benchmarks=tests, near=False)
    assert result["twins"][tests[0]] == {"path": 1}
    assert result["twins"][tests[1]] == {"bytes": 1} and result["removable"] == 3


@for_each(
    "options, words",
    [
        ({"benchmarks": ["ucf101"]}, ["--benchmarks", "NAME=ROOT"]),
        ({"benchmarks": ["nothing=x"]}, ["--benchmarks", "nothing"]),
        ({"benchmarks": ["folder=nowhere/x"]}, ["--benchmarks", "nowhere/x"]),
        ({"benchmarks": ["TRAIN"]}, ["--benchmarks", "test"]),
        ({"benchmarks": ["TEST", "TEST"]}, ["twice"]),
        ({"out": "nowhere/clean.csv"}, ["--out", "folder"]),
        ({"pairs": "TAKEN"}, ["--pairs", "exists"]),
    ],
)
def test_a_wrong_flag_is_refused_before_a_file_is_read(corpora, tmp_path, options, words):
    (tmp_path / "taken.csv").write_text("mine")
    (tmp_path / "train.csv").write_text(f"path\n{corpora}/web/film_1.mp4\n")
    files = {"TAKEN": f"{tmp_path}/taken.csv", "TRAIN": f"{tmp_path}/train.csv"}
    files["TEST"] = f"{corpora}/held/test.csv"
    spelled = {}
    for flag, value in options.items():
        many = isinstance(value, list)
        spelled[flag] = [files.get(v, v) for v in value] if many else files.get(value, value)
    with pytest.raises(UserError, match=facts(*words)):
        describe_corpus(open_mixture(corpora), workers=1, **spelled)
    assert (tmp_path / "taken.csv").read_text() == "mine"


def test_folders_of_pictures_cannot_be_listed(tmp_path):
    for i in range(2):
        for t, frame in enumerate(draw_scene(i, 4)):
            (tmp_path / "frames" / f"{i}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame).save(tmp_path / "frames" / f"{i}" / f"{t}.png")
    parts = {"a": {"name": "frames", "root": str(tmp_path / "frames"), "fps": 5}}
    data = mixture(parts=parts)
    assert describe_corpus(data, workers=1)["removable"] == 0
    with pytest.raises(UserError, match=facts("--out", "rate")):
        describe_corpus(data, out=str(tmp_path / "out.csv"), workers=1)


def test_clips_with_questions_cannot_be_listed(tmp_path):
    (tmp_path / "a.mp4").touch()
    row = Row("a.mp4", questions=(Question("who?", (("man", 1.0),)),))
    with pytest.raises(UserError, match=facts("--out", "a.mp4", "questions")):
        check_listable(Manifest.build([row], tmp_path))


def test_the_command_reads_the_data_of_a_recipe_of_pretraining(corpora, tmp_path):
    recipe = tmp_path / "recipe.json"
    data = {"name": "folder", "root": str(corpora / "web")}
    recipe.write_text(json.dumps({"objective": {"name": "mae"}, "steps": 5, "data": data}))
    argv = ["--config", str(recipe), "--near", "false", "--benchmarks", f"{corpora}/held/test.csv"]
    done = command("ssvid.data.corpus", *argv, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["clips"] == 6
    recipe.write_text(json.dumps({"objctive": "mae", "data": data}))
    assert "objctive" in sentence(command("ssvid.data.corpus", *argv))


def test_a_clip_whose_twin_goes_itself_stays(corpora, monkeypatch):
    train = folder(str(corpora / "web")).split("train")
    pairs = [Likeness(0, 1, 1.0), Likeness(1, 2, 0.7)]
    monkeypatch.setattr(fingerprints, "compare", lambda prints: pairs)
    prints = list(map(Fingerprint, range(3), [np.zeros((0, 7, 128), bool)] * 3))
    (twin,) = find_near(train, prints, {}, 1)
    assert (twin.row, twin.path) == (1, str(train.path(0)))


def test_rows_of_other_splits_stay_in_the_list(corpora, tmp_path):
    out = tmp_path / "list.csv"
    describe_corpus(read_csv(f"{corpora}/held/test.csv"), out=str(out), near=False, workers=1)
    splits = map(attrgetter("split"), read_csv(str(out)).rows)
    assert sorted(splits) == ["test", "test", "train"]
