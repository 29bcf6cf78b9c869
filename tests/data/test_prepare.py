import json
import time
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from ssvid.data.decode import read, read_timestamps, scan_file
from ssvid.data.preprocess import prepare as module
from ssvid.data.preprocess.pool import FileResult, run_all
from ssvid.data.preprocess.prepare import prepare
from ssvid.errors import RunError, UserError
from tests.data.bars import numbers, write
from tests.helpers import command, facts, for_each, sentence, squares, tells, write_video


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "in"
    write(
        root / "a/one.mkv",
        np.cumsum([0.02, 0.04, 0.2, 0.01, 0.5, 0.03, 0.04, 0.33] * 4),
        g=250,
        bf=3,
        height=96,
    )
    write(root / "two.mp4", [i / 25 for i in range(30)], g=250)
    (root / "bad.mp4").write_bytes(b"not a video")
    return root


def test_writes_quick_files_with_the_same_times(source, tmp_path, capsys):
    out = tmp_path / "out"
    result = prepare(str(source), str(out), short_side=48, workers=1)
    assert result.items() >= {"files": 3, "good": 2, "bad": 1, "written": 2, "kept": 0}.items()
    json.dumps(result)
    for name, suffix in (("a/one", "mkv"), ("two", "mp4")):
        old, new = source / f"{name}.{suffix}", out / f"{name}.mp4"
        assert read_timestamps(new) == pytest.approx(read_timestamps(old), abs=1e-3)
        assert numbers(read(new, read_timestamps(new))) == list(range(len(read_timestamps(old))))
        keys = np.searchsorted(scan_file(new).pts, scan_file(new).keys)
        assert keys.tolist() == list(range(0, len(read_timestamps(old)), 12))
        with av.open(str(new)) as container:
            assert not any(
                frame.pict_type == av.video.frame.PictureType.B
                for frame in container.decode(video=0)
            )
    assert read(out / "a/one.mp4", [0.0]).shape[2:] == (48, 80)
    (bad,) = (out / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(bad)["path"].endswith("bad.mp4")
    message = capsys.readouterr()
    assert message.out == "" and tells(message.err, "2", "160x96")
    assert not list(out.rglob("*.part"))


def test_scan_only_writes_no_video(source, tmp_path):
    result = prepare(str(source), str(tmp_path / "out"), scan_only=True, workers=1)
    assert result["good"] == 2 and [path.name for path in (tmp_path / "out").iterdir()] == [
        "quarantine.jsonl"
    ]


def test_bad_files_are_named_with_the_reason_and_the_list(source, tmp_path, capsys):
    for number in range(5):
        (source / f"worse{number}.mp4").write_bytes(b"nothing")
    prepare(str(source), str(tmp_path / "out"), workers=1)
    line = capsys.readouterr().err
    assert tells(line, "6 bad", "bad.mp4:", "1 more", str(tmp_path / "out" / "quarantine.jsonl"))
    assert line.count("worse") == 4  # five are named


def test_a_scan_needs_no_folder(source, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    result = prepare(str(source), scan_only=True, workers=1)
    assert (result["good"], result["bad"], result["out"]) == (2, 1, None)
    assert sorted(tmp_path.rglob("*")) == before and tells(capsys.readouterr().err, "bad.mp4")
    with pytest.raises(UserError, match=facts("--out", "--scan_only")):
        prepare(str(source))


def test_a_csv_comes_along(source, tmp_path):
    (source / "list.csv").write_text("path,label\na/one.mkv,x\ntwo.mp4,y\n")
    result = prepare(str(source / "list.csv"), str(tmp_path / "out"), workers=1)
    assert result["written"] == 2
    assert (tmp_path / "out/list.csv").read_text().split() == [
        "path,label",
        "a/one.mp4,x",
        "two.mp4,y",
    ]


def test_faults_are_sentences(source, tmp_path):
    for inside in (source, source / "prepared"):
        with pytest.raises(UserError, match=facts(str(inside))):
            prepare(str(source), str(inside))
    with pytest.raises(UserError, match=facts(str(tmp_path / "none"))):
        prepare(str(tmp_path / "none"), str(tmp_path / "out"))
    (source / "two.avi").write_bytes((source / "two.mp4").read_bytes())
    with pytest.raises(UserError, match=facts("two.mp4")):
        prepare(str(source), str(tmp_path / "out"))


@for_each(
    "options",
    [
        {"workers": -1},
        {"short_side": 0},
        {"short_side": -256},
        {"gop": 0},
        {"crf": 99},
        {"crf": -1},
    ],
)
def test_a_number_that_cannot_be_is_named(source, tmp_path, options):
    ((name, value),) = options.items()
    with pytest.raises(UserError, match=facts(f"--{name}", str(value))):
        prepare(str(source), str(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()


def test_other_settings_are_refused(source, tmp_path):
    out = str(tmp_path / "out")
    prepare(str(source), out, workers=1, scan_only=True, gop=3)
    prepare(
        str(source), out, workers=1, short_side=48, crf=30
    )  # the scan wrote none that would differ
    assert json.loads((tmp_path / "out/prepare.json").read_text()) == {
        "short_side": 48,
        "gop": 12,
        "crf": 30,
    }
    with pytest.raises(UserError, match=facts("--short_side", "48", "256", "--crf", "30", "23")):
        prepare(str(source), out, workers=1)
    with pytest.raises(UserError, match=facts("--gop", "12", "6")):
        prepare(str(source), out, workers=1, short_side=48, crf=30, gop=6)
    assert prepare(str(source), out, workers=1, short_side=48, crf=30)["kept"] == 2
    assert (
        prepare(str(source), out, workers=1, scan_only=True)["good"] == 2
    )  # writes nothing, so any will do
    for text in ("", "[1]", "\0"):
        (tmp_path / "out/prepare.json").write_text(text)
        with pytest.raises(UserError, match=facts("prepare.json")):
            prepare(str(source), out, workers=1, short_side=48, crf=30)


def test_settings_refused_for_want_of_space_do_not_stick(source, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BYTES", 1e15)
    with pytest.raises(UserError, match=facts(str(tmp_path / "out"))):
        prepare(str(source), str(tmp_path / "out"), workers=1)
    monkeypatch.undo()
    assert prepare(str(source), str(tmp_path / "out"), workers=1, crf=28)["written"] == 2


@for_each("workers", ["1", "2"])
def test_a_full_disk_loses_nothing_and_blames_no_file(tmp_path, workers):
    root, out = tmp_path / "in", tmp_path / "out"
    write(root / "a.mp4", [i / 25 for i in range(3)])
    write(root / "b.mp4", [i / 25 for i in range(250)])
    argv = ("--source", str(root), "--out", str(out), "--workers", workers)
    message = sentence(command("ssvid.data.prepare", *argv, limit=8_000), code=3)
    assert tells(message, str(out))
    assert sorted(path.name for path in out.iterdir()) == ["a.mp4", "prepare.json"]
    first_mtime_ns = (out / "a.mp4").stat().st_mtime_ns
    again = prepare(str(root), str(out), workers=1)
    assert (again["written"], again["kept"], again["bad"]) == (1, 1, 0)
    assert (out / "a.mp4").stat().st_mtime_ns == first_mtime_ns and (
        out / "b.mp4"
    ).stat().st_size > 8_000


def full_or_slow(folder: Path, item: str) -> FileResult:
    if item == "0":
        raise RunError("full")
    time.sleep(0.05)
    (folder / item).touch()
    return FileResult(item)


def test_after_a_full_disk_no_other_file_is_begun(tmp_path):
    with pytest.raises(RunError, match="full"):
        run_all(partial(full_or_slow, tmp_path), [str(i) for i in range(60)], 2, "encode")
    assert len(list(tmp_path.iterdir())) < 20


def test_a_csv_keeps_inside_its_folder(source, tmp_path):
    (tmp_path / "lists").mkdir()
    for path in ("../in/two.mp4", str(source / "two.mp4")):
        (tmp_path / "lists/list.csv").write_text(f"path,label\n{path},x\n")
        with pytest.raises(UserError, match=facts("two.mp4")):
            prepare(str(tmp_path / "lists/list.csv"), str(tmp_path / "out"))


def test_odd_files_keep_their_look(shared, tmp_path):
    """Rotation, full range, BT.709 and a torn end."""
    names = ("rotated_90.mov", "bt709_full_range.mp4", "truncated_60pct.avi")
    for name in names:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).symlink_to(shared / "videos-odd" / name)
    assert (
        prepare(str(tmp_path / "in"), str(tmp_path / "out"), short_side=4096, workers=1)["written"]
        == 3
    )
    for name in names:
        old, new = shared / "videos-odd" / name, (tmp_path / "out" / name).with_suffix(".mp4")
        assert len(read_timestamps(new)) == len(read_timestamps(old))
        assert (read(new, [0.05]).float() - read(old, [0.05]).float()).abs().mean() < 4


def test_a_changed_source_is_made_anew(tmp_path):
    source, out = tmp_path / "s", tmp_path / "o"
    for i in range(2):
        write_video(source / f"{i}.mp4", squares(i))
    assert prepare(str(source), str(out), workers=1)["written"] == 2
    before = (out / "0.mp4").read_bytes()
    write_video(source / "0.mp4", squares(7))
    again = prepare(str(source), str(out), workers=1)
    assert (again["written"], again["kept"]) == (1, 1) and (out / "0.mp4").read_bytes() != before


def test_what_a_killed_run_left_is_removed(tmp_path):
    write(tmp_path / "in" / "a[1].mp4", range(6))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".a[1].mp4.99999.part").write_bytes(b"half")
    prepare(str(tmp_path / "in"), str(tmp_path / "out"), workers=1)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a[1].mp4", "prepare.json"]
