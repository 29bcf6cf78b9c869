"""The command: killed, full disks, bad files, places."""

import json
import os
import re
from pathlib import Path

import pytest

from ssvid.data.datasets.folder import folder
from ssvid.data.manifest import Manifest
from ssvid.data.preprocess import flow as module
from ssvid.data.preprocess.flow import compute, flow_file, read_flow
from ssvid.errors import DecodeError, UserError
from ssvid.shapes import Row
from tests.data.bars import write
from tests.helpers import command, facts, for_each, sentence, squares, tells, write_video


def counts(result):
    return tuple(map(result.get, ("videos", "made", "kept", "bad")))


def test_two_workers_make_the_same_files(three, tmp_path):
    compute(three, method="dis", workers=1, out=str(tmp_path / "one"))
    compute(three, method="dis", workers=2, out=str(tmp_path / "two"))
    names = ["a/variable.mkv.mkv", "b.mp4.mkv", "c.mp4.mkv", "flow.json"]
    for folder_name in ("one", "two"):
        root = tmp_path / folder_name
        assert sorted(root.rglob("*.*")) == [root / name for name in names]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_goes_on_where_it_was_killed(three):
    first = compute(three, method="dis", workers=1)
    assert counts(first) == (3, 3, 0, 0)
    flow_paths = [flow_file(three, row) for row in range(3)]
    whole, first_mtime_ns = flow_paths[1].read_bytes(), flow_paths[0].stat().st_mtime_ns
    left = flow_paths[1].with_name(f".{flow_paths[1].name}.123456.tmp")  # as write_whole calls it
    left.write_bytes(whole[:500])
    flow_paths[1].unlink()
    again = compute(three, method="dis", workers=1)
    assert (
        (again["made"], again["kept"]) == (1, 2)
        and flow_paths[1].read_bytes() == whole
        and not left.exists()
    )
    assert flow_paths[0].stat().st_mtime_ns == first_mtime_ns


