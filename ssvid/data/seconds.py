"""videos -> one clip for each of their seconds, which are the rows of `extract --per_second`.

There are two ways to the same pixels: `Seconds[i]` reads one clip at random, and `in_order` goes
once through a file and reads each frame once. `clips_from` does the same for clips that begin at
other times.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ssvid.data.augment import crop_frames, get_recipe
from ssvid.data.clips import Clips
from ssvid.data.decode import (
    Span,
    decode_frames,
    find_unneeded_ticks,
    read,
    read_span,
    read_timestamps,
)
from ssvid.data.manifest import Manifest
from ssvid.data.pictures import is_still
from ssvid.data.preprocess.flow import flow_file, read_flow
from ssvid.data.sampling import clip_from, need_part
from ssvid.data.scan import NEAR, Table, scan_file
from ssvid.errors import DecodeError, UserError
from ssvid.shapes import ClipSpec, Views

BLOCK = 32  # pictures or flow frames read at once, where no frame needs an earlier one
EACH = "Clips of each second"
# Frames that may come before one that is due, from a file whose frames are out of order.
LATE = 64
USUAL_S = 0.25  # the longest that a usual frame is taken to last
ROUNDING_S = 1e-6

OneClip = UInt8[Tensor, "C T s s"]


class Seconds(Clips):
    """Sample i is the clip that begins at second `locations[i][0]` of the video `row[i]`.

    Past the end of the video its last frame is repeated.
    """

    def __init__(self, manifest: Manifest, spec: ClipSpec) -> None:
        views = Views(clips=(need_part(spec, EACH),), augment="none")
        super().__init__(manifest, views, seed=0, evaluate=1)
        self.row: list[int] = []
        self.locations: list[tuple[int]] = []
        for row in range(len(manifest)):
            try:
                length = seconds_in(read_span(manifest.path(row), manifest.rows[row].fps))
            except DecodeError:
                length = 0
            self.row += [row] * length
            self.locations += [(second,) for second in range(length)]

    def _load(self, epoch: int, index: int) -> dict[str, Any]:
        row, spec = self.row[index], self.views.clips[0]
        path, fps = self.manifest.path(row), self.manifest.rows[row].fps
        begin = read_span(path, fps).start + self.locations[index][0]
        times = clip_from(spec, read_timestamps(path, fps), begin)
        frames = self._read_frames(row, times, spec.modality)
        return self._make_sample(_crop(frames, spec.size)[None], epoch, index)


def _crop(frames: Tensor, size: int) -> Tensor:
    """The centre square of frames `T C H W`, resized: `C T s s`."""
    return crop_frames(frames, get_recipe("none"), size, torch.zeros(0))


def seconds_in(span: Span) -> int:
    """The seconds of a video from its start to its end. A second that has begun counts.

    One in which a single frame is shown, for a usual time, does not: a video of 251 frames, 25 a
    second, has 10 seconds.
    """
    last = min(span.frame, USUAL_S)
    return max(1, math.ceil(span.end - span.start - last - ROUNDING_S))


def in_order(manifest: Manifest, row: int, spec: ClipSpec, shift: float = 0.0) -> Iterator[OneClip]:
    """The clip of each second of a video, `C T s s`, with the same pixels as in `Seconds`.

    `shift`: seconds from the begin of each second to the begin of its clip; it may be negative.
    Otherwise as `clips_from`.
    """
    span = read_span(manifest.path(row), manifest.rows[row].fps)
    yield from clips_from(manifest, row, spec, span.start + np.arange(seconds_in(span)) + shift)


def clips_from(
    manifest: Manifest, row: int, spec: ClipSpec, begins: np.ndarray
) -> Iterator[OneClip]:
    """The clips of a video that begin at these times of the frames' clock, which rise.

    Only the frames of about one clip are in memory, already cropped. Raises a DecodeError for a
    damaged file.
    """
    path, fps = manifest.path(row), manifest.rows[row].fps
    times = read_timestamps(path, fps)
    shown = []
    for begin in begins.tolist():
        clip_s = clip_from(spec, times, begin)
        shown.append(np.searchsorted(times, clip_s + NEAR, side="right") - 1)
    frames_of_clip = np.stack(shown).clip(min=0)  # clips x T
    needed = np.unique(frames_of_clip)
    if spec.modality == "flow":
        flow = flow_file(manifest, row)
        pictures = _blocks(needed, lambda block: read_flow(path, flow, times[block], fps))
    elif os.path.isdir(path) or is_still(path):
        pictures = _blocks(needed, lambda block: read(path, times[block], fps))
    else:
        pictures = _decode_needed(path, scan_file(path), needed)
    yield from _make_clips(path, pictures, frames_of_clip, times, spec.size)


def _make_clips(
    path: Path,
    pictures: Iterable[tuple[int, Tensor]],
    frames_of_clip: np.ndarray,
    times: np.ndarray,
    size: int,
) -> Iterator[OneClip]:
    """Frames in order -> clips in order.

    A frame is cropped when it comes, and dropped after the last clip that holds it.
    """
    crops: dict[int, Tensor] = {}  # frame -> C 1 s s
    second, shape = 0, None
    most_held = count_overlapping(frames_of_clip) + LATE
    for number, picture in pictures:
        if picture.shape != (shape := shape or picture.shape):
            why = "the picture changes its size within the file"
            raise DecodeError(path, why, float(times[number]))
        if number < frames_of_clip[second].min() or number in crops:
            continue  # it comes again, after the pass that skipped frames failed
        crops[number] = _crop(picture, size)
        while second < len(frames_of_clip) and crops.keys() >= set(frames_of_clip[second].tolist()):
            yield torch.cat([crops[i] for i in frames_of_clip[second].tolist()], dim=1)
            second += 1
            least = frames_of_clip[second].min() if second < len(frames_of_clip) else math.inf
            crops = {i: crop for i, crop in crops.items() if i >= least}
        if second == len(frames_of_clip):
            return
        if len(crops) > most_held:
            break
    missing = min(set(frames_of_clip[second].tolist()) - crops.keys())
    raise DecodeError(path, "the decoder gives no such frame", float(times[missing]))


def count_overlapping(frames_of_clip: np.ndarray) -> int:
    """The most frames, of any clip, that lie between the first and the last of one clip."""
    needed = np.unique(frames_of_clip)
    first = np.searchsorted(needed, frames_of_clip.min(1))
    last = np.searchsorted(needed, frames_of_clip.max(1))
    return int((last - first).max()) + 1


def _blocks(
    needed: np.ndarray, read_block: Callable[[np.ndarray], Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Number and picture `1 C H W` of each needed frame, read in blocks."""
    for first in range(0, len(needed), BLOCK):
        block = needed[first : first + BLOCK]
        yield from zip(block.tolist(), read_block(block).split(1), strict=True)


