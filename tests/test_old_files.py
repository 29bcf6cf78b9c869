"""Folders and files that earlier versions wrote are still read.

`tests/old/run` is of commit eba6741.
"""

import shutil
from pathlib import Path

import pytest
import torch

from ssvid import load_encoder
from ssvid.errors import UserError
from ssvid.sweep.plan import read_plan
from tests.helpers import ROOT, metrics, run_pretrain, squares, write_video

OLD = Path(__file__).parent / "old" / "run"
SIZE = ["--encoder.dim", "8", "--encoder.heads", "1", "--encoder.depth", "1"]
SIZE += ["--objective.dec_dim", "8", "--objective.dec_heads", "1", "--keep_checkpoints", "1"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The old run with its videos beside it, as its config names them."""
    monkeypatch.chdir(tmp_path)
    for number in range(10):
        write_video(Path("videos") / f"{number}.mp4", squares(number))
    shutil.copytree(OLD, "run")
    return Path("run")


def test_an_old_encoder_is_loaded(run: Path):
    encoder = load_encoder(run)
    assert encoder.name == "vit" and encoder.dim == 8 and not encoder.training
    weights = torch.load(run / "checkpoints" / "step_00000006.pt", weights_only=True)["model"]
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, weights[f"encoder.{name}"]), name
    assert encoder.embed("videos/0.mp4").shape == (1, 8)


def test_an_old_run_goes_on(run: Path):
    before = [row for row in metrics(run) if "loss" in row]
    assert run_pretrain(Path("videos"), run, *SIZE, "--steps", "8")["step"] == 8
    after = [row for row in metrics(run) if "loss" in row]
    assert after[: len(before)] == before
    assert [row["step"] for row in after[len(before) :]] == [7, 8]


def test_an_old_run_starts_a_new_one(run: Path):
    argv = [*SIZE, "--steps", "1", "--lr", "0", "--min_lr", "0", "--init", str(run)]
    run_pretrain(Path("videos"), Path("new"), *argv, "--optimizer", "sgd", "--weight_decay", "0")
    new, old = load_encoder("new").state_dict(), load_encoder(run).state_dict()
    assert all(torch.equal(new[name], old[name]) for name in old)


def test_another_setting_is_refused_as_before(run: Path):
    with pytest.raises(UserError, match="mask_ratio"):
        run_pretrain(Path("videos"), run, *SIZE, "--objective.mask_ratio", "0.5")


def test_cells_of_sweeps_keep_their_hashes():
    """A sweep's folder is known by them: another hash would train every finished cell again."""
    cells = read_plan(str(ROOT / "ssvid" / "recipes" / "sweeps" / "smoke.yaml")).cells
    assert [cell.hash for cell in cells[:2]] == ["be7dbef19670", "d1b33936bebf"]
