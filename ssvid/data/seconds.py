"""videos -> one clip for each second of each: the rows of `extract --per_second`."""

import math
from typing import Any

import torch

from ssvid.data.augment import geometry, recipe
from ssvid.data.clips import Clips
from ssvid.data.decode import stamps
from ssvid.data.manifest import Manifest
from ssvid.data.sampling import clip_from
from ssvid.errors import DecodeError
from ssvid.shapes import ClipSpec, Views


class Seconds(Clips):
    """Row i is second `at[i][0]` of video `row[i]`: the clip that begins there, its last frame repeated at the end."""

    def __init__(self, manifest: Manifest, spec: ClipSpec) -> None:
        super().__init__(manifest, Views(clips=(spec,), augment="none"), seed=0, evaluate=1)
        self.row: list[int] = []
        self.at: list[tuple[int]] = []
        for row in range(len(manifest)):
            try:
                times = stamps(manifest.path(row), manifest.rows[row].fps)
                length = max(1, math.ceil(float(times[-1] - times[0]))) if len(times) else 0
            except DecodeError:
                length = 0
            self.row += [row] * length
            self.at += [(second,) for second in range(length)]

    def _load(self, epoch: int, index: int) -> dict[str, Any]:
        row, spec = self.row[index], self.views.clips[0]
        path, fps = self.manifest.path(row), self.manifest.rows[row].fps
        frames = self._frames(row, clip_from(spec, stamps(path, fps), float(self.at[index][0])), spec.modality)
        return self._sample(geometry(frames, recipe("none"), spec.size, torch.zeros(0))[None], epoch, index)
