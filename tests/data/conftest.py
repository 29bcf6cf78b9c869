"""Fixtures of the data tests: small real files, and the shared material where it is there."""

import os
from pathlib import Path

import pytest
import torch
from bars import write


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def long_gop(tmp_path_factory) -> Path:
    """300 frames at 25 a second, key frames 250 apart, three B frames."""
    return write(
        tmp_path_factory.mktemp("v") / "long.mp4", [i / 25 for i in range(300)], g=250, bf=3, preset="veryfast"
    )


@pytest.fixture(scope="session")
def small_set(tmp_path_factory) -> Path:
    """Six good videos of 40 frames: file i begins with number 100 * i."""
    root = tmp_path_factory.mktemp("set")
    for i in range(6):
        write(root / f"clip_{i}.mp4", [t / 25 for t in range(40)], first=100 * i, g=12)
    return root


@pytest.fixture(scope="session")
def shared() -> Path:
    path = Path(os.environ.get("SSVID_SHARED", Path(__file__).parents[2].parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no material at {path}")
    return path
