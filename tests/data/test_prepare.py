import json

import av
import numpy as np
import pytest

from ssvid.data.decode import _table, read, stamps
from ssvid.data.prepare import prepare
from ssvid.errors import UserError
from tests.data.bars import numbers, write


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "in"
    write(root / "a/one.mkv", np.cumsum([0.02, 0.04, 0.2, 0.01, 0.5, 0.03, 0.04, 0.33] * 4), g=250, bf=3, height=96)
    write(root / "two.mp4", [i / 25 for i in range(30)], g=250)
    (root / "bad.mp4").write_bytes(b"not a video")
    return root


def test_writes_quick_files_with_the_same_times(source, tmp_path, capsys):
    out = tmp_path / "out"
    result = prepare(str(source), str(out), short_side=48, workers=1)
    assert {key: result[key] for key in ("files", "good", "bad", "written", "kept")} == {
        **{"files": 3, "good": 2, "bad": 1, "written": 2, "kept": 0}
    }
    json.dumps(result)
    for name, suffix in (("a/one", "mkv"), ("two", "mp4")):
        old, new = source / f"{name}.{suffix}", out / f"{name}.mp4"
        assert stamps(new) == pytest.approx(stamps(old), abs=1e-3)
        assert numbers(read(new, stamps(new))) == list(range(len(stamps(old))))
        keys = np.searchsorted(_table(new).pts, _table(new).keys)
        assert keys.tolist() == list(range(0, len(stamps(old)), 12))
        with av.open(str(new)) as container:
            assert not any(frame.pict_type == av.video.frame.PictureType.B for frame in container.decode(video=0))
    assert read(out / "a/one.mp4", [0.0]).shape[2:] == (48, 80)
    (bad,) = (out / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(bad)["path"].endswith("bad.mp4")
    said = capsys.readouterr()
    assert said.out == "" and "2 files to write" in said.err and "160x96" in said.err
    assert not list(out.rglob("*.part"))


def test_goes_on_where_it_stopped(source, tmp_path):
    out = tmp_path / "out"
    prepare(str(source), str(out), workers=2)
    (out / "two.mp4").unlink()
    kept = (out / "a/one.mp4").stat().st_mtime_ns
    again = prepare(str(source), str(out), workers=1)
    assert (again["written"], again["kept"], again["bad"]) == (1, 1, 1)
    assert (out / "a/one.mp4").stat().st_mtime_ns == kept


def test_scan_only_writes_no_video(source, tmp_path):
    result = prepare(str(source), str(tmp_path / "out"), scan_only=True, workers=1)
    assert result["good"] == 2 and [path.name for path in (tmp_path / "out").iterdir()] == ["quarantine.jsonl"]


def test_a_csv_comes_along(source, tmp_path):
    (source / "list.csv").write_text("path,label\na/one.mkv,x\ntwo.mp4,y\n")
    result = prepare(str(source / "list.csv"), str(tmp_path / "out"), workers=1)
    assert result["written"] == 2
    assert (tmp_path / "out/list.csv").read_text().split() == ["path,label", "a/one.mp4,x", "two.mp4,y"]


def test_faults_are_sentences(source, tmp_path):
    with pytest.raises(UserError, match="is the source itself"):
        prepare(str(source), str(source))
    with pytest.raises(UserError, match="does not exist"):
        prepare(str(tmp_path / "none"), str(tmp_path / "out"))
    (source / "two.avi").write_bytes((source / "two.mp4").read_bytes())
    with pytest.raises(UserError, match="would become two.mp4"):
        prepare(str(source), str(tmp_path / "out"))


def test_odd_files_keep_their_look(shared, tmp_path):
    """Rotation, full range, BT.709 and a torn end."""
    names = ("rotated_90.mov", "bt709_full_range.mp4", "truncated_60pct.avi")
    for name in names:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).symlink_to(shared / "videos-odd" / name)
    assert prepare(str(tmp_path / "in"), str(tmp_path / "out"), short_side=4096, workers=1)["written"] == 3
    for name in names:
        old, new = shared / "videos-odd" / name, (tmp_path / "out" / name).with_suffix(".mp4")
        assert len(stamps(new)) == len(stamps(old))
        assert (read(new, [0.05]).float() - read(old, [0.05]).float()).abs().mean() < 4
