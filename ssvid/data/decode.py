"""path, times in seconds -> uint8 frames.

This is the only file that opens a video; `pictures.py` opens the pictures of a folder. A time
selects the frame that is shown at that time, so files of variable frame rate are read correctly.
Damage raises an error and never gives a wrong picture: the codecs are told to stop where they would
conceal an error (`err_detect=explode`; h264 and mpeg4 obey it, hevc and vp9 do not), and frames
that they mark as corrupt are not returned.
"""

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from ssvid.data.pictures import list_pictures, read_pictures
from ssvid.errors import DecodeError, UserError, describe_error

NEAR = 1e-4  # seconds: a time this close before a frame already selects that frame
Frames = UInt8[Tensor, "T C H W"]


class Table(NamedTuple):
    """The time stamps of a file's frames, from a scan of its packets without decoding."""

    times: np.ndarray  # float64 seconds, sorted
    pts: np.ndarray  # int64, the same frames in ticks
    keys: np.ndarray  # int64, sorted ticks of the key frames
    counted: bool = False  # the frames' own ticks are unusable: frames are counted from the start
    stream: int = 0  # the container's number of the stream that is read
    # The packets are in the order of their frames, so no frame is predicted from a later one.
    ordered: bool = False


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
    return scan_file(path).times


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
    elif decoder == "pyav":
        frames = _read_pyav(path, scan_file(path), needed)
    elif decoder == "torchcodec":
        frames = _read_torchcodec(path, scan_file(path), needed)
    else:
        raise UserError(f"There is no decoder {decoder!r}: take pyav or torchcodec.")
    if len(back) == len(needed) and (back == np.arange(len(back))).all():
        return frames  # the usual case, without a copy
    return frames[torch.from_numpy(back)]


def scan_file(path: str | Path) -> Table:
    """The time stamps of a video file. A scan is cached until the file changes.

    Raises a DecodeError if the file cannot be opened or holds no video stream.
    """
    try:
        stat = os.stat(path)
    except OSError as error:
        raise DecodeError(path, error.strerror or "cannot be opened") from error
    return _scan(str(path), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=16384)  # about 40 MB in each worker for ten-second clips
def _scan(path: str, mtime: int, size: int) -> Table:
    try:
        with av.open(path) as container:
            stream = video_stream(container, path)
            base, number = stream.time_base, stream.index
            counted = _has_wrong_ticks(container, stream)
            ticks, key_ticks = [], []
            for packet in container.demux(stream):
                if not packet.size or packet.is_discard or packet.is_corrupt:
                    continue  # a player would not show it
                tick = packet.dts if packet.pts is None or counted else packet.pts
                if tick is not None:
                    ticks.append(tick)
                    if packet.is_keyframe:
                        key_ticks.append(tick)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DecodeError(path, describe_error(error)) from error
    order = np.array(ticks, np.int64)
    pts, ordered = np.unique(order), not counted and bool((np.diff(order) > 0).all())
    keys = np.unique(np.array(key_ticks, np.int64))
    return Table(pts * base.numerator / base.denominator, pts, keys, counted, number, ordered)


def _has_wrong_ticks(container: Any, stream: Any) -> bool:
    """AVI has no presentation times. With h264's B frames those that FFmpeg guesses are wrong."""
    return container.format.name == "avi" and stream.codec_context.name in ("h264", "hevc")


def video_stream(container: Any, path: str | Path) -> Any:
    """The file's first video stream that is not a cover picture. A DecodeError if there is none."""
    for stream in container.streams.video:
        if av.stream.Disposition.attached_pic not in stream.disposition:
            return stream
    raise DecodeError(path, "no video stream in it")


def rotate_upright(frame: Any) -> np.ndarray:
    """RGB uint8 `H W C`, rotated as the file's display matrix says."""
    # With PyAV's default number of threads this costs four times the CPU time.
    picture = frame.to_ndarray(format="rgb24", threads=1)
    return np.rot90(picture, round(frame.rotation / 90)) if frame.rotation % 360 else picture


