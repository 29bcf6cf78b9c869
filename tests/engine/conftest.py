"""Fixtures of the engine's tests: long videos."""

from pathlib import Path

import pytest

from tests.helpers import squares, write_video


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes; minutes of a square that moves: 1300 frames, ten a second."""
    root, lines = tmp_path_factory.mktemp("long"), ["path,label,split"]
    for seed, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        label = "left" if seed % 2 else "right"
        frames = squares(seed, frames=1300)
        write_video(root / f"{seed}.mp4", frames[::-1] if seed % 2 else frames)
        lines.append(f"{seed}.mp4,{label},{split}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root
