"""The command benchmarks.label: its numbers by hand, how it continues, and what it refuses."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import label as module
from benchmarks.features.text_side import open_text_side
from benchmarks.label import label
from benchmarks.labelling import labeller as nets
from benchmarks.labelling import records
from benchmarks.reports.label_page import BARS, show_video, summarise
from objectives.clip import CLIP
from objectives.xclip import XCLIP
from ssvid import create_encoder
from ssvid.cli import parse
from ssvid.data.augment import RECIPES, crop_frames
from ssvid.data.decode import read
from ssvid.data.sampling import eval_clips
from ssvid.errors import UserError
from ssvid.hub import open_encoder
from ssvid.text.joint_files import save_joint
from ssvid.weights.encoders import save_encoder
from tests.helpers import command, facts, for_each, squares, tells, write_video

LABELS = ("red ball", "blue box", "a slam dunk")
TEXT = ", ".join(LABELS)
PICTURE = {"width": 24, "depth": 2, "heads": 2, "patch": 8, "dim": 16}
LETTERS = {"letters": True, "width": 16, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of xclip: its text side changes the sentences by the clip's tokens."""
    torch.manual_seed(0)
    net = create_encoder("xclip", image="clip_vit", image_kwargs=PICTURE, frames=2, size=16)
    objective = XCLIP(net, tower="clip_text", options=LETTERS, train="both", prompt_layers=1)
    objective.set_classes(LABELS)
    return save_run(objective, tmp_path_factory.mktemp("xclip"))


@pytest.fixture(scope="module")
def words_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of clip whose text side knows a few words."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("clip")
    (folder / "words.txt").write_text("red\nblue\nball\nbox\n")
    net = create_encoder("clip_vit", **PICTURE, frames=2, size=16)
    sizes = {"width": 8, "hidden": 16, "length": 6}
    objective = CLIP(net, tower="words", words=str(folder / "words.txt"), options=sizes)
    return save_run(objective, folder)