def _read_pyav(path: str | Path, table: Table, needed: np.ndarray) -> Frames:
    """Decode from the key frame before the first needed frame, without unneeded packets.

    Where that does not give every frame, the file is decoded from the start, all of it.
    """
    ticks = table.pts[needed]
    before = table.keys[table.keys <= ticks[0]]
    can_seek = len(before) > 0 and before[-1] > table.pts[0] and not table.counted
    start = int(before[-1]) if can_seek else None
    attempts: list[tuple[int | None, Table]] = [(None, table._replace(ordered=False))]
    if start is not None or find_unneeded_ticks(table, ticks):
        attempts.insert(0, (start, table))
    for begin, scan in attempts:
        pictures: dict[int, np.ndarray] = {}
        why = "the decoder gives no such frame"
        try:
            _decode(path, scan, ticks, begin, pictures)
        except (av.FFmpegError, OSError, ValueError) as error:
            why = describe_error(error)
        if len(pictures) == len(ticks):
            return _stack(path, [pictures[tick] for tick in ticks.tolist()])
    missing = min(set(ticks.tolist()) - pictures.keys())
    raise DecodeError(path, why, float(table.times[np.searchsorted(table.pts, missing)]))


def find_unneeded_ticks(table: Table, ticks: np.ndarray) -> frozenset[int]:
    """Ticks of frames between the needed ones that need not be decoded.

    No needed frame is predicted from them, because a key frame lies before the next needed frame.
    `ticks`: of the needed frames, sorted.
    """
    if not table.ordered:
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
    needed, last = set(ticks.tolist()), int(ticks[-1])
    for tick, frame in decode_frames(path, table, find_unneeded_ticks(table, ticks), start):
        if tick is None:
            continue
        if tick in needed and not frame.is_corrupt:
            pictures[tick] = rotate_upright(frame)
        if tick >= last:
            return


def decode_frames(
    path: str | Path, table: Table, skipped: frozenset[int], start: int | None = None
) -> Iterator[tuple[int | None, Any]]:
    """Frames of PyAV with their ticks in the table, from the tick `start` on.

    Packets with the ticks in `skipped` are not decoded. A tick is None for a frame that the table
    lacks. Raises the errors of PyAV.
    """
    with av.open(str(path)) as container:
        stream = video_stream(container, path)
        stream.thread_type = "NONE"  # the loader's workers already use every CPU
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"err_detect": "explode"}
        if start is not None:
            container.seek(start, stream=stream)
        for i, frame in enumerate(_frames(container, stream, skipped)):
            tick = frame.dts if frame.pts is None else frame.pts
            if table.counted:
                tick = int(table.pts[i]) if i < len(table.pts) else None
            yield tick, frame


def _frames(container: Any, stream: Any, skipped: frozenset[int]) -> Iterator[Any]:
    """As `container.decode`, without the skipped packets.

    After such packets the decoder continues as after a seek.
    """
    skipping = False
    for packet in container.demux(stream):
        tick = packet.dts if packet.pts is None else packet.pts
        if packet.size and tick in skipped:
            if not skipping:
                yield from stream.codec_context.decode(None)
                stream.codec_context.flush_buffers()
            skipping = True
        else:
            skipping = False
            yield from packet.decode()


def _stack(path: str | Path, pictures: list[np.ndarray]) -> Frames:
    if len({picture.shape for picture in pictures}) > 1:
        raise DecodeError(path, "the picture changes its size within the file")
    frames = torch.from_numpy(np.stack(pictures))
    return frames.permute(0, 3, 1, 2)  # still channels last in memory, which is quick to resize


def _read_torchcodec(path: str | Path, table: Table, needed: np.ndarray) -> Frames:
    # A RuntimeError: torchcodec is installed, but the libraries of FFmpeg are not.
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(
            "The decoder torchcodec cannot be imported: install torchcodec and FFmpeg, or take "
            "--decoder pyav."
        ) from error
    options: dict[str, Any] = {
        "stream_index": table.stream,  # by default torchcodec takes the largest picture
        "seek_mode": "exact",
        "num_ffmpeg_threads": 1,
        "dimension_order": "NCHW",
    }
    try:
        return VideoDecoder(str(path), **options).get_frames_at(needed.tolist()).data
    except (RuntimeError, ValueError, IndexError) as error:
        why = describe_error(error).splitlines()[0]
        raise DecodeError(path, why, float(table.times[needed[0]])) from error
