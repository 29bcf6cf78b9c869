"""videos -> overlapping windows, each cut out of the frame in one or in ten ways.

These are the rows of CoCLR's tests. Only this file knows where the windows and cuts lie; they lie
where the published code has them.
"""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from ssvid.data.clips import Clips
from ssvid.data.decode import read_timestamps
from ssvid.data.manifest import Manifest
from ssvid.data.sampling import need_part
from ssvid.errors import DecodeError
from ssvid.shapes import ClipSpec, Views

SIDE = 224 / 240  # of the short side: the published crop of frames that are 240 pixels high
# Centre and corners, as fractions (y, x) of the margin that the crop leaves.
CROP_POSITIONS = ((0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
CUTS = 2 * len(CROP_POSITIONS)  # the first five as they are, then the same mirrored


class Windows(Clips):
    """Row i is the window `locations[i]` (its first frame, its cut of CUTS) of video `row[i]`.

    Cut 0 is the centre. Rows of one window follow each other and share its frames, which are
    decoded once. The name of this class is part of the names of cached features.
    """

    def __init__(self, manifest: Manifest, spec: ClipSpec, ten: Collection[str] = ()) -> None:
        """`ten`: the splits whose windows are cut in all ten ways. The others get the centre."""
        views = Views(clips=(need_part(spec, "The windows of a video"),), augment="none")
        super().__init__(manifest, views, seed=0, evaluate=1)
        self.row: list[int] = []
        self.locations: list[tuple[int, int]] = []
        # (row, start) and frames of the window that this process read last.
        self.last: tuple[tuple[int, int], Tensor] | None = None
        for row in range(len(manifest)):
            try:
                times = list_frame_times(
                    spec, read_timestamps(manifest.path(row), manifest.rows[row].fps)
                )
                total = len(times)
            except DecodeError:
                total = 0
            cuts = CUTS if manifest.rows[row].split in ten else 1
            for start in list_window_starts(spec, total):
                for cut in range(cuts):
                    self.row.append(row)
                    self.locations.append((start, cut))

    def _load(self, epoch: int, index: int) -> dict[str, Any]:
        (start, cut), row = self.locations[index], self.row[index]
        if self.last is None or self.last[0] != (row, start):
            self.last = (row, start), self._window(row, start)
        clip = cut_square(self.last[1], self.views.clips[0].size, cut)
        return self._make_sample(clip[None], epoch, index)

    def _window(self, row: int, start: int) -> Tensor:
        spec = self.views.clips[0]
        times = list_frame_times(
            spec, read_timestamps(self.manifest.path(row), self.manifest.rows[row].fps)
        )
        frames = index_window_frames(spec, len(times), start)
        return self._read_frames(row, times[frames], spec.modality)


def list_frame_times(spec: ClipSpec, stamps: np.ndarray) -> np.ndarray:
    """The times of which a window takes every `stride`-th: the file's frames, or 1 / fps apart."""
    if spec.fps is None or not len(stamps):
        return stamps
    return stamps[0] + np.arange(int((stamps[-1] - stamps[0]) * spec.fps + 1e-6) + 1) / spec.fps


def list_window_starts(spec: ClipSpec, total: int) -> Iterator[int]:
    """First frames of the windows of a video of `total` frames. A short video has one window."""
    span = spec.frames * (spec.stride or 1)
    stop = max(0, total - span) + 1 if total else 0
    yield from range(0, stop, max(1, span // 2 - 1))  # windows overlap by half and one frame


def index_window_frames(spec: ClipSpec, total: int, start: int) -> np.ndarray:
    """The frames of a window. In a short video the first frame is repeated before the others."""
    index = start + np.arange(spec.frames) * (spec.stride or 1)
    existing = index[index < total]
    return np.concatenate([np.zeros(spec.frames - len(existing), np.int64), existing])


def cut_square(frames: UInt8[Tensor, "T C H W"], size: int, cut: int) -> UInt8[Tensor, "C T s s"]:
    """Square number `cut` of the ten, resized to `size` pixels.

    Flow is mirrored as a picture is: its sign stays, as published.
    """
    # Their import takes CPU-seconds.
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    mirrored, position = divmod(cut, len(CROP_POSITIONS))
    height, width = frames.shape[-2:]
    side = max(1, round(min(height, width) * SIDE))
    y, x = CROP_POSITIONS[position]
    top, left = round(y * (height - side)), round(x * (width - side))
    shape = [size, size]
    clip = F.resized_crop(
        frames, top, left, side, side, shape, InterpolationMode.BICUBIC, antialias=True
    )
    return (clip.flip(-1) if mirrored else clip).transpose(0, 1).contiguous()
