"""Extraction: cached, resumable, honest about bad files; and the commands on top of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ssvid import create_encoder
from ssvid.cli import parse
from ssvid.data.datasets.folder import folder
from ssvid.data.sampling import eval_clips
from ssvid.engine import features
from ssvid.engine.features import Source, extract
from ssvid.errors import UserError
from ssvid.extract import extract_features
from ssvid.shapes import ClipSpec
from tests.engine.test_run import run_pretrain
from tests.helpers import command

SPEC = ClipSpec(frames=4, stride=1, size=16)


class Counting:
    """Mean colour, and how many clips it was asked for."""

    def __init__(self) -> None:
        self.clips = 0

    def __call__(self, clip: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        self.clips += len(clip)
        return {"colour": clip.float().mean((2, 3, 4))}


@pytest.fixture
def counting() -> Counting:
    return Counting()


def test_rows_are_in_the_manifests_order_and_right(videos: Path, tmp_path: Path, counting: Counting):
    data = folder(str(videos))
    got = extract(data, SPEC, [Source("a", "1", counting)], cache=tmp_path, batch_size=3, workers=0)
    by_hand = torch.stack([eval_clips(data.path(i), SPEC)[0].float().mean((1, 2, 3)) for i in range(len(data))])
    torch.testing.assert_close(got.features["a"]["colour"], by_hand)
    assert got.ok.all() and got.cpu_s > 0


def test_what_is_there_is_not_made_again(videos: Path, tmp_path: Path, counting: Counting, monkeypatch):
    monkeypatch.setattr(features, "PART", 4)
    data, source = folder(str(videos)), Source("a", "1", counting)
    first = extract(data, SPEC, [source], cache=tmp_path, workers=0)
    assert counting.clips == 10
    extract(data, SPEC, [source], cache=tmp_path, workers=0)
    assert counting.clips == 10
    part = max(tmp_path.rglob("rows_*.safetensors"))
    part.write_bytes(part.read_bytes()[:20])  # cut short
    again = extract(data, SPEC, [source], cache=tmp_path, workers=0)
    assert counting.clips == 12 and torch.equal(again.features["a"]["colour"], first.features["a"]["colour"])
    extract(data, SPEC, [Source("a", "2", counting)], cache=tmp_path, workers=0)
    assert counting.clips == 22, "another function must not find the old one's values"
    extract(data, ClipSpec(frames=2, stride=1, size=16), [source], cache=tmp_path, workers=0)
    assert counting.clips == 32, "another clip must not find the old one's values"


def test_several_clips_are_averaged(videos: Path, tmp_path: Path, counting: Counting):
    data = folder(str(videos)).take([0])
    got = extract(data, SPEC, [Source("a", "1", counting)], cache=tmp_path, workers=0, clips=3)
    by_hand = eval_clips(data.path(0), SPEC, 3).float().mean((2, 3, 4)).mean(0)
    torch.testing.assert_close(got.features["a"]["colour"][0], by_hand)


def test_bad_files_are_marked(videos: Path, tmp_path: Path, counting: Counting):
    some = shutil.copytree(videos, tmp_path / "v")
    (some / "4.mp4").write_bytes(b"")
    data = folder(str(some))
    got = extract(data, SPEC, [Source("a", "1", counting)], cache=tmp_path / "c", workers=0)
    assert (~got.ok).nonzero().flatten().tolist() == [4] and counting.clips == 9


@pytest.fixture(scope="module")
def run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("extract") / "run"
    run_pretrain(videos, out)
    return out


def extracted(videos: Path, run: Path, tmp_path: Path, *more: str) -> dict[str, np.ndarray]:
    argv = ["--encoder", str(run), "--data", "folder", "--data.root", str(videos), "--out", str(tmp_path / "f.npz")]
    extract_features(**parse(extract_features, [*argv, "--cache", str(tmp_path / "c"), "--workers", "0", *more]))
    return dict(np.load(tmp_path / "f.npz"))


def test_extract_writes_what_embed_gives(videos: Path, run: Path, tmp_path: Path):
    from ssvid import load_encoder

    table = extracted(videos, run, tmp_path)
    encoder = load_encoder(run)
    assert table["features"].shape == (10, encoder.dim) and table["label"].tolist() == [-1] * 10
    for path, row in zip(table["path"], table["features"], strict=True):
        torch.testing.assert_close(torch.from_numpy(row), encoder.embed(videos / str(path))[0])


def test_one_row_for_each_second(videos: Path, run: Path, tmp_path: Path):
    from tests.helpers import squares, write_video

    some = shutil.copytree(videos, tmp_path / "v")
    write_video(some / "long.mp4", squares(3, frames=25))  # 2.4 s at 10 frames a second
    table = extracted(some, run, tmp_path, "--per_second")
    rows = table["path"] == "long.mp4"
    assert table["second"][rows].tolist() == [0, 1, 2] and (~rows).sum() == 10
    assert not np.allclose(table["features"][rows][0], table["features"][rows][1])


def test_a_name_means_random_weights_and_a_typo_is_refused(videos: Path, run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="near"):
        extracted(videos, Path("vit_smal"), tmp_path)
    with pytest.raises(UserError, match="no run folder or encoder file"):
        extracted(videos, tmp_path / "absent", tmp_path)
    with pytest.raises(UserError, match=r"\.npz"):
        extracted(videos, run, tmp_path, "--out", "f.txt")


def test_doctor_finds_this_machine_well():
    result = command("ssvid.doctor")
    found = json.loads(result.stdout.splitlines()[-1])
    assert result.returncode == 0 and found["ok"], result.stderr
    assert {"torch", "pyav", "disk", "slurm"} <= {f["what"] for f in found["findings"]}


def test_create_encoder_with_weights(run: Path):
    card = json.loads((run / "encoder.json").read_text())
    kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in card["kwargs"].items()}
    encoder = create_encoder(card["name"], weights=run / "encoder.safetensors", **kwargs)
    assert torch.equal(encoder.norm.weight, create_encoder(card["name"], **kwargs).norm.weight) is False
