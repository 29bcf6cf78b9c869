"""videos -> one clip for each second of each: the rows of `extract --per_second`.

Two ways to the same pixels: `Seconds[i]` at random; `in_order` in one pass through a file that reads each frame once.
"""

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ssvid.data.augment import geometry, recipe
from ssvid.data.clips import Clips
from ssvid.data.decode import NEAR, Table, decoded, needless, read, reason, scanned, stamps, upright
from ssvid.data.manifest import Manifest
from ssvid.data.preprocess.flow import flow_file, read_flow
from ssvid.data.sampling import clip_from, parted
from ssvid.errors import DecodeError, UserError
from ssvid.shapes import ClipSpec, Views

BLOCK = 32  # pictures or flow frames read at once, where no frame needs the one before
EACH = "Clips of each second"
LATE = 64  # frames that may come before one that is due, from a file whose frames are out of order

OneClip = UInt8[Tensor, "C T s s"]


class Seconds(Clips):
    """Row i is second `at[i][0]` of video `row[i]`: the clip that begins there, its last frame repeated at the end."""

    def __init__(self, manifest: Manifest, spec: ClipSpec) -> None:
        views = Views(clips=(parted(spec, EACH),), augment="none")
        super().__init__(manifest, views, seed=0, evaluate=1)
        self.row: list[int] = []
        self.at: list[tuple[int]] = []
        for row in range(len(manifest)):
            try:
                length = seconds_in(stamps(manifest.path(row), manifest.rows[row].fps))
            except DecodeError:
                length = 0
            self.row += [row] * length
            self.at += [(second,) for second in range(length)]

    def _load(self, epoch: int, index: int) -> dict[str, Any]:
        row, spec = self.row[index], self.views.clips[0]
        path, fps = self.manifest.path(row), self.manifest.rows[row].fps
        frames = self._frames(
            row, clip_from(spec, stamps(path, fps), float(self.at[index][0])), spec.modality
        )
        return self._sample(
            geometry(frames, recipe("none"), spec.size, torch.zeros(0))[None], epoch, index
        )


def seconds_in(times: np.ndarray) -> int:
    """Of a video with frames at these times: a begun second counts."""
    return max(1, math.ceil(float(times[-1] - times[0]))) if len(times) else 0


def in_order(manifest: Manifest, row: int, spec: ClipSpec) -> Iterator[OneClip]:
    """The clip of each second of a video, as of `Seconds`. In memory: the frames of about one clip, already cut."""
    path, fps = manifest.path(row), manifest.rows[row].fps
    times = stamps(path, fps)
    if not len(times):
        raise DecodeError(path, "no frames in it")
    starts = (clip_from(spec, times, float(second)) for second in range(seconds_in(times)))
    wanted = np.stack([np.searchsorted(times, at + NEAR, side="right") - 1 for at in starts]).clip(
        min=0
    )  # T frames
    needed = np.unique(wanted)
    if spec.modality == "flow":
        flow = flow_file(manifest, row)
        pictures = _blocks(needed, lambda some: read_flow(path, flow, times[some], fps))
    elif os.path.isdir(path):
        pictures = _blocks(needed, lambda some: read(path, times[some], fps))
    else:
        pictures = _decoded(path, scanned(path), needed)
    yield from _dealt(path, pictures, wanted, times, spec.size)


def _dealt(
    path: Path,
    pictures: Iterable[tuple[int, Tensor]],
    wanted: np.ndarray,
    times: np.ndarray,
    size: int,
) -> Iterator[OneClip]:
    """Frames in order -> clips in order. A frame is cut when it comes and let go after the last clip that has it."""
    held: dict[int, Tensor] = {}  # frame -> C 1 s s
    second, shape = 0, None
    for number, picture in pictures:
        if picture.shape != (shape := shape or picture.shape):
            raise DecodeError(path, "the picture changes its size on the way", float(times[number]))
        if number < wanted[second].min() or number in held:
            continue  # again, after the pass that jumped over frames failed
        held[number] = geometry(picture, recipe("none"), size, torch.zeros(0))
        while second < len(wanted) and held.keys() >= set(wanted[second].tolist()):
            yield torch.cat([held[i] for i in wanted[second].tolist()], dim=1)
            second += 1
            least = wanted[second].min() if second < len(wanted) else math.inf
            held = {i: frame for i, frame in held.items() if i >= least}
        if second == len(wanted):
            return
        if len(held) > wanted.shape[1] + LATE:
            break
    missing = min(set(wanted[second].tolist()) - held.keys())
    raise DecodeError(path, "the decoder passes over this frame", float(times[missing]))


def _blocks(needed: np.ndarray, get: Any) -> Iterator[tuple[int, Tensor]]:
    for first in range(0, len(needed), BLOCK):
        some = needed[first : first + BLOCK]
        yield from zip(some.tolist(), get(some).split(1), strict=True)


def _decoded(path: Path, table: Table, needed: np.ndarray) -> Iterator[tuple[int, Tensor]]:
    """One pass from the start, past what no wanted frame is built from; where that fails, once more through all."""
    ticks = table.pts[needed]
    number_of = dict(zip(ticks.tolist(), needed.tolist(), strict=True))
    fault: Exception | None = None
    for passed in dict.fromkeys([needless(table, ticks), frozenset[int]()]):
        left = set(number_of)
        fault = None
        try:
            for tick, frame in decoded(path, table, passed):
                if tick in number_of and not frame.is_corrupt:
                    left.discard(tick)
                    picture = torch.from_numpy(np.ascontiguousarray(upright(frame)))  # H W C
                    yield number_of[tick], picture.permute(2, 0, 1)[None]
        except (av.FFmpegError, OSError, ValueError) as error:
            fault = error
        if not left:
            return
    if fault is not None:
        raise DecodeError(path, reason(fault), float(table.times[number_of[min(left)]])) from fault


class Block(NamedTuple):
    """Clips of consecutive seconds of one video."""

    row: int
    clips: Tensor | None  # B C T s s; None: there is a fault
    last: bool = True  # of its video
    fault: DecodeError | UserError | None = (
        None  # a value: raised in a worker it would be a traceback in a string
    )


class Passes(IterableDataset[Any]):
    """The seconds of these videos in blocks; each worker goes through videos of its own, one after the other."""

    def __init__(self, manifest: Manifest, spec: ClipSpec, rows: list[int], block: int) -> None:
        self.manifest, self.spec, self.rows, self.block = manifest, spec, rows, block

    def __iter__(self) -> Iterator[Block]:
        worker = get_worker_info()
        own = self.rows if worker is None else self.rows[worker.id :: worker.num_workers]
        for row in own:
            try:
                yield from self._video(row)
            except (DecodeError, UserError) as error:
                yield Block(row, None, fault=error)

    def _video(self, row: int) -> Iterator[Block]:
        """Blocks begin at the same seconds whoever reads them, so that features are the same after a restart."""
        clips: list[Tensor] = []
        for clip in in_order(self.manifest, row, self.spec):
            if len(clips) == self.block:
                yield Block(row, torch.stack(clips), last=False)
                clips = []
            clips.append(clip)
        yield Block(row, torch.stack(clips))
