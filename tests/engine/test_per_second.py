"""`extract --per_second --out DIR`: a feature store, the same after restarts and with any number of
workers.
"""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ssvid.cli import parse
from ssvid.data import seconds
from ssvid.data.datasets.folder import folder
from ssvid.data.store import Store
from ssvid.engine import per_second
from ssvid.engine.per_second import fill_store
from ssvid.errors import DecodeError, RunError, UserError
from ssvid.extract import extract_features
from ssvid.files import Locked, locked
from ssvid.hub import create_encoder
from ssvid.weights.encoders import save_encoder
from tests import warm
from tests.helpers import command, facts, for_each, sentence, squares, tells, write_video

SMALL = {"dim": 24, "depth": 1, "heads": 2, "patch": 8, "frames": 4, "size": 16, "stride": 2}
LENGTHS = {"a/one": 25, "two": 8, "b/three": 61}  # frames, 10 a second


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("net")
    save_encoder(create_encoder("vit", **SMALL), out, "encoder", {})
    return out


@pytest.fixture
def long(tmp_path: Path) -> Path:
    for seed, (name, length) in enumerate(LENGTHS.items()):
        write_video(tmp_path / f"v/{name}.mp4", squares(seed, frames=length))
    return tmp_path / "v"


def argv(videos: Path, net: Path, out: Path, *more: str) -> list[str]:
    given = [
        "--encoder",
        str(net),
        "--data",
        "folder",
        "--data.root",
        str(videos),
        "--data.labels",
        "false",
    ]
    return [*given, "--per_second", "--workers", "0", "--out", str(out), *more]


def stored(videos: Path, net: Path, out: Path, *more: str) -> dict:
    return extract_features(**parse(extract_features, argv(videos, net, out, *more)))


def contents(out: Path) -> dict[str, bytes]:
    return {
        file.relative_to(out).as_posix(): file.read_bytes() for file in sorted(out.rglob("*.npy"))
    }


def test_a_store_holds_the_rows_of_the_table(long: Path, net: Path, tmp_path: Path):
    told = stored(long, net, tmp_path / "s")
    assert (
        told.items()
        >= {"videos": 3, "made": 3, "kept": 0, "bad": 0, "dim": 24, "rows": 3 + 1 + 6}.items()
    )
    assert told["seconds"] > 0 and told["cpu_s"] > 0
    stored(long, net, tmp_path / "f.npz", "--cache", str(tmp_path / "c"))
    table, store = dict(np.load(tmp_path / "f.npz")), Store(tmp_path / "s")
    for name, rows in (("one", 3), ("two", 1), ("three", 6)):
        wanted = table["features"][[path.endswith(f"{name}.mp4") for path in table["path"]]]
        got = store.read(name)
        assert got.dtype == np.float16 and got.shape == (rows, 24)
        np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=2e-3)
    assert np.abs(store.read("three")[0] - store.read("three")[5]).max() > 0.01


def test_workers_and_restarts_leave_no_trace(long: Path, net: Path, tmp_path: Path):
    stored(long, net, tmp_path / "s", "--batch_size", "2")
    stored(long, net, tmp_path / "w", "--batch_size", "2", "--workers", "2")
    assert (
        contents(tmp_path / "s") == contents(tmp_path / "w") and len(contents(tmp_path / "s")) == 3
    )
    before = contents(tmp_path / "s")
    (tmp_path / "s/two.npy").unlink()
    whole = (tmp_path / "s/one.npy").read_bytes()
    (tmp_path / "s/one.npy").write_bytes(whole[:-2])
    shutil.copystat(long / "a/one.mp4", tmp_path / "s/one.npy")  # its time tells nothing
    told = stored(long, net, tmp_path / "s", "--batch_size", "2")
    assert (told["made"], told["kept"]) == (2, 1) and contents(tmp_path / "s") == before


def test_a_video_that_has_changed_is_made_anew(long: Path, net: Path, tmp_path: Path):
    stored(long, net, tmp_path / "s")
    write_video(long / "two.mp4", squares(9, frames=31))
    told = stored(long, net, tmp_path / "s")
    assert (told["made"], told["kept"]) == (1, 2) and len(Store(tmp_path / "s").read("two")) == 3


