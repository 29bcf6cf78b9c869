"""`partial_mae` by its command: each of its tasks, from files to a run; runs that go on; data that
it refuses.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ssvid.cli import parse
from ssvid.errors import UserError
from ssvid.pretrain import pretrain
from ssvid.text.joint_files import load_joint
from ssvid.weights.encoders import load_encoder
from tests.helpers import TINY, command, facts, sentence, tells

PARTIAL = ["--objective", "partial_mae", "--objective.dec_dim", "16", "--objective.dec_depth", "1"]
PARTIAL += [
    "--objective.dec_heads",
    "2",
    "--objective.drop_ratio",
    "0.5",
    "--encoder",
    "vit",
    *TINY,
]
RUN = [
    "--batch_size",
    "4",
    "--workers",
    "0",
    "--threads",
    "1",
    "--log_every",
    "1",
    "--lr",
    "1e-3",
    "--lr_batch",
    "4",
]
LABELS = ["--objective.task", "classification", "--objective.classes", "2"]
OPTIONS = json.dumps({"buckets": 32, "width": 8, "hidden": 16, "length": 8})


def argv(data: Path, out: Path, *more: str) -> list[str]:
    return [
        *PARTIAL,
        "--data",
        "csv",
        "--data.root",
        str(data / "labels.csv"),
        "--out",
        str(out),
        *RUN,
        *more,
    ]


def trained(out: Path, told: list[str]) -> dict[str, torch.Tensor]:
    step = pretrain(**parse(pretrain, told))["step"]
    return torch.load(out / f"checkpoints/step_{step:08d}.pt", weights_only=True)["model"]


def test_a_killed_run_goes_on_to_the_same_weights(long: Path, tmp_path: Path):
    more = [
        *LABELS,
        "--objective.repeat",
        "2",
        "--objective.mask",
        "block",
        "--steps",
        "4",
        "--checkpoint_every",
        "2",
    ]
    whole = trained(tmp_path / "a", argv(long, tmp_path / "a", *more))
    trained(tmp_path / "b", argv(long, tmp_path / "b", *more))
    (tmp_path / "b/checkpoints/step_00000004.pt").unlink()  # as if the kill had come after step 2
    again = trained(tmp_path / "b", argv(long, tmp_path / "b", *more))
    assert whole.keys() == again.keys() and all(
        torch.equal(whole[key], again[key]) for key in whole
    )
    assert {"task.head.weight", "pixels.mask_token"} <= whole.keys()


def test_long_videos_end_to_end_on_more_frames_than_the_net_has(long: Path, tmp_path: Path):
    """64 frames of minutes, three quarters of their tokens dropped; what is exported sees whole
    videos.
    """
    more = [
        "--objective.task",
        "long_video",
        "--objective.classes",
        "2",
        "--objective.drop_ratio",
        "0.75",
    ]
    more += ["--clip.frames", "64", "--steps", "2", "--recompute"]
    trained(tmp_path / "o", argv(long, tmp_path / "o", *more))
    net = load_encoder(tmp_path / "o")
    assert net.spec.whole and net.spec.frames == 64 and net.spec.stride is None
    assert net.embed(long / "0.mp4").shape == (1, 24)


def test_clips_and_sentences_give_a_text_side(tmp_path: Path):
    more = [
        "--objective.task",
        "video_text",
        "--objective.dim",
        "8",
        "--objective.options",
        OPTIONS,
    ]
    data = [
        "--data",
        "synthetic_narrated",
        "--data.train",
        "4",
        "--data.val",
        "1",
        "--data.test",
        "1",
    ]
    data += ["--data.seconds", "60", "--data.size", "16", "--data.root", str(tmp_path / "set")]
    trained(
        tmp_path / "o", [*PARTIAL, *more, *data, *RUN, "--out", str(tmp_path / "o"), "--steps", "2"]
    )
    joint = load_joint(tmp_path / "o")
    videos, texts = joint.embed_videos(torch.randn(3, 24)), joint.embed_texts(["a red bar"] * 2)
    assert videos.shape == (3, 8) and texts.shape == (2, 8)
    np.testing.assert_allclose(videos.detach().norm(dim=1), 1.0, rtol=1e-5)


def test_what_the_command_refuses(long: Path, tmp_path: Path):
    silent = argv(long, tmp_path / "o", "--steps", "1", "--objective.task", "video_text")
    assert tells(sentence(command("ssvid.pretrain", *silent)), "--data", "narrated")
    for more, words in {
        ("--objective.task", "classification", "--objective.classes", "5"): (
            "--objective.classes",
            "2",
        ),
        ("--objective.task", "retrieval"): ("--objective.task",),
        ("--objective.mask", "rows"): ("--objective.mask",),
        ("--objective.predict_ratio", "0.6"): ("--objective.drop_ratio", "0.5"),
        ("--clip.size", "20"): ("vit", "partial_mae", "8"),
        ("--drop_tokens", "0.5"): ("partial_mae", "pooled_only"),
    }.items():
        with pytest.raises(UserError, match=facts(*words)):
            pretrain(**parse(pretrain, argv(long, tmp_path / "o", "--steps", "1", *more)))
    assert not (tmp_path / "o/checkpoints").exists()
