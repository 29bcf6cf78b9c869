"""videos with captions -> the clips of each caption's segment; clips of named classes. Units of the tasks on text.

The only file that knows where MIL-NCE's windows of a segment lie.
"""

from typing import Any

import numpy as np
import torch

from ssvid.data.augment import geometry, recipe
from ssvid.data.clips import Clips
from ssvid.data.decode import stamps
from ssvid.data.manifest import Manifest
from ssvid.data.narration.samples import seconds_of
from ssvid.data.sampling import clip_from, need_part
from ssvid.engine.features import evaluation
from ssvid.errors import DecodeError
from ssvid.shapes import ClipSpec, Views

SLACK_S = 0.4  # that the last window ends before its segment does, as published


class Captions(Clips):
    """Row i is caption `at[i]` (its number in the row, its start and end in seconds) of test video `row[i]`: so many
    windows of its segment, the first where it begins and the last SLACK_S before it ends, evenly between.

    A segment that is too short has all its windows where it begins. Past the video's end the last frame is repeated
    (the published code has black frames there).
    """

    def __init__(self, manifest: Manifest, spec: ClipSpec, windows: int) -> None:
        views = Views(clips=(need_part(spec, "The windows of a caption"),), augment="none")
        super().__init__(manifest, views, seed=0, evaluate=windows)
        self.row: list[int] = []
        self.locations: list[tuple[float, float, float]] = []
        for row, video in enumerate(manifest.rows):
            said = video.sentences if video.split == "test" else ()
            found = [
                (float(n), start, end) for n, (start, end, text) in enumerate(said) if text.strip()
            ]
            self.row += [row] * len(found)
            self.locations += found

    def _load(self, epoch: int, index: int) -> dict[str, Any]:
        (_, start, end), row, spec = self.locations[index], self.row[index], self.views.clips[0]
        path = self.manifest.path(row)
        table = stamps(path, self.manifest.rows[row].fps)
        if not len(table) or start > table[-1] - table[0]:
            raise DecodeError(
                path, f"its caption at {start:g} s begins when the video has ended", start
            )
        last = max(start, end - seconds_of(spec, table) - SLACK_S)
        begins = np.linspace(start, last, self.evaluate)
        times = np.concatenate([clip_from(spec, table, float(begin)) for begin in begins])
        frames = geometry(
            self._frames(row, times, spec.modality), recipe("none"), spec.size, torch.zeros(0)
        )
        clips = frames.unflatten(1, (self.evaluate, spec.frames)).transpose(0, 1)  # V C T s s
        return self._sample(clips.contiguous(), epoch, index)


class Tested(Clips):
    """Row i is video `row[i]` of the test split: where nothing is trained, no other need be read."""

    def __init__(self, manifest: Manifest, spec: ClipSpec, clips: int, crops: int) -> None:
        super().__init__(
            manifest, Views(clips=(spec,), augment="none"), seed=0, evaluate=clips, crops=crops
        )
        self.whole = evaluation(manifest, spec, clips, "pad", crops)
        self.row = [row for row, video in enumerate(manifest.rows) if video.split == "test"]
        self.locations = [()] * len(self.row)

    def _load(self, epoch: int, index: int) -> dict[str, Any]:
        return {**self.whole._load(epoch, self.row[index]), "index": index}
