"""What a run says before its first step, after the first few, and after its last."""

import sys
from pathlib import Path

import pytest

from ssvid.engine.advice import Fit, describe_duration, describe_seconds, judge_settings
from ssvid.engine.train_log import TIMED_STEPS
from ssvid.errors import UserError
from tests.helpers import facts, for_each, run_pretrain, tells

TIMES = (4.2, 89.0, 91.0, 5399.0, 5401.0, 11500.0, 200_000.0)
FIT = Fit(batch_size=32, videos=100, lr=1e-3, lr_batch=256)


@for_each(
    "changes, words",
    [
        ({}, ()),  # 8 times smaller than lr_batch is allowed
        ({"batch_size": 100}, ()),
        ({"batch_size": 101}, ("--batch_size 101", "100", "--batch_size 64")),
        ({"batch_size": 20, "videos": 4}, ("--batch_size 4", "5.0", "--lr_batch null")),
        ({"batch_size": 31}, ("--lr_batch null", "0.001", "1.2e-04")),
        ({"batch_size": 8}, ("--batch_size 8", "32", "3.1e-05")),
        ({"batch_size": 8, "lr_batch": None}, ()),
        ({"pretrains": True}, ()),
        ({"pretrains": True, "videos": 99}, ("99", "--init")),
        ({"step_s": 60.0}, ()),
        ({"step_s": 320.0}, ("5 min", "32 clips at 10 s", "--batch_size 6", "--preset laptop")),
    ],
)
def test_settings_are_judged_by_their_numbers(changes: dict, words: tuple[str, ...]):
    warnings = judge_settings(FIT._replace(**changes))
    assert len(warnings) == (1 if words else 0)
    assert not words or tells(warnings[0], *words)


def test_two_faults_have_two_warnings():
    assert len(judge_settings(Fit(256, 20, 1.5e-4, 256, step_s=3600.0))) == 2


def test_times_are_in_units_that_suit_them():
    times = [describe_seconds(s) for s in TIMES]
    assert times == ["4 s", "89 s", "2 min", "90 min", "1.5 h", "3.2 h", "2.3 days"]
    assert tells(describe_duration(5_000, 2.3), "3.2 h", "5,000", "2.3 s")


def test_a_run_that_does_not_fit_its_data_is_told_once(videos: Path, tmp_path: Path, capsys):
    large = ("--batch_size", "20", "--lr_batch", "256", "--checkpoint_every", "1", "--steps", "1")
    run_pretrain(videos, tmp_path / "run", *large)
    assert tells(capsys.readouterr().err, "--batch_size 20", "10", "--lr_batch null")
    run_pretrain(videos, tmp_path / "run", *large)
    assert "--lr_batch" not in capsys.readouterr().err


def test_the_hours_are_told_after_a_few_steps(videos: Path, tmp_path: Path, capsys):
    run_pretrain(videos, tmp_path / "run", "--steps", str(TIMED_STEPS + 3))
    lines = [line for line in capsys.readouterr().err.splitlines() if "a step)" in line]
    assert len(lines) == 1 and tells(lines[0], "3 steps")


def test_a_finished_run_says_so_and_more_steps_have_their_sentence(
    videos: Path, tmp_path: Path, capsys
):
    first = run_pretrain(videos, tmp_path / "run")
    capsys.readouterr()
    again = run_pretrain(videos, tmp_path / "run")
    text = capsys.readouterr().err
    assert again["loss"] == first["loss"] and again["step"] == 6
    assert tells(text, "step 6 of 6", f"loss {first['loss']:.4f}", "encoder.safetensors", "--init")
    assert "step/s" not in text  # no bar
    run_pretrain(videos, tmp_path / "run", "--steps", "8")
    text = capsys.readouterr().err
    assert tells(text, "6 steps", "8 steps", "--init", "learning rate")
    run_pretrain(videos, tmp_path / "run", "--steps", "8")
    assert "trained for 6" not in capsys.readouterr().err


def test_a_missing_decoder_and_a_place_that_cannot_be_written_are_refused_first(
    videos: Path, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(UserError, match=facts("torchcodec", "--decoder pyav")):
        run_pretrain(videos, tmp_path / "run", "--decoder", "torchcodec")
    with pytest.raises(UserError, match=facts("--decoder", "nvdec", "pyav")):
        run_pretrain(videos, tmp_path / "run", "--decoder", "nvdec")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=facts("--out", str(tmp_path / "file"))):
        run_pretrain(videos, tmp_path / "file" / "run")
    assert not (tmp_path / "run").exists() and "training" not in capsys.readouterr().err
