"""path, times in seconds -> uint8 frames: the only file that opens a video.

A time means the frame shown then, so variable-rate files stay right. Damage is an error here, never a wrong picture:
the codecs are told to stop at what they would conceal (`err_detect=explode`: h264 and mpeg4 heed it, hevc and vp9 do
not), and a frame they mark as corrupt is not handed out.
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
from PIL import Image
from torch import Tensor

from ssvid.errors import DecodeError, UserError

NEAR = 1e-4  # seconds: a time this little before a frame already means that frame
IMAGES = frozenset((".jpg", ".jpeg", ".png"))
Frames = UInt8[Tensor, "T C H W"]


class Table(NamedTuple):
    """What a packet scan tells of a file, without decoding."""

    times: np.ndarray  # float64 seconds, sorted
    pts: np.ndarray  # int64, the same frames in ticks
    keys: np.ndarray  # int64, sorted ticks of the key frames
    counted: bool = False  # the frames' own ticks are of no use: count them from the start
    stream: int = 0  # the container's number of the stream that is read
    ordered: bool = (
        False  # packets come in the order of their frames: no frame is built from a later one
    )


def stamps(path: str | Path, fps: float | None = None) -> np.ndarray:
    """Sorted presentation times in seconds. `fps`: of a folder of pictures, which cannot state its own."""
    if os.path.isdir(path):
        if not fps:
            raise UserError(
                f"{path} is a folder of frames: say their rate, for example --data.fps 25."
            )
        return np.arange(len(_pictures(path))) / fps
    return scanned(path).times


def read(
    path: str | Path,
    times: Sequence[float] | np.ndarray,
    fps: float | None = None,
    decoder: str = "pyav",
) -> Frames:
    """The frame shown at each time. Any order, repeats allowed; before the first frame means the first."""
    table = stamps(path, fps)
    if len(table) == 0:
        raise DecodeError(path, "no frames in it")
    shown = np.searchsorted(table, np.asarray(times, np.float64) + NEAR, side="right") - 1
    wanted, back = np.unique(shown.clip(min=0), return_inverse=True)
    if os.path.isdir(path):
        frames = _read_pictures(path, wanted)
    elif decoder == "pyav":
        frames = _read_pyav(path, scanned(path), wanted)
    elif decoder == "torchcodec":
        frames = _read_torchcodec(path, scanned(path), wanted)
    else:
        raise UserError(f"There is no decoder {decoder!r}: take pyav or torchcodec.")
    if len(back) == len(wanted) and (back == np.arange(len(back))).all():
        return frames  # the usual case, without a copy
    return frames[torch.from_numpy(back)]


def scanned(path: str | Path) -> Table:
    try:
        stat = os.stat(path)
    except OSError as error:
        raise DecodeError(path, error.strerror or "cannot be opened") from error
    return _scan(str(path), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=16384)  # about 40 MB of ten-second clips in each worker
def _scan(path: str, mtime: int, size: int) -> Table:
    try:
        with av.open(path) as container:
            stream = video_stream(container, path)
            base, number, counted = stream.time_base, stream.index, _unordered(container, stream)
            packets = [
                (packet.dts if packet.pts is None or counted else packet.pts, packet.is_keyframe)
                for packet in container.demux(stream)
                if packet.size
                and not packet.is_discard
                and not packet.is_corrupt  # what a player would not show
            ]
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DecodeError(path, reason(error)) from error
    ticks = np.array([tick for tick, _ in packets if tick is not None], np.int64)
    pts, ordered = np.unique(ticks), not counted and bool((np.diff(ticks) > 0).all())
    keys = np.unique(
        np.array([tick for tick, key in packets if key and tick is not None], np.int64)
    )
    return Table(pts * base.numerator / base.denominator, pts, keys, counted, number, ordered)


def _unordered(container: Any, stream: Any) -> bool:
    """AVI has no presentation times: with h264's B frames the ticks that FFmpeg guesses are wrong."""
    return container.format.name == "avi" and stream.codec_context.name in ("h264", "hevc")


def video_stream(container: Any, path: str | Path) -> Any:
    """The file's first video stream that is not a cover picture."""
    for stream in container.streams.video:
        if av.stream.Disposition.attached_pic not in stream.disposition:
            return stream
    raise DecodeError(path, "no video stream in it")


def upright(frame: Any) -> np.ndarray:
    """RGB `H W C`, turned as the file's display matrix asks."""
    picture = frame.to_ndarray(
        format="rgb24", threads=1
    )  # its own choice of threads costs 4x the CPU
    return np.rot90(picture, round(frame.rotation / 90)) if frame.rotation % 360 else picture


