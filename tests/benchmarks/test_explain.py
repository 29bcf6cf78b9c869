"""The command benchmarks.explain: its numbers beside the space, what the page gets, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.explain import explain
from benchmarks.reports import explain_page
from ssvid.cli import parse
from ssvid.data.sampling import eval_clips
from ssvid.errors import UserError
from ssvid.hub import open_encoder
from ssvid.text.joint_files import load_joint
from tests.benchmarks.explained import save_questions, save_retrieval
from tests.helpers import command, squares, tells, write_video
from tests.test_blip import build_library_net, save_library_net, write_vocabulary

SENTENCE = "a red star moves left"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    save_retrieval(folder / "retrieval")
    save_questions(folder / "qa")
    write_video(folder / "a.mp4", squares(0, frames=20))
    return folder


def run_explain(runs: Path, name: str, out: Path, *flags: str) -> dict:
    argv = ["--video", str(runs / "a.mp4"), "--encoder", str(runs / name), "--out", str(out)]
    argv += [] if "--sentence" in flags else ["--sentence", SENTENCE]
    return explain(**parse(explain, [*argv, *flags]))


def test_a_sentence_as_a_user_gives_it(runs: Path, tmp_path: Path):
    """Beside the score of the space; shares sum to 1; the scales are those of the encoder."""
    argv = [str(runs / "a.mp4"), SENTENCE, "--encoder", str(runs / "retrieval")]
    ended = command("benchmarks.explain", *argv, "--out", str(tmp_path / "out"))
    assert ended.returncode == 0, ended.stderr[-2000:]
    printed = json.loads(ended.stdout.splitlines()[-1])
    net, space = open_encoder(str(runs / "retrieval")), load_joint(runs / "retrieval")
    with torch.no_grad():
        features = net(net.normalise(eval_clips(runs / "a.mp4", net.spec)))
        match = space.match(space.read_clips(features), [SENTENCE])
    assert printed["match_logit"] + printed["cosine"] == pytest.approx(float(match), abs=1e-5)
    assert printed["scales"] == pytest.approx(net.read_scales()) and len(printed["scales"]) == 2
    assert [word["word"] for word in printed["words"]] == SENTENCE.split()
    for key in ("words", "frames"):
        assert sum(part["share"] for part in printed[key]) == pytest.approx(1.0)
    assert [frame["time_s"] for frame in printed["frames"]] == [0.2, 0.7, 1.2, 1.7]
    record = json.loads((tmp_path / "out/explanation.json").read_text())
    maps = np.array(record["maps"])
    assert maps.shape == (5, 4, 2, 2)
    shares = maps.sum((0, 2, 3)) / maps.sum()
    assert [frame["share"] for frame in printed["frames"]] == pytest.approx(shares, abs=1e-5)
    page = (tmp_path / "out/index.html").read_text()
    assert tells(page, SENTENCE, f"{printed['cosine']:.3f}", "attends over time")
    with Image.open(tmp_path / "out/strip.png") as image:
        assert image.width > 1500


def test_an_answer_is_explained_by_its_probability(runs: Path, tmp_path: Path):
    question = "what colour is the star ?"
    flags = ["--sentence", question, "--answer", "red", "--layer", "3"]
    printed = run_explain(runs, "qa", tmp_path, *flags)
    assert printed["layer"] == 3 and printed["answer"] == "red"
    assert printed["answer_probability"] == pytest.approx(np.exp(printed["answer_log_probability"]))
    assert "The answer has a probability" in printed["page"]


def test_a_file_of_blip_is_explained_and_has_no_scales(runs: Path, tmp_path: Path):
    net = build_library_net("BlipForImageTextRetrieval")
    save_library_net(net, tmp_path / "model.safetensors")
    flags = ["--encoder", str(tmp_path / "model.safetensors"), "--sentence", "word4 word7"]
    flags += ["--words", write_vocabulary(tmp_path, 60)]
    printed = run_explain(runs, "retrieval", tmp_path / "out", *flags)
    first, second = printed["words"]
    assert (first["word"], second["word"]) == ("word4", "word7")
    assert printed["scales"] == [] and printed["layers"] == 2
    assert set(printed["shares"]) == {"patches", "class_tokens"} and len(printed["frames"]) == 8


def test_no_heat_is_said_and_no_scales_give_no_curve():
    record = {"video": "a.mp4", "sentence": SENTENCE, "answer": None, "encoder": "litevl"}
    record |= {"match_logit": 0.0, "match_probability": 0.5, "cosine": 0.1, "layer": 1, "layers": 2}
    record |= {"frames": [{"time_s": 0.5, "share": 0.0}], "shares": {"patches": 0.0}, "scales": []}
    record["words"] = [{"word": "red", "share": 0.0}]
    assert "No place of a frame" in explain_page.summarise(record)[1]
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    page = explain_page.make_explain_page(record, explain_page.draw_film(record, [frames] * 3))
    assert "attends over time" not in page


def test_what_cannot_be_explained_is_refused(runs: Path, tmp_path: Path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    for name, flags, word in (
        ("retrieval", ["--sentence", " "], "empty"),
        ("retrieval", ["--layer", "3"], "1 to 2"),
        ("retrieval", ["--answer", "red"], "answers no questions"),
        ("qa", [], "give --answer"),
        ("retrieval", ["--video", str(tmp_path / "bad.mp4")], "cannot be read"),
        ("retrieval", ["--video", str(tmp_path)], "is a folder"),
        ("retrieval", ["--out", str(tmp_path / "bad.mp4")], "is a file"),
    ):
        with pytest.raises(UserError) as error:
            run_explain(runs, name, tmp_path / "out", *flags)
        assert word in str(error.value), str(error.value)
    assert not (tmp_path / "out").exists()