def test_a_killed_extraction_goes_on(long: Path, net: Path, tmp_path: Path):
    for i in range(40):
        shutil.copy(long / "b/three.mp4", long / f"more_{i:02d}.mp4")
    with warm.start(
        "-m", "ssvid.extract", *argv(long, net, tmp_path / "s", "--batch_size", "1")
    ) as process:
        end = time.monotonic() + 120
        while (
            len(contents(tmp_path / "s")) < 2 and time.monotonic() < end and process.poll() is None
        ):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    there = len(contents(tmp_path / "s"))
    (tmp_path / "s/.torn.npy.1.tmp").write_bytes(b"half")
    told = stored(long, net, tmp_path / "s", "--batch_size", "1")
    assert 2 <= there < 43 and there - 1 <= told["kept"] <= there  # one may lack its time
    assert told["made"] + told["kept"] == 43 == len(contents(tmp_path / "s"))
    assert not list((tmp_path / "s").rglob(".*.tmp"))
    stored(long, net, tmp_path / "whole", "--batch_size", "1")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_videos_that_cannot_be_read_are_counted_and_listed(long: Path, net: Path, tmp_path: Path):
    (long / "bad.mp4").write_bytes(b"no video")
    told = stored(long, net, tmp_path / "s", "--workers", "2")
    assert (told["made"], told["bad"]) == (3, 1)
    (line,) = (tmp_path / "s/quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["path"].endswith("bad.mp4") and json.loads(line)["why"]
    shutil.copy(long / "two.mp4", long / "bad.mp4")
    told = stored(long, net, tmp_path / "s")
    assert (told["made"], told["kept"], told["bad"]) == (1, 3, 0) and not (
        tmp_path / "s/quarantine.jsonl"
    ).exists()


def test_a_video_that_fails_on_the_way_leaves_nothing(
    long: Path, net: Path, tmp_path: Path, monkeypatch
):
    whole = seconds._make_clips

    def failing(path, *more):
        for second, clip in enumerate(whole(path, *more)):
            if path.stem == "three" and second == 4:
                raise DecodeError(path, "damaged", 4.0)
            yield clip

    monkeypatch.setattr(seconds, "_make_clips", failing)
    told = stored(long, net, tmp_path / "s", "--batch_size", "1")
    assert (told["made"], told["bad"]) == (2, 1) and sorted(contents(tmp_path / "s")) == [
        "one.npy",
        "two.npy",
    ]
    assert json.loads((tmp_path / "s/quarantine.jsonl").read_text())["time"] == 4.0


def test_another_encoder_is_refused_as_a_user_sees_it(long: Path, net: Path, tmp_path: Path):
    stored(long, net, tmp_path / "s")
    torch.manual_seed(1)
    save_encoder(create_encoder("vit", **{**SMALL, "stride": 3}), tmp_path / "other", "encoder", {})
    said = sentence(command("ssvid.extract", *argv(long, tmp_path / "other", tmp_path / "s")))
    assert tells(said, "hash", "stride", "3") and not tells(said, "dim")


def test_a_second_writer_is_refused(long: Path, net: Path, tmp_path: Path):
    with locked(tmp_path / "s/lock", wait=False, what="s"), pytest.raises(Locked):
        stored(long, net, tmp_path / "s")


def test_ids_that_stand_for_two_files(long: Path, net: Path, tmp_path: Path):
    data = folder(str(long), labels=False)
    data.__dict__["video_ids"] = ["x", "y", "x"]
    with pytest.raises(UserError, match=facts("1", "x")):
        fill_store(data, create_encoder("vit", **SMALL), tmp_path / "s", workers=0)


@for_each("bias, said", [(float("nan"), "NaN"), (1e6, "float16")])
def test_features_that_cannot_be_kept(
    long: Path, tmp_path: Path, bias: float, said: str, monkeypatch
):
    net = create_encoder("vit", **SMALL).eval()
    monkeypatch.setattr(net, "normalise", lambda clip: clip.float() * 0)
    whole = net.forward
    monkeypatch.setattr(
        net, "forward", lambda clip: (got := whole(clip))._replace(pooled=got.pooled + bias)
    )
    with pytest.raises(UserError, match=facts(*said.split(" | "))):
        fill_store(folder(str(long), labels=False), net, tmp_path / "s", workers=0)
    assert not contents(tmp_path / "s")


def test_a_reader_that_dies_is_a_sentence(
    long: Path, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        per_second.Passes, "_video", lambda self, row: os.kill(os.getpid(), signal.SIGKILL)
    )
    with pytest.raises(RunError, match=facts("--workers")):
        stored(long, net, tmp_path / "s", "--workers", "1")


def test_out_that_is_no_folder(long: Path, net: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=facts(str(tmp_path / "file"))):
        stored(long, net, tmp_path / "file")
    with pytest.raises(UserError, match=facts(".npz", "--per_second")):
        (tmp_path / "d.npz").mkdir()
        stored(long, net, tmp_path / "d.npz")
