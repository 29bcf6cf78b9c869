"""videos with captions -> the clips of each caption's segment; test videos -> their clips.

These are the units of the tasks that use text. Only this file knows where the windows of a
segment lie in the evaluation of MIL-NCE.
"""

from typing import Any

import numpy as np
import torch

from ssvid.data.augment import crop_frames, get_recipe
from ssvid.data.clips import Clips
from ssvid.data.decode import read_span, read_timestamps
from ssvid.data.manifest import Manifest
from ssvid.data.narration.samples import seconds_of
from ssvid.data.sampling import clip_from
from ssvid.engine.features import evaluation
from ssvid.errors import DecodeError
from ssvid.shapes import ClipSpec, Views

SLACK_S = 0.4  # by which the last window ends before its segment does, as published


class Captions(Clips):
    """Row i is caption `at[i]` (its number in the row, start s, end s) of test video `row[i]`.

    It holds `windows` clips of the caption's segment: the first starts where the segment starts,
    the last ends SLACK_S before the segment ends, and the others lie evenly between. A segment
    that is too short has all its windows at its start. A clip over a whole video is spread over the
    segment instead. Past the end of the video the last frame
    is repeated (the published code has black frames there). The name of this class is part of the
    names of cached features.
    """

    def __init__(self, manifest: Manifest, spec: ClipSpec, windows: int) -> None:
        views = Views(clips=(spec,), augment="none")
        super().__init__(manifest, views, seed=0, evaluate=windows)
        self.row: list[int] = []
        self.locations: list[tuple[float, float, float]] = []
        for row, video in enumerate(manifest.rows):
            sentences = video.sentences if video.split == "test" else ()
            for number, (start, end, text) in enumerate(sentences):
                if text.strip():
                    self.row.append(row)
                    self.locations.append((float(number), start, end))

    def _load(self, epoch: int, index: int) -> dict[str, Any]:
        (_, start, end), row, spec = self.locations[index], self.row[index], self.views.clips[0]
        path = self.manifest.path(row)
        fps = self.manifest.rows[row].fps
        table, span = read_timestamps(path, fps), read_span(path, fps)
        if span.start + start >= span.end:
            raise DecodeError(
                path, f"its caption at {start:g} s begins after the end of the video", start
            )
        times = self.choose_times(table, span.start, start, end)
        frames = crop_frames(
            self._read_frames(row, times, spec.modality),
            get_recipe("none"),
            spec.size,
            torch.zeros(0),
        )
        clips = frames.unflatten(1, (self.evaluate, spec.frames)).transpose(0, 1)  # V C T s s
        return self._make_sample(clips.contiguous(), epoch, index)

    def choose_times(
        self, table: np.ndarray, origin: float, start: float, end: float
    ) -> np.ndarray:
        """The times of the frames of all windows of a segment.

        `table`: of the video's frames. `origin`: the time at which the video begins.
        """
        spec, n = self.views.clips[0], self.evaluate
        if spec.whole:  # each window is spread over the whole segment, and they interleave
            parts = np.arange(spec.frames) + (np.arange(n)[:, None] + 0.5) / n
            times = origin + start + parts * (end - start) / spec.frames
            return times.ravel().clip(max=table[-1])
        last_start = max(start, end - seconds_of(spec, table) - SLACK_S)
        starts = np.linspace(start, last_start, n)
        return np.concatenate([clip_from(spec, table, second) for second in origin + starts])


class Tested(Clips):
    """Row i is video `row[i]` of the test split. Nothing is trained, so no other split is read.

    The name of this class is part of the names of cached features.
    """

    def __init__(self, manifest: Manifest, spec: ClipSpec, clips: int, crops: int) -> None:
        views = Views(clips=(spec,), augment="none")
        super().__init__(manifest, views, seed=0, evaluate=clips, crops=crops)
        self.whole = evaluation(manifest, spec, clips, "pad", crops)
        self.row = [row for row, video in enumerate(manifest.rows) if video.split == "test"]
        self.locations = [()] * len(self.row)

    def _load(self, epoch: int, index: int) -> dict[str, Any]:
        return {**self.whole._load(epoch, self.row[index]), "index": index}
