"""Fixtures of the data tests: small real files."""

from pathlib import Path

import pytest

from ssvid.data.datasets.folder import folder
from ssvid.data.manifest import Manifest
from tests.data.bars import VARIABLE, write
from tests.helpers import squares, write_video


@pytest.fixture(scope="session")
def long_gop(tmp_path_factory) -> Path:
    """300 frames at 25 a second, key frames 250 apart, three B frames."""
    return write(
        tmp_path_factory.mktemp("v") / "long.mp4",
        [i / 25 for i in range(300)],
        g=250,
        bf=3,
        preset="veryfast",
    )


@pytest.fixture(scope="session")
def small_set(tmp_path_factory) -> Path:
    """Six good videos of 40 frames: file i begins with number 100 * i."""
    root = tmp_path_factory.mktemp("set")
    for i in range(6):
        write(root / f"clip_{i}.mp4", [t / 25 for t in range(40)], first=100 * i, g=12)
    return root


@pytest.fixture(autouse=True)
def own_flow_folder(monkeypatch):
    monkeypatch.delenv("SSVID_FLOW", raising=False)


@pytest.fixture
def three(tmp_path) -> Manifest:
    """One of variable rate, one of an odd number of frames, one of two frames."""
    write(tmp_path / "in/a/variable.mkv", VARIABLE, g=250, bf=3)
    write_video(tmp_path / "in/b.mp4", squares(1, frames=7))
    write_video(tmp_path / "in/c.mp4", squares(2, frames=2))
    return folder(str(tmp_path / "in"), labels=False)
