"""Windows by hand: where they lie, which frames they hold, how they are cut."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.features.windows import (
    CUTS,
    Windows,
    cut_square,
    index_window_frames,
    list_frame_times,
    list_window_starts,
)
from ssvid.data.decode import read, read_timestamps
from ssvid.data.loader import eval_loader
from ssvid.data.manifest import Manifest
from ssvid.shapes import ClipSpec, Row
from tests.data.bars import write

SPEC = ClipSpec(frames=8, stride=2, size=32)  # 16 frames of the file, a new one every 7


def manifest(root: Path) -> Manifest:
    rows = [Row(path.name, "a", path.stem.split("_")[0]) for path in sorted(root.glob("*.mp4"))]
    return Manifest.build(rows, root)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train: 24 frames (two windows); val: 5 frames (a short one); test: 16 (just one window)."""
    root = tmp_path_factory.mktemp("windows")
    for name, frames, first in (("train", 24, 0), ("val", 5, 100), ("test", 16, 200)):
        write(root / f"{name}_0.mp4", (np.arange(frames) / 25).tolist(), first=first)
    return root


def test_the_published_windows_begin_every_fifteen_frames():
    spec = ClipSpec(frames=32, stride=1)
    assert list(list_window_starts(spec, 187)) == list(range(0, 156, 15)) and list(
        list_window_starts(spec, 47)
    ) == [0, 15]
    for total in (1, 31, 32, 33, 46):
        assert list(list_window_starts(spec, total)) == [0]
    assert not list(list_window_starts(spec, 0))
    assert list(list_window_starts(ClipSpec(frames=1, stride=1), 3)) == [
        0,
        1,
        2,
    ]  # never a step of nothing


def test_frames_of_a_window():
    assert index_window_frames(SPEC, 24, 7).tolist() == [7, 9, 11, 13, 15, 17, 19, 21]
    assert index_window_frames(SPEC, 5, 0).tolist() == [
        0,
        0,
        0,
        0,
        0,
        0,
        2,
        4,
    ]  # the first is repeated, on the left


def test_windows_of_real_files_hold_their_frames(three):
    """A frame is in the picture it should be in: of each file the frames that `window` says."""
    data = manifest(three)
    windows = Windows(data, SPEC)
    where = []
    for row, location in zip(windows.row, windows.locations, strict=True):
        where.append((data.rows[row].split, *location))
    assert sorted(where) == [("test", 0, 0), ("train", 0, 0), ("train", 7, 0), ("val", 0, 0)]
    for index, (row, (start, which)) in enumerate(zip(windows.row, windows.locations, strict=True)):
        path = data.path(row)
        frames = read(
            path,
            read_timestamps(path)[index_window_frames(SPEC, len(read_timestamps(path)), start)],
        )
        assert torch.equal(windows[0, index]["clips"], cut_square(frames, 32, which)[None]), where[
            index
        ]


def test_ten_cuts_of_one_decode_where_they_are_asked_for(three, monkeypatch):
    data = manifest(three)
    windows = Windows(data, SPEC, ten=("test",))
    assert [data.rows[row].split for row in windows.row].count("test") == CUTS == 10 and len(
        windows
    ) == 13
    decoded = []
    real = Windows._window
    monkeypatch.setattr(
        Windows,
        "_window",
        lambda self, *location: decoded.append(location) or real(self, *location),
    )
    rows = [i for i, row in enumerate(windows.row) if data.rows[row].split == "test"]
    clips = next(iter(eval_loader(windows, rows, CUTS, 0)))["clips"][:, 0]
    assert len(decoded) == 1 and len(set(clips[:5].sum((1, 2, 3, 4)).tolist())) == 5
    assert torch.equal(clips[5:], clips[:5].flip(-1))


def test_cuts_are_the_centre_and_the_corners():
    """A picture of 30 x 45: squares of 28 pixels."""
    y, x = torch.meshgrid(torch.arange(30), torch.arange(45), indexing="ij")
    frames = torch.stack([y, x, torch.zeros_like(x)])[None].to(torch.uint8)
    corner = [cut_square(frames, 28, which)[:2, 0, 0, 0].tolist() for which in range(10)]
    assert corner[:5] == [[1, 8], [0, 0], [0, 17], [2, 0], [2, 17]]
    assert corner[5:] == [[1, 35], [0, 27], [0, 44], [2, 27], [2, 44]]
    assert cut_square(frames, 14, 0).shape == (3, 1, 14, 14)


def test_seconds_instead_of_frames():
    """At 10 fps a file of 25 fps is read as one of 10: windows of 8 frames, a new one every 3."""
    spec = ClipSpec(frames=8, fps=10.0, size=32)
    times = list_frame_times(spec, np.arange(50) / 25)  # 1.96 s
    assert len(times) == 20 and times[-1] == pytest.approx(1.9)
    assert list(list_window_starts(spec, len(times))) == [0, 3, 6, 9, 12]
    assert len(list_frame_times(spec, np.array([]))) == 0


def test_a_file_that_cannot_be_read_has_no_window(three, tmp_path):
    for path in three.glob("*.mp4"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "train_1.mp4").write_bytes(b"no video")
    windows = Windows(manifest(tmp_path), SPEC)
    assert len(windows) == 4 and len(windows.manifest) == 4
