"""Clips spread over the whole of long videos, from pretraining to a report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.linear_probe import linear_probe
from ssvid.cli import parse
from ssvid.data.sampling import eval_clips
from ssvid.errors import UserError
from ssvid.extract import extract_features
from ssvid.finetune import finetune
from ssvid.shapes import ClipSpec
from ssvid.weights.encoders import load_encoder
from tests.helpers import facts, run_pretrain

WHOLE = ClipSpec(frames=8, whole=True, size=16)
CLIP = ["--clip.whole", "true", "--clip.frames", "8"]


@pytest.fixture(scope="module")
def run(long: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    argv = [
        "--data",
        "csv",
        "--data.root",
        str(long / "labels.csv"),
        *CLIP,
        "--short_videos",
        "error",
    ]
    assert run_pretrain(long, out, *argv)["step"] == 6
    return out


def extract(net: Path, data: Path, out: Path, *flags: str) -> dict[str, np.ndarray]:
    argv = [
        "--encoder",
        str(net),
        "--data",
        "csv",
        "--data.root",
        str(data / "labels.csv"),
        "--out",
        str(out),
    ]
    argv += ["--workers", "0", "--cache", str(out.parent / "cache"), *flags]
    extract_features(**parse(extract_features, argv))
    return dict(np.load(out)) if out.suffix == ".npz" else {}


def read_clip_means(net: Path, data: Path, spec: ClipSpec, clips: int) -> np.ndarray:
    """Features of the first video, from its own frames."""
    encoder = load_encoder(net)
    with torch.inference_mode():
        return (
            encoder(encoder.normalise(eval_clips(data / "0.mp4", spec, clips)))
            .pooled.mean(0)
            .numpy()
        )


def test_a_run_keeps_its_whole_clips_and_extract_takes_them(run: Path, long: Path, tmp_path: Path):
    spec = json.loads((run / "encoder.json").read_text())["spec"]
    assert spec == {
        "frames": 8,
        "fps": None,
        "stride": None,
        "size": 16,
        "modality": "rgb",
        "whole": True,
    }
    assert load_encoder(run).spec == WHOLE
    for clips in (1, 3):
        table = extract(run, long, tmp_path / f"{clips}.npz", "--clips", str(clips))
        assert len(table["features"]) == 8
        first = table["features"][table["path"].tolist().index("0.mp4")]
        np.testing.assert_allclose(
            first, read_clip_means(run, long, WHOLE, clips), rtol=1e-4, atol=1e-5
        )
        other = read_clip_means(run, long, ClipSpec(frames=8, stride=1, size=16), clips)
        assert np.abs(first - other).max() > 1e-3, "else the test could not tell"


def test_the_same_command_goes_on_and_another_clip_is_another_run(run: Path, long: Path):
    argv = ["--data", "csv", "--data.root", str(long / "labels.csv"), "--short_videos", "error"]
    assert run_pretrain(long, run, *argv, *CLIP, "--steps", "7")["step"] == 7
    with pytest.raises(UserError, match=facts("clip.whole")):
        run_pretrain(long, run, *argv, "--clip.frames", "8", "--steps", "8")


def test_extract_takes_a_clip_of_the_users(run: Path, long: Path, tmp_path: Path):
    """Either way; each is cached under its own name."""
    whole = extract(run, long, tmp_path / "whole.npz")["features"]
    four = extract(run, long, tmp_path / "four.npz", "--clip.stride", "2")["features"]
    np.testing.assert_allclose(
        four[0],
        read_clip_means(run, long, ClipSpec(frames=8, stride=2, size=16), 1),
        rtol=1e-4,
        atol=1e-5,
    )
    assert np.abs(four - whole).max() > 1e-3


def test_seconds_are_refused_until_they_get_a_clip(run: Path, long: Path, tmp_path: Path):
    for out in (tmp_path / "store", tmp_path / "f.npz"):
        with pytest.raises(UserError, match=facts("--clip.fps", "--clip.stride")):
            extract(run, long, out, "--per_second")
        assert not out.exists()
    extract(run, long, tmp_path / "store", "--per_second", "--clip.fps", "5")
    assert json.loads((tmp_path / "store/store.json").read_text())["clip"]["fps"] == 5.0


def test_finetuning_and_a_probe_see_whole_clips(run: Path, long: Path, tmp_path: Path):
    argv = [
        "--encoder",
        str(run),
        "--data",
        "csv",
        "--data.root",
        str(long / "labels.csv"),
        "--workers",
        "0",
    ]
    small = [
        "--steps",
        "1",
        "--batch_size",
        "2",
        "--threads",
        "1",
        "--test_clips",
        "2",
        "--test_crops",
        "1",
    ]
    clip_flags = ["--clip.frames", "16", "--out", str(tmp_path / "t")]
    finetune(**parse(finetune, [*argv, *small, *clip_flags]))
    clip = json.loads((tmp_path / "t/result.json").read_text())["protocol"]["clip"]
    assert clip["whole"] is True and (clip["frames"], clip["clips"]) == (16, 2)
    options = [
        "--min_steps",
        "10",
        "--cache",
        str(tmp_path / "cache"),
        "--out",
        str(tmp_path / "p"),
        "--threads",
        "1",
        "--twins",
        "2",
        "--poolings",
        "[mean]",
    ]
    linear_probe(**parse(linear_probe, [*argv, *options]))
    result = json.loads((tmp_path / "p/whole.classify.linear.json").read_text())
    assert result["protocol"]["clip"]["whole"] is True and result["data"]["bad_files"] == 0
