"""The command benchmarks.ask: beside the space of the run itself, and what it refuses."""

import json
import logging
from pathlib import Path

import pytest
import torch

from benchmarks.ask import ask
from ssvid.cli import parse
from ssvid.data.sampling import eval_clips
from ssvid.errors import UserError
from ssvid.hub import open_encoder
from ssvid.text.answering import load_answers
from tests.benchmarks.explained import save_questions, save_retrieval
from tests.helpers import command, squares, tells, write_video

QUESTION = "what colour is the star ?"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_questions(tmp_path_factory.mktemp("qa"))


@pytest.fixture
def films(tmp_path: Path) -> Path:
    for number, name in enumerate(("a", "b")):
        write_video(tmp_path / f"v/{name}.mp4", squares(number, frames=12))
    return tmp_path / "v"


def run_ask(video: Path, encoder: Path, *flags: str) -> dict:
    argv = ["--video", str(video), "--encoder", str(encoder)]
    argv += [] if "--question" in flags else ["--question", QUESTION]
    return ask(**parse(ask, [*argv, *flags]))


@torch.no_grad()
def read_by_hand(run: Path, video: Path) -> tuple:
    net, space = open_encoder(str(run)), load_answers(run)
    clips = space.read_clips(net(net.normalise(eval_clips(video, net.spec))))
    return space, clips


def test_a_question_as_a_user_asks_it(films: Path, run: Path):
    ended = command("benchmarks.ask", str(films / "a.mp4"), QUESTION, "--encoder", str(run))
    assert ended.returncode == 0, ended.stderr[-2000:]
    printed = json.loads(ended.stdout.splitlines()[-1])
    space, clips = read_by_hand(run, films / "a.mp4")
    assert printed["answers"] == {"a": space.generate(clips, [QUESTION])[0]}
    assert printed["question"] == QUESTION and printed["bad"] == {}


def test_choices_are_ranked_by_their_losses(films: Path, run: Path):
    printed = run_ask(films, run, "--choices", "red, a blue star, green")
    assert set(printed["answers"]) == {"a", "b"}
    for name in ("a", "b"):
        space, clips = read_by_hand(run, films / f"{name}.mp4")
        with torch.no_grad():
            states, mask = space.read_questions([QUESTION], clips["tokens"])
            for line in printed["choices"][name]:
                loss = space.sum_losses(states, mask, [line["choice"]], torch.tensor([0]))
                assert line["score"] == pytest.approx(-float(loss), abs=1e-4)
        scores = torch.tensor([line["score"] for line in printed["choices"][name]])
        shares = [line["probability"] for line in printed["choices"][name]]
        assert shares == pytest.approx(scores.double().softmax(0).tolist(), abs=1e-6)
        assert shares == sorted(shares, reverse=True) and len(shares) == 3
        assert printed["answers"][name] == printed["choices"][name][0]["choice"]
    lines = printed["page"].splitlines()
    assert lines[0] == f"a: {printed['answers']['a']}" and len(lines) == 8
    assert lines[1].endswith(printed["answers"]["a"])


def test_a_long_question_is_cut_and_a_line_says_how_much_was_read(
    films: Path, run: Path, caplog: pytest.LogCaptureFixture
):
    question = "what " * 14 + "colour"
    with caplog.at_level(logging.INFO, "ssvid"):
        printed = run_ask(films / "a.mp4", run, "--question", question)
    (line,) = [text for text in caplog.messages if "read" in text]
    assert tells(line, "15 pieces", "10 of them")
    assert printed["question"] == question


def test_a_folder_goes_on_after_a_damaged_video_and_one_video_does_not(films: Path, run: Path):
    (films / "bad.mp4").write_bytes(b"no video")
    printed = run_ask(films, run)
    assert set(printed["answers"]) == {"a", "b"} and set(printed["bad"]) == {"bad"}
    assert printed["exit_code"] == 3
    with pytest.raises(UserError, match="cannot be read"):
        run_ask(films / "bad.mp4", run)


def test_what_cannot_be_asked_is_refused(films: Path, run: Path, tmp_path: Path):
    retrieval = save_retrieval(tmp_path / "retrieval")
    for flags, encoder, word in (
        (["--question", "  "], run, "empty"),
        ([], retrieval, "answers no questions"),
        ([], tmp_path / "nowhere", "no run folder"),
        (["--choices", "red"], run, "two or more"),
        (["--choices", "red,,blue"], run, "two or more"),
        (["--choices", "red, Red"], run, "twice"),
        (["--question", "\u4e2d"], run, "knows no word"),
    ):
        with pytest.raises(UserError) as error:
            run_ask(films / "a.mp4", encoder, *flags)
        assert word in str(error.value), str(error.value)