def _read_pyav(path: str | Path, table: Table, wanted: np.ndarray) -> Frames:
    """From the key frame before the first frame wanted, past what is not needed; where that fails, from the start."""
    ticks = table.pts[wanted]
    before = table.keys[table.keys <= ticks[0]]
    start = (
        int(before[-1]) if len(before) and before[-1] > table.pts[0] and not table.counted else None
    )
    ways = [(start, table)] if start is not None or needless(table, ticks) else []
    for begin, known in [*ways, (None, table._replace(ordered=False))]:
        found: dict[int, np.ndarray] = {}
        why = "the decoder passes over this frame"
        try:
            _decode(path, known, ticks, begin, found)
        except (av.FFmpegError, OSError, ValueError) as error:
            why = reason(error)
        if len(found) == len(ticks):
            return _stack(path, [found[tick] for tick in ticks.tolist()])
    missing = next(i for i, tick in zip(wanted, ticks.tolist(), strict=True) if tick not in found)
    raise DecodeError(path, why, float(table.times[missing]))


def needless(table: Table, ticks: np.ndarray) -> frozenset[int]:
    """Frames amid the wanted ones that none of these is built from: a key frame comes before the next of them."""
    if not table.ordered:
        return frozenset()
    first, last = np.searchsorted(table.pts, ticks[[0, -1]])
    between = table.pts[first : last + 1]
    group = np.searchsorted(table.keys, between, side="right")  # which key frame each hangs on
    after = np.searchsorted(ticks, between)  # the next wanted frame, itself included
    return frozenset(
        between[np.searchsorted(table.keys, ticks[after], side="right") > group].tolist()
    )


def _decode(
    path: str | Path,
    table: Table,
    ticks: np.ndarray,
    start: int | None,
    found: dict[int, np.ndarray],
) -> None:
    wanted, last = set(ticks.tolist()), int(ticks[-1])
    for tick, frame in decoded(path, table, needless(table, ticks), start):
        if tick is None:
            continue
        if tick in wanted and not frame.is_corrupt:
            found[tick] = upright(frame)
        if tick >= last:
            return


def decoded(
    path: str | Path, table: Table, passed: frozenset[int], start: int | None = None
) -> Iterator[tuple[int | None, Any]]:
    """Frames with their ticks in the table, from the tick `start` on, without those whose packets are `passed` over."""
    with av.open(str(path)) as container:
        stream = video_stream(container, path)
        stream.thread_type = "NONE"  # workers are the parallelism
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"err_detect": "explode"}
        if start is not None:
            container.seek(start, stream=stream)
        for i, frame in enumerate(_frames(container, stream, passed)):
            tick = frame.dts if frame.pts is None else frame.pts
            if table.counted:
                tick = int(table.pts[i]) if i < len(table.pts) else None
            yield tick, frame


def _frames(container: Any, stream: Any, passed: frozenset[int]) -> Iterator[Any]:
    """As `container.decode`, but past the packets that are not needed: the decoder goes on as after a seek."""
    passing = False
    for packet in container.demux(stream):
        tick = packet.dts if packet.pts is None else packet.pts
        if packet.size and tick in passed:
            if not passing:
                yield from stream.codec_context.decode(None)
                stream.codec_context.flush_buffers()
            passing = True
        else:
            passing = False
            yield from packet.decode()


def _stack(path: str | Path, pictures: list[np.ndarray]) -> Frames:
    if len({picture.shape for picture in pictures}) > 1:
        raise DecodeError(path, "the picture changes its size on the way")
    return torch.from_numpy(np.stack(pictures)).permute(
        0, 3, 1, 2
    )  # channels last in memory: quick to resize


def reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()


def _read_torchcodec(path: str | Path, table: Table, wanted: np.ndarray) -> Frames:
    try:
        from torchcodec.decoders import VideoDecoder
    except (
        ImportError,
        RuntimeError,
        OSError,
    ) as error:  # RuntimeError: installed, but FFmpeg's libraries are not
        raise UserError(
            "The decoder torchcodec cannot be imported: install torchcodec and FFmpeg, or take --decoder pyav."
        ) from error
    try:
        how: dict[str, Any] = {
            "seek_mode": "exact",
            "num_ffmpeg_threads": 1,
            "dimension_order": "NCHW",
        }
        decoder = VideoDecoder(
            str(path), stream_index=table.stream, **how
        )  # its own choice is the largest picture
        return decoder.get_frames_at(wanted.tolist()).data
    except (RuntimeError, ValueError, IndexError) as error:
        raise DecodeError(
            path, reason(error).splitlines()[0], float(table.times[wanted[0]])
        ) from error


def _read_pictures(path: str | Path, wanted: np.ndarray) -> Frames:
    names = _pictures(path)
    pictures = []
    for i in wanted:
        try:
            with Image.open(os.path.join(path, names[i])) as picture:
                pictures.append(np.asarray(picture.convert("RGB")))
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for damaged files
            raise DecodeError(path, f"{names[i]}: {reason(error)}") from error
    return _stack(path, pictures)


def _pictures(path: str | Path) -> tuple[str, ...]:
    return _list_pictures(str(path), os.stat(path).st_mtime_ns)


@lru_cache(maxsize=16384)
def _list_pictures(path: str, mtime: int) -> tuple[str, ...]:
    names = (name for name in os.listdir(path) if os.path.splitext(name)[1].lower() in IMAGES)
    return tuple(sorted(names, key=lambda name: (len(name), name)))  # 2.jpg before 10.jpg