def test_bad_videos_are_counted_and_the_others_go_on(tmp_path):
    root = tmp_path / "in"
    write_video(root / "good.mp4", squares(0, frames=3))
    write_video(root / "single.mp4", squares(0, frames=1))
    write_video(root / "tiny.mp4", squares(0, frames=3)[:, :4, :4])
    (root / "bad.mp4").write_bytes(b"not a video")
    torn = write(root / "torn.mp4", [i / 25 for i in range(60)], g=12)
    whole = torn.read_bytes()
    torn.write_bytes(whole[: len(whole) // 3] + bytes(2000) + whole[len(whole) // 3 + 2000 :])
    data = folder(str(root))
    result = compute(data, method="dis", workers=1)
    assert counts(result) == (5, 1, 0, 4)
    why = {}
    for line in (root / ".flow/quarantine.jsonl").read_text().splitlines():
        entry = json.loads(line)
        why[Path(entry["path"]).name] = entry["why"]
    assert set(why) == {"single.mp4", "tiny.mp4", "bad.mp4", "torn.mp4"}
    assert len(set(why.values())) >= 3, "each says why"
    assert sorted(os.listdir(root / ".flow")) == ["flow.json", "good.mp4.mkv", "quarantine.jsonl"]
    with pytest.raises(DecodeError, match=re.escape(why["single.mp4"])):
        read_flow(root / "single.mp4", root / "none.mkv", [0.0])
    (root / "bad.mp4").unlink()
    again = compute(folder(str(root)), method="dis", workers=2)
    assert (again["kept"], again["bad"]) == (1, 3)  # listed anew
    assert "bad.mp4" not in (root / ".flow/quarantine.jsonl").read_text()


def test_every_path_has_a_place_of_its_own_below_the_root(tmp_path):
    paths = [
        "a/b.mp4",
        "/a/b.mp4",
        "../a/b.mp4",
        "../../a/b.mp4",
        "%2F/a/b.mp4",
        "%2E%2E/a/b.mp4",
        "%252F/a/b.mp4",
    ]
    paths += [
        "a/b",
        "a/b.mkv",
        f"a/{'x' * 240}1.mp4",
        f"a/{'x' * 240}2.mp4",
        "a/..b.mp4",
        "[a]*?.mp4",
    ]
    places = [module._flow_path(tmp_path / "flow", path) for path in paths]
    assert len(set(places)) == len(paths)
    for flow_path in places:
        assert flow_path.resolve().is_relative_to(tmp_path / "flow") and flow_path.suffix == ".mkv"
        assert max(map(len, flow_path.parts)) < 220
    assert places[0] == tmp_path / "flow/a/b.mp4.mkv"


def test_all_splits_and_each_path_once(three):
    rows = []
    for row, split in zip(three.rows, ("train", "val", "test"), strict=True):
        rows.append(Row(row.path, split=split))
    twice = Manifest((*rows, rows[0]), three.root)
    assert compute(twice, method="dis", workers=1)["videos"] == 3
    assert compute(three.take([0]), method="dis", workers=1)["kept"] == 1


def test_another_method_is_refused(three, tmp_path):
    compute(three, method="dis", workers=1)
    with pytest.raises(UserError, match=facts("--method", "dis", "tvl1")):
        compute(three, workers=1)
    for text in ("", "[1]", "\0"):
        (tmp_path / "in/.flow/flow.json").write_text(text)
        with pytest.raises(UserError, match=facts("flow.json")):
            compute(three, method="dis", workers=1)


def test_faults_of_flags_are_sentences(three, monkeypatch):
    with pytest.raises(UserError, match=facts("--method", "tvl1", "dis")):
        compute(three, method="farneback")
    with pytest.raises(UserError, match=facts("--workers", "-1")):
        compute(three, workers=-1)
    monkeypatch.setattr(module, "BYTES", 1e15)
    with pytest.raises(UserError, match=facts(str(three.root / ".flow"))):
        compute(three, method="dis", workers=1)
    monkeypatch.undo()
    assert compute(three.take([2]), workers=1)["made"] == 1  # what was refused settled no method


def test_flow_is_not_taken_for_videos(three, tmp_path):
    compute(three, method="dis", workers=1)
    assert folder(str(tmp_path / "in")).rows == three.rows
    for out in ("in", "in/flow", "in/a/b"):
        with pytest.raises(UserError, match=facts(str(tmp_path / out))):
            compute(three, method="dis", workers=1, out=str(tmp_path / out))
    assert not (tmp_path / "in/flow").exists()


def test_the_command(three, tmp_path):
    (tmp_path / "in/bad.mp4").write_bytes(b"no")
    argv = ("--data", "folder", "--data.root", str(tmp_path / "in"), "--method", "dis")
    ran = command("ssvid.data.flow", *argv, "--workers", "2")
    assert ran.returncode == 0, ran.stderr[-2000:]
    result = json.loads(ran.stdout.splitlines()[-1])
    assert result.pop("seconds") > 0
    counts = {"videos": 4, "made": 3, "kept": 0, "bad": 1}
    assert result == {**counts, "out": str(tmp_path / "in/.flow"), "method": "dis"}
    assert tells(ran.stderr, "3", "17")
    assert json.loads((tmp_path / "in/.flow/quarantine.jsonl").read_text())["path"] == str(
        tmp_path / "in/bad.mp4"
    )
    message = sentence(command("ssvid.data.flow", *argv[:-2], "--method", "tvl1"))
    assert tells(message, "--method", "dis", "tvl1")


@for_each("workers", ["1", "2"])
def test_a_full_disk_loses_nothing_and_blames_no_file(tmp_path, workers):
    root = tmp_path / "in"
    write_video(root / "a.mp4", squares(0, frames=3))
    write(root / "b.mp4", [i / 25 for i in range(60)])
    argv = ("--data", "folder", "--data.root", str(root), "--method", "dis", "--workers", workers)
    message = sentence(command("ssvid.data.flow", *argv, limit=20_000), code=3)
    assert tells(message, "b.mp4.mkv")
    assert sorted(os.listdir(root / ".flow")) == ["a.mp4.mkv", "flow.json"]
    again = compute(folder(str(root)), method="dis", workers=1)
    assert (again["made"], again["kept"], again["bad"]) == (1, 1, 0)
