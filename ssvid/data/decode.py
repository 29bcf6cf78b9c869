"""path, times in seconds -> uint8 frames.

`pictures.py` reads the pictures of a folder, and a single picture, which is a video of one frame. A
time selects the frame that is shown at that time, so files of variable frame rate are read
correctly. Damage raises an error and gives no wrong picture, as far as a file tells of it
(ssvid/data/decoder.py).
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from ssvid.data.container import check_file, check_side, open_video
from ssvid.data.decoder import decode_stream, open_decoder
from ssvid.data.pictures import STILL_S, is_still, list_pictures, read_pictures, read_still
from ssvid.data.scan import NEAR, Table, scan_file
from ssvid.data.shown import Picture, find_sides
from ssvid.errors import DecodeError, UserError, describe_error

Frames = UInt8[Tensor, "T C H W"]
DECODERS = "pyav", "torchcodec"


class Span(NamedTuple):
    """Where a file begins and where its last frame is over: seconds on the clock of its frames."""

    start: float
    end: float
    frame: float  # how long a usual frame is shown


def read_timestamps(path: str | Path, fps: float | None = None) -> np.ndarray:
    """Sorted presentation times of the frames, float64 seconds (T).

    `fps` is needed for a folder of pictures, which does not state its own rate: without it a
    UserError is raised. A file that cannot be opened raises a DecodeError.
    """
    if os.path.isdir(path):
        if not fps:
            raise UserError(
                f"{path} is a folder of frames: give their frame rate, for example --data.fps 25."
            )
        return np.arange(len(list_pictures(path))) / fps
    if is_still(path):
        check_file(path)
        return np.zeros(1)
    return scan_file(path).times


def read_span(path: str | Path, fps: float | None = None) -> Span:
    """The start and the end of a file, which second 0 and the length of the video count from.

    A file begins with its sound where that begins before the pictures, and its last frame lasts as
    long as the file says. Raises as `read_timestamps` does, and a DecodeError without frames.
    """
    times = read_timestamps(path, fps)
    if not len(times):
        raise DecodeError(path, "no frames in it")
    if os.path.isdir(path):
        return Span(0.0, len(times) / (fps or 1.0), 1 / (fps or 1.0))
    if is_still(path):
        return Span(0.0, STILL_S, STILL_S)
    table = scan_file(path)
    frame = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return Span(table.start, table.end, frame)


stamps = read_timestamps  # its name in earlier versions


def read(
    path: str | Path,
    times: Sequence[float] | np.ndarray,
    fps: float | None = None,
    decoder: str = "pyav",
) -> Frames:
    """The frame shown at each time (seconds), uint8 `T C H W`.

    Times may be in any order and may repeat. A time before the first frame selects the first
    frame. Raises a DecodeError for a damaged file.
    """
    table = read_timestamps(path, fps)
    if len(table) == 0:
        raise DecodeError(path, "no frames in it")
    shown = np.searchsorted(table, np.asarray(times, np.float64) + NEAR, side="right") - 1
    needed, back = np.unique(shown.clip(min=0), return_inverse=True)
    if os.path.isdir(path):
        frames = _stack(path, read_pictures(path, needed))
    elif is_still(path):
        frames = _stack(path, [read_still(path)])
    elif decoder not in DECODERS:
        raise _unknown_decoder(decoder)
    elif decoder == "pyav" or _needs_pyav(scan_file(path)):
        frames = _read_pyav(path, scan_file(path), needed)
    else:
        frames = _read_torchcodec(path, scan_file(path), needed)
    if len(back) == len(needed) and (back == np.arange(len(back))).all():
        return frames  # the usual case, without a copy
    return frames[torch.from_numpy(back)]


def need_decoder(decoder: str) -> None:
    """Raise a UserError for a decoder that does not exist or cannot be imported."""
    if decoder not in DECODERS:
        raise _unknown_decoder(decoder)
    if decoder == "torchcodec":
        _import_torchcodec()


def _unknown_decoder(decoder: str) -> UserError:
    return UserError(f"There is no --decoder {decoder!r}: take {' or '.join(DECODERS)}.")


def _read_pyav(path: str | Path, table: Table, needed: np.ndarray) -> Frames:
    """Decode from the key frame before the first needed frame, without unneeded packets.

    Where that does not give every frame, the file is decoded from the start, all of it.
    """
    ticks = table.pts[needed]
    before = table.keys[table.keys <= ticks[0]]
    can_seek = len(before) > 0 and before[-1] > table.pts[0] and not table.from_start
    start = int(before[-1]) if can_seek else None
    attempts: list[tuple[int | None, Table]] = [(None, table._replace(ordered=False))]
    if start is not None or find_unneeded_ticks(table, ticks):
        attempts.insert(0, (start, table))
    for begin, scan in attempts:
        pictures: dict[int, np.ndarray] = {}
        why = "the decoder gives no such frame"
        try:
            _decode(path, scan, ticks, begin, pictures)
        except DecodeError as error:
            why = error.why
        if len(pictures) == len(ticks):
            return _stack(path, [pictures[tick] for tick in ticks.tolist()])
    missing = min(set(ticks.tolist()) - pictures.keys())
    raise DecodeError(path, why, float(table.times[np.searchsorted(table.pts, missing)]))


def find_unneeded_ticks(table: Table, ticks: np.ndarray) -> frozenset[int]:
    """Ticks of frames between the needed ones that need not be decoded.

    No needed frame is predicted from them, because a key frame lies before the next needed frame.
    `ticks`: of the needed frames, sorted.
    """
    if not table.ordered or table.from_start:
        return frozenset()
    first, last = np.searchsorted(table.pts, ticks[[0, -1]])
    between = table.pts[first : last + 1]
    group = np.searchsorted(table.keys, between, side="right")  # the key frame of each
    following = np.searchsorted(ticks, between)  # the next needed frame, itself included
    group_of_next = np.searchsorted(table.keys, ticks[following], side="right")
    return frozenset(between[group_of_next > group].tolist())


def _decode(
    path: str | Path,
    table: Table,
    ticks: np.ndarray,
    start: int | None,
    pictures: dict[int, np.ndarray],
) -> None:
    """Put the picture of each tick into `pictures`, tick -> RGB `H W C`. Stop after the last."""
    needed = set(ticks.tolist())
    for tick, picture in decode_frames(path, table, find_unneeded_ticks(table, ticks), start):
        # Of two frames at one time the first is taken, in a batch as alone.
        if tick is not None and tick in needed and tick not in pictures:
            pictures[tick] = picture.show()
            if len(pictures) == len(needed):
                return


def decode_frames(
    path: str | Path, table: Table, skipped: frozenset[int], start: int | None = None
) -> Iterator[tuple[int | None, Picture]]:
    """Frames with their ticks in the table, from the tick `start` on.

    Packets with the ticks in `skipped` are not decoded. A tick is None for a frame that the table
    lacks. Frames that are corrupt are left out, with those up to the next key frame, which are
    predicted from them. Raises a DecodeError where the file is damaged.
    """
    with open_video(path) as container:
        stream = container.streams[table.stream]
        decoder = open_decoder(stream, table.decoder)
        is_wrong, sides = False, None
        frames = decode_stream(
            container, stream, decoder, table.damaged, skipped, start, table.passed
        )
        for i, frame in enumerate(frames):
            if i == 0:
                sides = find_sides(frame)
            tick = frame.dts if frame.pts is None else frame.pts
            if table.counted:
                tick = int(table.pts[i]) if i < len(table.pts) else None
            is_wrong = frame.is_corrupt or is_wrong and not frame.key_frame
            if is_wrong:
                continue
            yield tick, Picture(frame, path, table.aspect, sides)


def _stack(path: str | Path, pictures: list[np.ndarray]) -> Frames:
    if len({picture.shape for picture in pictures}) > 1:
        raise DecodeError(path, "the picture changes its size within the file")
    frames = torch.from_numpy(np.stack(pictures))
    return frames.permute(0, 3, 1, 2)  # still channels last in memory, which is quick to resize


def _needs_pyav(table: Table) -> bool:
    """Files that torchcodec would show with other times, another shape or damage."""
    return table.from_start or table.aspect != 1.0 or bool(table.damaged)


def _import_torchcodec() -> Any:
    """The class VideoDecoder of torchcodec. A UserError if it cannot be imported."""
    # A RuntimeError: torchcodec is installed, but the libraries of FFmpeg are not.
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(
            "The decoder torchcodec cannot be imported: install torchcodec and FFmpeg, or take "
            "--decoder pyav."
        ) from error
    return VideoDecoder


def _read_torchcodec(path: str | Path, table: Table, needed: np.ndarray) -> Frames:
    decoder = _import_torchcodec()
    options: dict[str, Any] = {
        "stream_index": table.stream,  # by default torchcodec takes the largest picture
        "seek_mode": "exact",
        "num_ffmpeg_threads": 1,
        "dimension_order": "NCHW",
    }
    try:
        frames = decoder(os.path.abspath(path), **options).get_frames_at(needed.tolist()).data
    except (RuntimeError, ValueError, IndexError) as error:
        why = describe_error(error).splitlines()[0]
        raise DecodeError(path, why, float(table.times[needed[0]])) from error
    check_side(path, frames.shape[3], frames.shape[2])
    return frames
