"""videos -> their overlapping windows, each cut out of the picture in one or in ten ways: the rows of CoCLR's tests.

The only file that knows where these windows and cuts lie, which is where the published code has them.
"""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from ssvid.data.clips import Clips
from ssvid.data.decode import stamps
from ssvid.data.manifest import Manifest
from ssvid.data.sampling import need_part
from ssvid.errors import DecodeError
from ssvid.shapes import ClipSpec, Views

SIDE = 224 / 240  # of the short side: the published crop of frames that are 240 high
PLACES = (
    (0.5, 0.5),
    (0.0, 0.0),
    (0.0, 1.0),
    (1.0, 0.0),
    (1.0, 1.0),
)  # of the room left, y and x: centre, corners
CUTS = 2 * len(PLACES)  # the first five as they are, then mirrored


class Windows(Clips):
    """Row i is window `at[i]` (its first frame, its cut of CUTS) of video `row[i]`; cut 0 is the centre.

    Rows of one window follow each other and share its frames, which are decoded once.
    """

    def __init__(self, manifest: Manifest, spec: ClipSpec, ten: Collection[str] = ()) -> None:
        """`ten`: splits whose windows are cut in all ten ways; of the others the centre is taken."""
        views = Views(clips=(need_part(spec, "The windows of a video"),), augment="none")
        super().__init__(manifest, views, seed=0, evaluate=1)
        self.row: list[int] = []
        self.locations: list[tuple[int, int]] = []
        self.last: tuple[tuple[int, int], Tensor] | None = None  # of this process
        for row in range(len(manifest)):
            try:
                total = len(paced(spec, stamps(manifest.path(row), manifest.rows[row].fps)))
            except DecodeError:
                total = 0
            cuts = CUTS if manifest.rows[row].split in ten else 1
            found = [(start, cut) for start in starts(spec, total) for cut in range(cuts)]
            self.row += [row] * len(found)
            self.locations += found

    def _load(self, epoch: int, index: int) -> dict[str, Any]:
        (start, which), row = self.locations[index], self.row[index]
        if self.last is None or self.last[0] != (row, start):
            self.last = (row, start), self._window(row, start)
        return self._sample(cut(self.last[1], self.views.clips[0].size, which)[None], epoch, index)

    def _window(self, row: int, start: int) -> Tensor:
        spec = self.views.clips[0]
        times = paced(spec, stamps(self.manifest.path(row), self.manifest.rows[row].fps))
        return self._frames(row, times[window(spec, len(times), start)], spec.modality)


def paced(spec: ClipSpec, stamps: np.ndarray) -> np.ndarray:
    """Times of which a clip takes every `stride`-th: of the file's own frames, or 1 / fps apart."""
    if spec.fps is None or not len(stamps):
        return stamps
    return stamps[0] + np.arange(int((stamps[-1] - stamps[0]) * spec.fps + 1e-6) + 1) / spec.fps


def starts(spec: ClipSpec, total: int) -> Iterator[int]:
    """First frames of the windows of a video of `total`; of a short one there is a single window."""
    span = spec.frames * (spec.stride or 1)
    yield from range(
        0, max(0, total - span) + 1 if total else 0, max(1, span // 2 - 1)
    )  # overlap: half and one frame


def window(spec: ClipSpec, total: int, start: int) -> np.ndarray:
    """Its frames. Of a short video the first is repeated before the others."""
    index = start + np.arange(spec.frames) * (spec.stride or 1)
    there = index[index < total]
    return np.concatenate([np.zeros(spec.frames - len(there), np.int64), there])


def cut(frames: UInt8[Tensor, "T C H W"], size: int, which: int) -> UInt8[Tensor, "C T s s"]:
    """One of the ten squares. Flow is mirrored as a picture is: its sign stays, as published."""
    mirrored, place = divmod(which, len(PLACES))
    height, width = frames.shape[-2:]
    side = max(1, round(min(height, width) * SIDE))
    top, left = (
        round(share * (room - side))
        for share, room in zip(PLACES[place], (height, width), strict=True)
    )
    shape = [size, size]
    clip = F.resized_crop(
        frames, top, left, side, side, shape, InterpolationMode.BICUBIC, antialias=True
    )
    return (clip.flip(-1) if mirrored else clip).transpose(0, 1).contiguous()
