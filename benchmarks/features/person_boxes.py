"""videos with boxes -> one clip for each box: the rows of a detection benchmark."""

from typing import Any

import numpy as np
import torch

from ssvid.data.augment import crop_frames, get_recipe
from ssvid.data.clips import Clips
from ssvid.data.decode import read_span, read_timestamps
from ssvid.data.manifest import Manifest
from ssvid.data.sampling import clip_from, need_part
from ssvid.shapes import ClipSpec, Views


class People(Clips):
    """Row i is a box of video `row[i]`, with the clip around it.

    `locations[i]` is the box: its time in seconds, x0, y0, x1, y1. The middle of the clip is at the
    time of the box. The whole frame is squeezed to a square, so that a crop cannot lose a box.
    Boxes of one frame follow each other and share its clip, which is decoded once. The name of this
    class is part of the names of cached features.
    """

    def __init__(self, manifest: Manifest, spec: ClipSpec) -> None:
        views = Views(clips=(need_part(spec, "Clips around the boxes of people"),), augment="whole")
        super().__init__(manifest, views, seed=0, evaluate=1)
        self.row: list[int] = []
        self.locations: list[tuple[float, ...]] = []
        for row in range(len(manifest)):
            for box in sorted(manifest.rows[row].boxes):
                self.row.append(row)
                self.locations.append(tuple(box[:5]))
        # (row, time) and frames of the clip that this process read last.
        self.last: tuple[tuple[int, float], torch.Tensor] | None = None

    def _load(self, epoch: int, index: int) -> dict[str, Any]:
        row, time_s = self.row[index], self.locations[index][0]
        if self.last is None or self.last[0] != (row, time_s):
            self.last = (row, time_s), self._read_clip_around(row, time_s)
        return self._make_sample(self.last[1][None], epoch, index)

    def _read_clip_around(self, row: int, time_s: float) -> torch.Tensor:
        """The clip C T H W of video `row` whose middle is at `time_s`.

        It begins with the video where its middle is too near to the beginning.
        """
        path, fps, spec = self.manifest.path(row), self.manifest.rows[row].fps, self.views.clips[0]
        frame_times_s = read_timestamps(path, fps)
        if spec.fps is not None:
            gap_s = 1 / spec.fps
        else:
            assert spec.stride is not None  # need_part() refuses a clip of the whole video
            gaps_s = np.diff(frame_times_s)
            gap_s = spec.stride * float(np.median(gaps_s)) if len(gaps_s) else 0.0
        start_s = max(0.0, time_s - gap_s * (spec.frames - 1) / 2)
        start_s += read_span(path, fps).start
        frames = self._read_frames(row, clip_from(spec, frame_times_s, start_s), spec.modality)
        return crop_frames(frames, get_recipe("whole"), spec.size, torch.zeros(0))