def _decode_needed(path: Path, table: Table, needed: np.ndarray) -> Iterator[tuple[int, Tensor]]:
    """Number and picture `1 C H W` of each needed frame, in one pass from the start of the file.

    The pass skips frames from which no needed frame is predicted. Where it fails, a second pass
    decodes everything.
    """
    ticks = table.pts[needed]
    number_of = dict(zip(ticks.tolist(), needed.tolist(), strict=True))
    fault: DecodeError | None = None
    for skipped in dict.fromkeys([find_unneeded_ticks(table, ticks), frozenset[int]()]):
        missing = set(number_of)
        fault = None
        try:
            for tick, decoded in decode_frames(path, table, skipped):
                # Of two frames at one time the first is taken, as in `read`.
                if tick in missing:
                    missing.discard(tick)
                    shown = np.ascontiguousarray(decoded.show())  # H W C
                    picture = torch.from_numpy(shown)
                    yield number_of[tick], picture.permute(2, 0, 1)[None]
        except DecodeError as error:
            fault = error
        if not missing:
            return
    if fault is not None:
        time = float(table.times[number_of[min(missing)]])
        raise DecodeError(path, fault.why, time) from fault


class Block(NamedTuple):
    """Clips of consecutive seconds of one video."""

    row: int
    clips: Tensor | None  # B C T s s; None: there is a fault
    last: bool = True  # whether it is the last block of its video
    # The fault is a value, because an error raised in a worker would arrive as a traceback in a
    # string.
    fault: DecodeError | UserError | None = None


class Passes(IterableDataset[Any]):
    """The seconds of some videos in blocks. Each worker goes through its share of the videos."""

    def __init__(self, manifest: Manifest, spec: ClipSpec, rows: list[int], block: int) -> None:
        self.manifest, self.spec, self.rows, self.block = manifest, spec, rows, block

    def __iter__(self) -> Iterator[Block]:
        worker = get_worker_info()
        rows = self.rows if worker is None else self.rows[worker.id :: worker.num_workers]
        for row in rows:
            try:
                yield from self._video(row)
            except (DecodeError, UserError) as error:
                yield Block(row, None, fault=error)

    def _video(self, row: int) -> Iterator[Block]:
        """Blocks begin at fixed seconds of the video, so a restart gives the same features."""
        clips: list[Tensor] = []
        for clip in in_order(self.manifest, row, self.spec):
            if len(clips) == self.block:
                yield Block(row, torch.stack(clips), last=False)
                clips = []
            clips.append(clip)
        yield Block(row, torch.stack(clips))