def save_run(objective, folder: Path) -> Path:
    objective.scale.data.fill_(2.0)
    save_encoder(objective.encoder, folder, "encoder", {})
    save_joint(objective.joint_space(), folder)
    return folder


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Two videos of 3 s."""
    for i, name in enumerate(("a", "b")):
        write_video(tmp_path / f"v/{name}.mp4", squares(i, frames=30))
    return tmp_path


def run_label(films: Path, encoder: Path | str, *flags: str, video: str = "v", out="out") -> dict:
    argv = ["--video", str(films / video), "--encoder", str(encoder), "--out", str(films / out)]
    if "--labels" not in flags:
        argv += ["--labels", TEXT]
    return label(**parse(label, [*argv, *flags]))


def read_record(films: Path, name: str = "a") -> dict:
    return json.loads((films / f"out/{name}.json").read_text())


@torch.inference_mode()
def compare_at_once(run: Path, clips: torch.Tensor, labels=LABELS) -> torch.Tensor:
    """Logits n S, by the contract of joint spaces alone."""
    net, joint = open_encoder(str(run)), open_text_side(str(run), None)
    vectors = joint.read_clips(net(net.normalise(clips), layers=joint.layers))
    return joint.compare(vectors, joint.embed_texts(labels)).double()


def compare_by_hand(run: Path, clips: torch.Tensor) -> torch.Tensor:
    """As above, of one clip and one label after the other."""
    rows = []
    for clip in clips:
        row = [compare_at_once(run, clip[None], [name])[0, 0] for name in LABELS]
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_one_video_as_a_user_runs_it(films: Path, run: Path):
    """Beside the probabilities by hand: a softmax of each clip, and their mean."""
    argv = [str(films / "v/a.mp4"), "--labels", TEXT, "--encoder", str(run), "--clips", "3"]
    ended = command("benchmarks.label", *argv, "--out", str(films / "out"))
    assert ended.returncode == 0, ended.stderr[-2000:]
    printed, record = json.loads(ended.stdout.splitlines()[-1]), read_record(films)
    logits = compare_by_hand(run, eval_clips(films / "v/a.mp4", open_encoder(str(run)).spec, 3))
    expected = dict(zip(LABELS, logits.softmax(1).mean(0).tolist(), strict=True))
    similarities = dict(zip(LABELS, (logits.mean(0) / np.exp(2.0)).tolist(), strict=True))
    probabilities = [line["probability"] for line in record["top"]]
    assert probabilities == sorted(probabilities, reverse=True) and len(probabilities) == 3
    for line in record["top"]:
        assert line["probability"] == pytest.approx(expected[line["label"]], abs=1e-6)
        assert line["similarity"] == pytest.approx(similarities[line["label"]], abs=1e-6)
    assert record["best_similarity"] == pytest.approx(max(similarities.values()), abs=1e-6)
    first, second = sorted(logits.mean(0).tolist())[:-3:-1]
    assert record["margin"] == pytest.approx(first - second, abs=1e-5)
    assert printed["top"] == record["top"] and printed["answer"] == record["answer"]
    with open(films / "out/labels.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["rank"] for line in lines] == ["1", "2", "3"] and lines[0]["video"] == "a"
    assert lines[0]["label"] == record["top"][0]["label"] and lines[1]["verdict"] == ""
    assert float(lines[0]["probability"]) == pytest.approx(probabilities[0], abs=1e-6)
    assert (films / "out/index.html").read_text().count("data:image/jpeg") == 1


def test_wordings_are_averaged(films: Path, run: Path):
    (films / "t.txt").write_text("# two\na video of {}.\n\n{} is seen\n")
    run_label(films, run, "--templates", str(films / "t.txt"), "--clips", "1", video="v/a.mp4")
    net, joint = open_encoder(str(run)), open_text_side(str(run), None)
    with torch.inference_mode():
        pixels = net.normalise(eval_clips(films / "v/a.mp4", net.spec, 1))
        first = joint.embed_texts([f"a video of {name}." for name in LABELS])
        texts = joint.average_texts(
            torch.stack([first, joint.embed_texts([f"{name} is seen" for name in LABELS])])
        )
        logits = joint.compare(joint.read_clips(net(pixels, layers=joint.layers)), texts)[0]
    best = read_record(films)["top"][0]
    number = LABELS.index(best["label"])
    assert best["probability"] == pytest.approx(float(logits.softmax(0)[number]), abs=1e-6)


def test_a_killed_run_goes_on_and_decodes_nothing_twice(films, run, monkeypatch):
    reads: list[str] = []
    read_clips = records.read_clips

    def read_or_die(path: Path, *arguments):
        reads.append(path.stem)
        if reads == ["a", "b"]:
            raise KeyboardInterrupt
        return read_clips(path, *arguments)

    monkeypatch.setattr(records, "read_clips", read_or_die)
    with pytest.raises(KeyboardInterrupt):
        run_label(films, run)
    assert (films / "out/a.json").exists() and not (films / "out/b.json").exists()
    printed = run_label(films, run)
    assert reads == ["a", "b", "b"] and (printed["labelled"], printed["kept"]) == (1, 1)
    before = (films / "out/index.html").read_bytes()
    printed = run_label(films, run)
    assert (printed["labelled"], printed["kept"]) == (0, 2) and len(reads) == 3
    assert (films / "out/index.html").read_bytes() == before
    (films / "out/b.json").write_text("{")
    assert run_label(films, run)["labelled"] == 1


@for_each("change", ["labels", "templates", "clips", "video", "encoder", "per_second"])
def test_other_inputs_are_measured_anew(change, run, words_run, tmp_path):
    write_video(tmp_path / "v/a.mp4", squares(0, frames=4))
    run_label(tmp_path, run)
    assert run_label(tmp_path, run)["labelled"] == 0
    (tmp_path / "t.txt").write_text("a {}\n")
    flags = {"labels": ["--labels", "red ball, blue box"], "clips": ["--clips", "2"]}
    flags |= {"templates": ["--templates", str(tmp_path / "t.txt")]}
    flags |= {"per_second": ["--per_second", "true"]}
    if change == "video":
        write_video(tmp_path / "v/a.mp4", squares(5, frames=5))
    encoder, argv = run, flags.get(change, [])
    if change == "encoder":
        encoder, argv = words_run, ["--labels", "red ball, blue box"]
        run_label(tmp_path, run, *argv)
    assert run_label(tmp_path, encoder, *argv)["labelled"] == 1
    assert run_label(tmp_path, encoder, *argv)["labelled"] == 0


def test_margin_and_threshold_decide_without_measuring(films: Path, run: Path):
    assert run_label(films, run, "--margin", "0")["sure"] == 2
    record = read_record(films)
    assert record["verdict"] == "sure" and record["answer"] == record["top"][0]["label"]
    printed = run_label(films, run, "--margin", "50")
    assert (printed["unsure"], printed["labelled"]) == (2, 0)
    assert tells(read_record(films)["answer"], "unsure", record["top"][0]["label"])
    printed = run_label(films, run, "--none_below", str(record["best_similarity"]))
    assert read_record(films)["answer"] == "none of these" and printed["labelled"] == 0
    # The threshold of this run, and not that of an earlier one.
    assert run_label(films, run, "--margin", "0")["none"] == 0


def test_bad_videos_are_listed_and_the_others_labelled(films: Path, run: Path):
    (films / "v/c.mp4").write_bytes(b"no video")
    argv = [str(films / "v"), "--labels", TEXT, "--encoder", str(run), "--out", str(films / "out")]
    ended = command("benchmarks.label", *argv)
    assert ended.returncode == 3 and "Traceback" not in ended.stderr
    printed = json.loads(ended.stdout.splitlines()[-1])
    assert (printed["videos"], printed["labelled"], printed["bad"]) == (3, 2, 1)
    (line,) = (films / "out/quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == "c"
    assert (films / "out/a.json").exists() and (films / "out/b.json").exists()


def test_each_second_is_labelled_by_a_window_around_it(films: Path, run: Path):
    write_video(films / "v/a.mp4", np.concatenate([squares(i, frames=15) for i in range(3)]))
    run_label(films, run, "--per_second", "true", "--margin", "0", video="v/a.mp4")
    with open(films / "out/a.seconds.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    # Two frames in a window of 2 s: half a second before and after the middle of each second.
    assert len(lines) == 5  # 4.5 s
    for second, line in enumerate(lines):
        times = [float(second), second + 1.0]
        pictures = read(films / "v/a.mp4", times)  # T C H W, of 32 x 32 pixels
        still = crop_frames(pictures, RECIPES["none"], 16, torch.zeros(0))
        logits = compare_at_once(run, still[None])[0]
        for name, probability in zip(LABELS, logits.softmax(0).tolist(), strict=True):
            assert float(line[name]) == pytest.approx(probability, abs=2e-6)
        assert line["answer"] == LABELS[int(logits.argmax())]
    record = read_record(films)
    assert record["seconds"] == 5 and record["segments"][-1]["end"] == 5
    assert (films / "out/a.seconds.png").read_bytes()[:4] == b"\x89PNG"


def test_calibration_on_videos_that_show_none_of_the_labels(films: Path, run: Path):
    for i in range(20):
        write_video(films / f"empty/{i}.mp4", squares(50 + i, frames=2))
    printed = run_label(films, run, "--calibrate", str(films / "empty"), "--false_alarms", "0.1")
    similarities = []
    for i in range(20):
        record = json.loads((films / f"out/calibration/{i}.json").read_text())
        similarities.append(record["best_similarity"])
    assert printed["threshold"] == sorted(similarities)[17]
    assert tells(printed["threshold_from"], "2 of its 20", str(films / "empty"))
    record = read_record(films)
    assert record["threshold"] == printed["threshold"]
    assert (record["verdict"] == "none") == (record["best_similarity"] <= printed["threshold"])
    assert printed["threshold_from"] in (films / "out/index.html").read_text()
    (films / "empty/0.mp4").write_bytes(b"torn")
    with pytest.raises(UserError, match=facts("19", "20")):
        run_label(films, run, "--calibrate", str(films / "empty"))


def test_thousands_of_labels_are_compared_in_parts(films: Path, run: Path, monkeypatch):
    """Longer than the tower reads, too: their ends are cut."""
    names = [f"thing {number}" for number in range(3000)] + ["x" * 200]
    (films / "many.txt").write_text("\n".join(names) + "\n")
    sizes = []
    embed = nets.Text.embed
    monkeypatch.setattr(
        nets.Text, "embed", lambda text, some: sizes.append(len(some)) or embed(text, some)
    )
    flags = ["--labels", str(films / "many.txt"), "--clips", "1"]
    run_label(films, run, *flags, video="v/a.mp4")
    assert sum(sizes) == 3001 and max(sizes) <= 256
    record = read_record(films)
    assert record["labels"] == 3001 and len(record["top"]) == 20
    clips = eval_clips(films / "v/a.mp4", open_encoder(str(run)).spec, 1)
    logits = compare_at_once(run, clips, names)[0]
    logged = torch.tensor([line["logit"] for line in record["top"]], dtype=torch.float64)
    torch.testing.assert_close(logged, logits.topk(20).values, atol=1e-5, rtol=0)
    assert record["top"][0]["label"] == names[int(logits.argmax())]
    first = record["top"][0]["probability"]
    assert first == pytest.approx(float(logits.softmax(0).max()), rel=1e-4)


@for_each(
    "flags, fact",
    [
        (["--labels", ""], "--labels | no labels"),
        (["--labels", "a dog"], "one label | 'a dog'"),
        (["--labels", "a dog, cat, A  Dog"], "twice | 'A Dog'"),
        (["--labels", "a dog,, cat"], "empty | 2 of 3"),
        (["--labels", "gone.txt"], "gone.txt"),
        (["--templates", "gone.txt"], "gone.txt"),
        (["--clips", "0"], "--clips"),
        (["--margin", "-1"], "--margin"),
        (["--clip.frames", "4"], "--clip.frames | 2 frames"),
        (["--window", "3"], "--window | --per_second"),
        (["--none_below", "0.1", "--calibrate", "v"], "--none_below | --calibrate"),
        (["--calibrate", "few"], "--calibrate | 1 videos | 20"),
        (["--calibrate", "v"], "--calibrate | VIDEO"),
        (["--encoder", "xclip_b32"], "ViT-B-32.pt | github.com/openai/CLIP | MIT"),
        (["--encoder", "xclip_b32"], "github.com/microsoft/VideoX | bpe_simple_vocab_16e6.txt.gz"),
        (["--encoder", "xclip_b32@random"], "ViT-B-16.pt | ViT-L-14.pt"),
        (["--encoder", "gone.pt"], "gone.pt"),
        (["--encoder", "mute"], "mute | text side"),
        (["--video", "gone.mp4"], "gone.mp4 | VIDEO"),
        (["--video", "none"], "none | VIDEO"),
        (["--video", "torn.mp4"], "torn.mp4"),
        (["--out", "torn.mp4"], "--out"),
    ],
)
def test_bad_input_is_one_sentence(flags, fact, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "v/a.mp4", squares(0, frames=2))
    shutil.copytree(tmp_path / "v", tmp_path / "few")
    shutil.copytree(run, tmp_path / "mute")
    for file in (tmp_path / "mute").glob("text.*"):
        file.unlink()
    (tmp_path / "none").mkdir()
    (tmp_path / "torn.mp4").write_bytes(b"no video")
    argv = ["--video", "v", "--labels", TEXT, "--encoder", str(run), "--out", "out"]
    with pytest.raises(UserError, match=facts(*fact.split(" | "))) as caught:
        label(**parse(label, [*argv, *flags]))
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert not list(tmp_path.glob("out/*.html"))


def test_no_encoder_names_the_files_to_get(films: Path):
    with pytest.raises(UserError, match=facts("ViT-B-32.pt", "OpenAI", "Microsoft", "--words")):
        label(str(films / "v"), labels=TEXT, out=str(films / "out"))


def test_a_label_without_a_word_of_the_text_side_is_refused(films: Path, words_run: Path):
    with pytest.raises(UserError, match=facts("'a slam dunk'", "word")):
        run_label(films, words_run)
    assert run_label(films, words_run, "--labels", "red ball, blue box")["labelled"] == 2


def test_what_a_page_shows_of_a_video(films: Path, run: Path):
    (films / "many.txt").write_text("\n".join(f"thing {number}" for number in range(8)))
    flags = ["--labels", str(films / "many.txt"), "--per_second", "true", "--margin", "50"]
    run_label(films, run, *flags)
    record = read_record(films)
    shown = show_video(record, films / "out/a.jpg", films / "out/a.seconds.png")
    assert [bar.name for bar in shown.chart.bars] == [
        line["label"] for line in record["top"][:BARS]
    ]
    assert float(shown.chart.bars[0].width) == pytest.approx(
        100 * record["top"][0]["probability"], abs=0.01
    )
    assert len(shown.table.rows) == 8 and shown.answer == record["answer"]
    assert tells(shown.reason, f"{record['margin']:.2f}", "50.00")
    assert shown.segments[0][0].startswith("0:00-") and shown.timeline is not None
    assert tells(summarise([record, {**record, "verdict": "none"}])[0], "0 of 2", "1 none of these")


def test_people_read_a_table(films: Path, run: Path):
    printed = run_label(films, run)
    record = read_record(films)
    text = printed["page"]
    assert tells(text, f"a: {record['answer']}", *LABELS)
    assert f"{100 * record['top'][0]['probability']:.1f} %" in text
    assert module.PRINTED_VIDEOS >= 2
