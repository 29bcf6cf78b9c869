"""Features on disk are read when they are asked for, and not all stay in memory."""

from pathlib import Path

import pytest
import torch

from ssvid.data.datasets.folder import folder
from ssvid.engine import features
from ssvid.engine.features import Source, evaluation, extract_from
from ssvid.errors import UserError
from ssvid.shapes import ClipSpec
from tests.helpers import facts, squares, write_video


def describe_colour(clip: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"colour": clip.float().mean((2, 3, 4))}


@pytest.mark.parametrize("limit, stay", [(1 << 30, {"a", "b", "c"}), (0, {"c"})])
def test_of_large_tables_the_newest_stay_in_memory(
    limit: int, stay: set[str], tmp_path: Path, monkeypatch
):
    videos = tmp_path / "videos"
    for seed in range(2):
        write_video(videos / f"{seed}.mp4", squares(seed))
    monkeypatch.setattr(features, "BYTES_IN_MEMORY", limit)
    monkeypatch.setattr(features, "NEWEST", 1)
    sources = [Source(name, name, describe_colour) for name in "abc"]
    clips = evaluation(folder(str(videos)), ClipSpec(frames=4, stride=1, size=16), 1, "pad")
    stored = extract_from(clips, sources, tmp_path, 8, 0, "cpu", label="colours").features
    before = {name: stored[name]["colour"].clone() for name in stored}
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    for name in reversed(list(stored)):
        if name in stay:
            assert torch.equal(stored[name]["colour"], before[name])
        else:
            with pytest.raises(UserError, match=facts("safetensors")):
                stored[name]
