"""Extraction: cached, resumable, honest about bad files; and the commands on top of it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssvid import create_encoder, doctor, load_encoder
from ssvid.cli import parse
from ssvid.data.datasets.folder import folder
from ssvid.data.datasets.frames import frames
from ssvid.data.sampling import eval_clips
from ssvid.data.seconds import Seconds
from ssvid.engine import features
from ssvid.engine.features import Extracted, Source, evaluation, extract_from
from ssvid.errors import DecodeError, UserError
from ssvid.extract import extract_features
from ssvid.shapes import ClipSpec
from ssvid.weights.encoders import save_encoder
from tests.engine.test_run import run_pretrain
from tests.helpers import command, facts, for_each, squares, tells, write_video
from tests.nn import test_batchnorm  # noqa: F401  # registers test_norms

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


def extract(
    data, spec, sources, *, cache, batch_size=32, workers=0, clips=1, label="features"
) -> Extracted:
    return extract_from(
        evaluation(data, spec, clips, "pad"), sources, cache, batch_size, workers, "cpu", label
    )


def test_rows_are_in_the_manifests_order_and_right(
    videos: Path, tmp_path: Path, counting: Counting
):
    data = folder(str(videos))
    got = extract(data, SPEC, [Source("a", "1", counting)], cache=tmp_path, batch_size=3, workers=0)
    by_hand = torch.stack(
        [eval_clips(data.path(i), SPEC)[0].float().mean((1, 2, 3)) for i in range(len(data))]
    )
    torch.testing.assert_close(got.features["a"]["colour"], by_hand)
    assert got.ok.all() and got.cpu_s > 0


def test_what_is_there_is_not_made_again(
    videos: Path, tmp_path: Path, counting: Counting, monkeypatch
):
    monkeypatch.setattr(features, "PART_ROWS", 4)
    data, source = folder(str(videos)), Source("a", "1", counting)
    first = extract(data, SPEC, [source], cache=tmp_path, workers=0)
    assert counting.clips == 10
    extract(data, SPEC, [source], cache=tmp_path, workers=0)
    assert counting.clips == 10
    part = max(tmp_path.rglob("rows_*.safetensors"))
    part.write_bytes(part.read_bytes()[:20])  # cut short
    again = extract(data, SPEC, [source], cache=tmp_path, workers=0)
    assert counting.clips == 12 and torch.equal(
        again.features["a"]["colour"], first.features["a"]["colour"]
    )
    extract(data, SPEC, [Source("a", "2", counting)], cache=tmp_path, workers=0)
    assert counting.clips == 22, "another function must not find the old one's values"
    extract(data, ClipSpec(frames=2, stride=1, size=16), [source], cache=tmp_path, workers=0)
    assert counting.clips == 32, "another clip must not find the old one's values"


def test_several_clips_are_averaged(videos: Path, tmp_path: Path, counting: Counting):
    data = folder(str(videos)).take([0])
    got = extract(data, SPEC, [Source("a", "1", counting)], cache=tmp_path, workers=0, clips=3)
    by_hand = eval_clips(data.path(0), SPEC, 3).float().mean((2, 3, 4)).mean(0)
    torch.testing.assert_close(got.features["a"]["colour"][0], by_hand)


def test_a_folder_of_the_same_names_is_another(videos: Path, tmp_path: Path, counting: Counting):
    twin = shutil.copytree(videos, tmp_path / "twin")  # bytes and times alike: only the path tells
    other = tmp_path / "other"
    for i in range(10):
        write_video(other / f"{i}.mp4", squares(i + 50))
    source = Source("a", "1", counting)
    first, again, second = (
        extract(folder(str(root)), SPEC, [source], cache=tmp_path / "c", workers=0)
        for root in (videos, twin, other)
    )
    assert counting.clips == 30
    assert torch.equal(first.features["a"]["colour"], again.features["a"]["colour"])
    by_hand = eval_clips(other / "0.mp4", SPEC)[0].float().mean((1, 2, 3))
    torch.testing.assert_close(second.features["a"]["colour"][0], by_hand)


def test_the_same_folder_by_another_way_is_the_same(
    videos: Path, tmp_path: Path, counting: Counting, monkeypatch
):
    (tmp_path / "link").symlink_to(videos)
    monkeypatch.chdir(videos.parent)
    for root in (videos, tmp_path / "link", videos.name):
        extract(
            folder(str(root)), SPEC, [Source("a", "1", counting)], cache=tmp_path / "c", workers=0
        )
    assert counting.clips == 10


def test_a_mended_file_is_read_and_no_other_part_made_anew(
    videos: Path, tmp_path: Path, counting: Counting, monkeypatch
):
    monkeypatch.setattr(features, "PART_ROWS", 4)
    some = shutil.copytree(videos, tmp_path / "v")
    data = folder(str(some))

    def bad() -> list[int]:
        got = extract(data, SPEC, [Source("a", "1", counting)], cache=tmp_path / "c", workers=0)
        return (~got.ok).nonzero().flatten().tolist()

    (some / "4.mp4").write_bytes(b"")
    (some / "9.mp4").unlink()
    assert bad() == [4, 9] and counting.clips == 8
    shutil.copy2(videos / "4.mp4", some)
    assert bad() == [9] and counting.clips == 8 + 4
    shutil.copy2(videos / "9.mp4", some)
    assert bad() == [] and counting.clips == 12 + 2
    os.utime(some / "0.mp4", (1, 1))  # as another file of the same size would have it
    assert bad() == [] and counting.clips == 14 + 4
    os.chmod(some / "0.mp4", 0o600)
    assert bad() == [] and counting.clips == 18 + 4


def test_the_rate_of_pictures_counts(tmp_path: Path, counting: Counting):
    for clip in ("a", "b"):
        (tmp_path / "v" / clip).mkdir(parents=True)
        for t in range(12):
            Image.new("RGB", (16, 16), (20 * t, 0, 0)).save(tmp_path / "v" / clip / f"{t:02d}.png")
    spec, cache = ClipSpec(frames=2, fps=2.0, size=16), tmp_path / "c"

    def red(fps: float) -> float:
        data = frames(str(tmp_path / "v"), fps=fps)
        got = extract(
            data,
            spec,
            [Source("a", "1", lambda clip, _: {"last": clip[:, :1, -1].flatten(1)})],
            cache=cache,
        )
        return got.features["a"]["last"][0, 0].item()

    assert red(4.0) != red(8.0)


def test_seconds_are_known_by_their_number(videos: Path):
    seen = Seconds(folder(str(videos)), SPEC)
    (whole,) = features._divide_rows(seen)
    seen.row.append(9)
    seen.locations.append((1,))
    (longer,) = features._divide_rows(seen)
    seen.row[-1] = 8
    (moved,) = features._divide_rows(seen)
    seen.locations[-1] = (2,)
    (later,) = features._divide_rows(seen)
    assert len({part.name for part in (whole, longer, moved, later)}) == 4


def test_features_that_are_not_finite_are_refused_and_not_kept(
    videos: Path, tmp_path: Path, counting: Counting
):
    def broken(clip: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            "colour": torch.where(index[:, None] == 3, torch.nan, counting(clip, index)["colour"])
        }

    data = folder(str(videos))
    with pytest.raises(UserError, match=facts("3", "NaN")):
        extract(data, SPEC, [Source("a", "1", broken)], cache=tmp_path, workers=0, label="mine")
    got = extract(data, SPEC, [Source("a", "1", counting)], cache=tmp_path, workers=0)
    assert got.features["a"]["colour"].isfinite().all()


@pytest.fixture(scope="module")
def run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("extract") / "run"
    run_pretrain(videos, out)
    return out


def extracted(videos: Path, run: Path, tmp_path: Path, *more: str) -> dict[str, np.ndarray]:
    argv = [
        "--encoder",
        str(run),
        "--data",
        "folder",
        "--data.root",
        str(videos),
        "--out",
        str(tmp_path / "f.npz"),
    ]
    extract_features(
        **parse(extract_features, [*argv, "--cache", str(tmp_path / "c"), "--workers", "0", *more])
    )
    return dict(np.load(tmp_path / "f.npz"))


def test_extract_writes_what_embed_gives(videos: Path, run: Path, tmp_path: Path):
    table = extracted(videos, run, tmp_path)
    encoder = load_encoder(run)
    assert table["features"].shape == (10, encoder.dim) and table["label"].tolist() == [-1] * 10
    for path, row in zip(table["path"], table["features"], strict=True):
        torch.testing.assert_close(torch.from_numpy(row), encoder.embed(videos / str(path))[0])


def test_a_name_means_random_weights_and_a_typo_is_refused(videos: Path, run: Path, tmp_path: Path):
    with pytest.raises(UserError, match=facts("vit_smal", "vit_small")):
        extracted(videos, Path("vit_smal"), tmp_path)
    with pytest.raises(UserError, match=facts(str(tmp_path / "absent"))):
        extracted(videos, tmp_path / "absent", tmp_path)
    with pytest.raises(UserError, match=facts(".npz")):
        extracted(videos, run, tmp_path, "--out", "f.txt")


def test_a_named_encoder_is_the_same_net_in_the_next_process(videos: Path, tmp_path: Path):
    """Else what an interrupted command left would be of no use.

    What it cost is told, and nothing is decoded again.
    """
    few = tmp_path / "few"
    few.mkdir()
    for i in range(3):
        shutil.copy(videos / f"{i}.mp4", few)
    told = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        out = str(tmp_path / f"{seed}.npz")
        told.append(
            extract_features(
                "x3d_xs", folder(str(few)), out, workers=0, cache=str(tmp_path / "cache")
            )
        )
        assert torch.initial_seed() == seed, "the caller's random state is its own"
    assert [t["clips_decoded"] for t in told] == [3, 0]
    assert told[0]["cpu_s_per_clip"] == pytest.approx(told[0]["cpu_s"] / 3, abs=0.01)
    assert told[1]["cpu_s_per_clip"] is None
    assert np.array_equal(
        np.load(tmp_path / "1.npz")["features"], np.load(tmp_path / "2.npz")["features"]
    )


def test_unreadable_files_are_named(videos: Path, run: Path, tmp_path: Path):
    """As a user runs it; and what another process has extracted is found by this one."""
    some = shutil.copytree(videos, tmp_path / "v")
    for name in ("3.mp4", "7.mp4"):
        (some / name).write_bytes(b"no video")
    argv = [
        "--encoder",
        str(run),
        "--data",
        "folder",
        "--data.root",
        str(some),
        "--out",
        str(tmp_path / "o" / "f.npz"),
    ]
    done = command("ssvid.extract", *argv, "--cache", str(tmp_path / "c"), "--workers", "0")
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["rows"], told["unreadable_files"], told["unreadable"]) == (
        8,
        2,
        ["3.mp4", "7.mp4"],
    )
    first = [line.split()[0] for line in done.stderr.splitlines() if line.strip()]
    assert [word for word in first if word.endswith(".mp4")] == [
        str(some / "3.mp4"),
        str(some / "7.mp4"),
    ]
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*.safetensors")}
    assert len(extracted(some, run, tmp_path)["row"]) == 8
    assert made == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*.safetensors")
    }


@for_each("mode", [[], ["--per_second"], ["--per_second", "--out", "store"]])
def test_no_file_can_be_read(videos: Path, run: Path, tmp_path: Path, monkeypatch, mode: list[str]):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=facts("1", "a.mp4")):
        extracted(tmp_path / "v", run, tmp_path, *mode)


def test_a_second_that_cannot_be_read_is_told(
    videos: Path, run: Path, tmp_path: Path, capsys, monkeypatch
):
    some = tmp_path / "v"
    write_video(some / "long.mp4", squares(3, frames=25))
    load = Seconds._load

    def failing(self: Seconds, epoch: int, index: int) -> dict:
        if index == 1:
            raise DecodeError("long.mp4", "damaged")
        return load(self, epoch, index)

    monkeypatch.setattr(Seconds, "_load", failing)
    assert extracted(some, run, tmp_path, "--per_second")["second"].tolist() == [0, 2]
    assert tells(capsys.readouterr().err, "long.mp4", "1", "3")


@for_each(
    "flags, said",
    [
        (["--clips", "0"], "--clips | 0"),
        (["--batch_size", "0"], "--batch_size | 0"),
        (["--workers", "-1"], "--workers | -1"),
        (["--calibrate_bn", "-1"], "--calibrate_bn | -1"),
        (["--out", "FILE/f.npz"], "--out"),
        (["--out", "FOLDER.npz"], "FOLDER.npz"),
        (["--cache", "FILE"], "--cache"),
        (["--devices", "cuda"], "--devices"),
    ],
)
def test_flags_that_cannot_be(
    videos: Path, run: Path, tmp_path: Path, monkeypatch, flags: list[str], said: str
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "FILE").touch()
    (tmp_path / "FOLDER.npz").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=facts(*said.split(" | "))):
        extracted(videos, run, tmp_path, *flags)


def test_batch_norm_without_statistics(videos: Path, tmp_path: Path):
    save_encoder(create_encoder("test_norms", track=False), tmp_path / "net", "encoder", {})
    with pytest.raises(UserError, match=facts("--calibrate_bn", "256")):
        extracted(videos, tmp_path / "net", tmp_path)
    table = extracted(videos, tmp_path / "net", tmp_path, "--calibrate_bn", "10")["features"]
    assert table.shape == (10, 4)
    np.testing.assert_allclose(
        table.mean(0), 0, atol=1e-5
    )  # measured on these very clips, which are one batch
    assert np.abs(table).max() > 1e-3


def test_embed_puts_modes_back_and_refuses_no_clips(videos: Path):
    encoder = create_encoder("test_norms").train()
    encoder.net[2].eval()
    modes = [module.training for module in encoder.modules()]
    first = encoder.embed(videos / "0.mp4")
    assert (
        [module.training for module in encoder.modules()] == modes
        and True in modes
        and False in modes
    )
    assert torch.equal(encoder.eval().embed(videos / "0.mp4"), first)  # not as in training
    with pytest.raises(UserError, match=facts("--clips", "0")):
        encoder.embed(videos / "0.mp4", clips=0)


# A stand-in for SLURM's client: sinfo's exit code (None: it hangs), and whether doctor agrees.
SLURM = {
    "absent": None,
    "well": ("#!/bin/sh\necho main up 2 idle\n", True),
    "no controller": ("#!/bin/sh\necho Unable to contact slurm controller >&2\nexit 1\n", False),
    "hangs": ("#!/bin/sh\nexec /bin/sleep 60\n", False),
}


def test_doctor_tells_what_of_slurm_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a PATH of its own, so that nothing else on the machine is asked."""
    monkeypatch.setattr(doctor, "SLURM_TIMEOUT_S", 0.2)
    for name, client in SLURM.items():
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setenv("PATH", str(folder))
        for tool in ("sbatch", "sinfo") if client else ():
            (folder / tool).write_text(client[0])
            (folder / tool).chmod(0o755)
        works = {what: works for what, works, _ in doctor._check_slurm(tmp_path)}
        assert works == ({"slurm": client[1], "sacct": None} if client else {"slurm": None}), name


def test_doctor_as_a_command(tmp_path: Path):
    """It is well when every finding is, whatever this machine lacks; what the project needs is
    here.
    """
    result = command("ssvid.doctor", PATH=str(tmp_path))
    found = json.loads(result.stdout.splitlines()[-1])
    assert result.returncode == 0, result.stderr
    works = {f["what"]: f["works"] for f in found["findings"]}
    assert found["ok"] == (False not in works.values())
    assert works["python"] and works["torch"] and works["pyav"] and works["slurm"] is None
    assert {"disk", "shared memory"} <= works.keys()


def test_create_encoder_with_weights(run: Path):
    card = json.loads((run / "encoder.json").read_text())
    kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in card["kwargs"].items()}
    encoder = create_encoder(card["name"], weights=run / "encoder.safetensors", **kwargs)
    assert (
        torch.equal(encoder.norm.weight, create_encoder(card["name"], **kwargs).norm.weight)
        is False
    )
