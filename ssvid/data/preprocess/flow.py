"""Videos -> their optical flow, cached beside them; video, times -> uint8 flow frames: the only file that knows flow.

python -m ssvid.data.flow --data NAME --data.root ROOT. Computing needs OpenCV's contrib modules, reading does not.

A flow file is ffv1, all key frames, gray: v (down) stacked on u (right). Its frame i lies between frames i and i + 1 of
the video and is stamped i / 25 s, whatever the video's own times are: the number of a frame is read off its stamp.
"""

import glob
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
import torch
from jaxtyping import Float32, UInt8

from ssvid.data.decode import IMAGES, NEAR, Frames, read, stamps
from ssvid.data.manifest import Manifest
from ssvid.data.preprocess.pool import Found, each, list_bad, room, same_settings
from ssvid.data.quarantine import NAME, Quarantine
from ssvid.errors import DecodeError, UserError, positive, within
from ssvid.files import write_json_whole, write_whole
from ssvid.log import log

SETTINGS = "flow.json"  # in the folder of flow: what its files were made with
BOUND = 20.0  # pixels, as published (MemDPC, CoCLR) for pictures of 240 and more
EMPTY = 128  # the third plane of the published files
RATE, TICKS = (
    25,
    40,
)  # of every flow file: Matroska counts milliseconds, so that frame i has the whole stamp 40 * i
FAR = 50  # flow frames: a longer way to the next one wanted is jumped, a shorter one read through
SECONDS = {
    "tvl1": 15e-6,
    "dis": 0.2e-6,
}  # of one CPU, for a pixel of a frame; tvl1 takes 9 to 20, by how much moves
BYTES = 0.15  # of a flow file, for a pixel of a frame: 0.05 to 0.25 by how much moves
BLOCK = 64e6  # bytes of RGB held at once
# Golomb-Rice and the small context are decoded in half the time of the range coder, for a fifth more bytes.
FFV1 = {"level": "3", "coder": "0", "context": "0", "g": "1", "slices": "4", "slicecrc": "1"}
TAG = "SSVID_FLOW"
ONES = 0xFFFFFFFF
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
AGAIN = "remove that file and run python -m ssvid.data.flow"

Flow = UInt8[np.ndarray, "H W 2"]
Settings = dict[str, Any]  # method, bound


def flow_root(manifest: Manifest) -> Path:
    """$SSVID_FLOW, else hidden in the data's own folder, where no data set takes it for videos."""
    given = os.environ.get("SSVID_FLOW")
    return Path(given).expanduser() if given else manifest.root / ".flow"


def flow_file(manifest: Manifest, row: int) -> Path:
    return _place(flow_root(manifest), manifest.rows[row].path)


def need_flow(manifest: Manifest) -> None:
    root = flow_root(manifest)
    if not root.is_dir():
        raise UserError(
            f"There is no optical flow at {root}: run python -m ssvid.data.flow with the same --data and --data flags, "
            "or set SSVID_FLOW to the folder that holds it."
        )


def read_flow(
    video: Path, flow: Path, times: Sequence[float] | np.ndarray, fps: float | None = None
) -> Frames:
    """`T 3 H W`, planes (128, v, u): the flow from the video frame shown at each time to the next one.

    The last frame has none after it and gets the flow before it. Any order, repeats allowed.
    """
    table = stamps(video, fps)
    if len(table) < 2:
        raise DecodeError(video, "a single frame has no flow" if len(table) else "no frames in it")
    shown = np.searchsorted(table, np.asarray(times, np.float64) + NEAR, side="right") - 1
    wanted, back = np.unique(shown.clip(0, len(table) - 2), return_inverse=True)
    planes = _read(video, flow, wanted, len(table) - 1)  # T 2H W
    height = planes[0].shape[0] // 2
    frames = np.full((len(planes), height, planes[0].shape[1], 3), EMPTY, np.uint8)
    for frame, plane in zip(frames, planes, strict=True):
        frame[..., 1], frame[..., 2] = plane[:height], plane[height:]
    made = torch.from_numpy(frames).permute(
        0, 3, 1, 2
    )  # channels last in memory, as of decode.read
    return made if np.array_equal(back, np.arange(len(planes))) else made[torch.from_numpy(back)]


def quantise(flow: Float32[np.ndarray, "H W 2"], bound: float = BOUND) -> Flow:
    """-bound to bound pixels -> 0 to 255, rounded half to even as the published code does: no motion is 128."""
    return np.rint((flow.clip(-bound, bound) + bound) * (255 / (2 * bound))).astype(np.uint8)


def compute(
    data: Manifest,  # the videos, of all splits
    *,
    method: str = "tvl1",  # tvl1: as published | dis: about 100 times quicker
    bound: float = BOUND,  # pixels between two frames: more is clipped; small pictures move by fewer
    workers: int = 0,  # processes; 0 = one for each CPU
    out: str | None = None,  # folder; default: $SSVID_FLOW, else .flow in the data's folder
) -> dict[str, Any]:
    """The flow of every video that has none yet. A video that fails is counted, listed and left out."""
    if method not in SECONDS:
        raise UserError(f"There is no --method {method}: take {' or '.join(SECONDS)}.")
    within(0, 1_000, workers=workers)
    positive(bound=bound)
    how = {"method": method, "bound": bound}
    workers = workers or len(os.sched_getaffinity(0))
    _opencv()
    target = Path(out).expanduser() if out else flow_root(data)
    _outside(target, data.root)
    with room(target):
        target.mkdir(parents=True, exist_ok=True)
    same_settings(target / SETTINGS, how)
    began = time.monotonic()
    paths = sorted({row.path for row in data.rows})
    (target / NAME).unlink(missing_ok=True)  # every video is looked at again
    bad = Quarantine(target, len(paths))
    found = each(partial(_look, data.root, target, how), paths, workers, "scan")
    left = [item for item in found if item.frames]
    log.info(_estimate(left, method, workers, target))
    write_json_whole(target / SETTINGS, how)
    done = each(
        partial(_make, data.root, target, how), [item.path for item in left], workers, "flow"
    )
    with room(target):
        list_bad(bad, data.root, [*found, *done])
    if target.resolve() != flow_root(data).resolve():
        log.info(f"Give training the same folder: SSVID_FLOW={target}")
    kept = sum(not item.why and not item.frames for item in found)
    counts = {
        "videos": len(paths),
        "made": sum(not item.why for item in done),
        "kept": kept,
        "bad": len(bad),
    }
    return counts | {
        "seconds": round(time.monotonic() - began, 3),
        "out": str(target),
        "method": method,
    }


def _place(root: Path, path: str) -> Path:
    """Below `root` whatever the path is, and no two at one place: `/` and `..` outside the data become names."""
    parts = path.split("/")
    names = [{"": "%2F", "..": "%2E%2E"}.get(part, part.replace("%", "%25")) for part in parts]
    return root.joinpath(*map(_short, names[:-1]), _short(names[-1]) + ".mkv")


def _short(name: str) -> str:
    """A file name is 255 bytes at most, and a suffix and a temporary name are still to come."""
    raw = os.fsencode(name)
    return (
        name if len(raw) <= 200 else os.fsdecode(raw[:100]) + "%" + hashlib.sha256(raw).hexdigest()
    )


def _read(video: str | Path, flow: Path, wanted: np.ndarray, frames: int) -> list[np.ndarray]:
    """The stacked planes of these flow frames; `frames`: how many the file has to hold."""
    if not flow.exists():
        raise DecodeError(video, f"there is no flow of it at {flow}: run python -m ssvid.data.flow")
    try:
        with av.open(str(flow)) as container:
            held = json.loads(container.metadata.get(TAG, "{}")).get("frames")
            if held != frames:
                raise DecodeError(
                    video, f"its flow at {flow} has {held} frames and not {frames}: {AGAIN}"
                )
            return list(_planes(container, wanted))
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise DecodeError(video, f"its flow at {flow} is damaged ({error}): {AGAIN}") from error


def _planes(container: Any, wanted: np.ndarray) -> Iterator[np.ndarray]:
    stream = container.streams.video[0]
    stream.thread_type = "NONE"  # workers are the parallelism
    stream.codec_context.thread_count = 1
    for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > FAR) + 1):
        container.seek(int(run[0]) * TICKS, stream=stream)
        packets = container.demux(stream)
        for number in run.tolist():
            packet = next((p for p in packets if p.pts is None or p.pts >= number * TICKS), None)
            if packet is None or packet.pts != number * TICKS:
                raise ValueError(f"frame {number} is not in it")
            if not _whole(bytes(packet)):
                raise ValueError(f"frame {number} has other bytes than were written")
            yield packet.decode()[0].to_ndarray()


def _whole(packet: bytes) -> bool:
    """ffv1's own checksums: the decoder reads them too, but paints over what fails and says nothing.

    Each slice ends with its CRC-32, most significant bit first, from 0: the remainder of all slices is 0 again.
    """
    return zlib.crc32(packet.translate(MIRRORED), ONES) == ONES


def _opencv() -> Any:
    try:
        import cv2

        _ = cv2.optflow.createOptFlow_DualTVL1
    except (ImportError, AttributeError) as error:
        raise UserError(
            "Optical flow is computed by OpenCV with its contrib modules, and these cannot be imported: "
            "pip install opencv-contrib-python-headless (and no other opencv package beside it)."
        ) from error
    cv2.setNumThreads(1)  # the workers are the parallelism
    return cv2


def _outside(target: Path, data: Path) -> None:
    """Flow files are videos too, for a data set that looks for all there are below its root."""
    here, root = target.resolve(), data.resolve()
    if here.is_relative_to(root) and not any(
        part.startswith(".") for part in here.relative_to(root).parts
    ):
        raise UserError(
            f"The folder of flow, {target}, lies in the data and would be read as part of it: name another folder, or "
            f"leave out --out and SSVID_FLOW for {data / '.flow'}."
        )


def _look(root: Path, target: Path, how: Settings, path: str) -> Found:
    """A video to make flow of; its `frames` are those of the flow, 0: it has its flow already."""
    video = root / path
    try:
        if _fits(video, _place(target, path), how):
            return Found(path)
        table = _stamps(video)
        if len(table) < 2:
            raise DecodeError(
                video, "a single frame has no flow" if len(table) else "no frames in it"
            )
        first = read(video, table[:1], fps=1.0)
    except DecodeError as error:
        return Found(path, error.why, error.time)
    except OSError as error:
        return Found(path, str(error))
    return Found(path, "", None, first.shape[3], first.shape[2], len(table) - 1)


def _stamps(video: Path) -> np.ndarray:
    return stamps(video, fps=1.0)  # of a folder of pictures: only the order counts here


def _fits(video: Path, flow: Path, how: Settings) -> bool:
    """Whole, of this very video, by this method. A file that was cut off lacks its last frame."""
    try:
        with av.open(str(flow)) as container:
            made = json.loads(container.metadata.get(TAG, "{}"))
        same = all(made.get(key) == value for key, value in {**_source(video), **how}.items())
        return same and len(_read(video, flow, np.array([made["frames"] - 1]), made["frames"])) == 1
    except (av.FFmpegError, DecodeError, ValueError, KeyError):
        return False


def _source(video: Path) -> dict[str, int]:
    """What tells that a video was replaced. A folder counts as its pictures do together."""
    if not video.is_dir():
        stat = video.stat()
        return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    with os.scandir(video) as entries:
        stats = [
            entry.stat() for entry in entries if os.path.splitext(entry.name)[1].lower() in IMAGES
        ]
    return {
        "size": sum(s.st_size for s in stats),
        "mtime_ns": max((s.st_mtime_ns for s in stats), default=0),
    }


def _make(root: Path, target: Path, how: Settings, path: str) -> Found:
    cv2, video, final = _opencv(), root / path, _place(target, path)
    try:
        with room(target):
            final.parent.mkdir(parents=True, exist_ok=True)
            write_whole(final, lambda file: _write(file, video, how))
    except DecodeError as error:
        return Found(path, error.why, error.time)
    except cv2.error as error:
        return Found(path, error.err.strip())
    except (av.FFmpegError, OSError) as error:
        return Found(path, str(error))
    for left in final.parent.glob(f".{glob.escape(final.name)}.*.tmp"):
        left.unlink(missing_ok=True)  # of a run that was killed
    return Found(path)


def _write(file: IO[bytes], video: Path, how: Settings) -> None:
    source, frames = _source(video), len(_stamps(video)) - 1
    made = {**source, "frames": frames, **how, "opencv": _opencv().__version__}
    with av.open(
        file, "w", format="matroska", options={"fflags": "bitexact"}
    ) as container:  # else with a random id
        stream = None
        container.metadata[TAG] = json.dumps(made)
        for i, flow in enumerate(_flows(video, how["method"], how["bound"])):
            if stream is None:
                stream = container.add_stream("ffv1", rate=RATE)
                stream.width, stream.height, stream.pix_fmt = (
                    flow.shape[1],
                    2 * flow.shape[0],
                    "gray",
                )
                stream.codec_context.thread_count, stream.options = 1, dict(FFV1)
            picture = av.VideoFrame.from_ndarray(
                np.concatenate((flow[..., 1], flow[..., 0])), format="gray"
            )
            picture.pts = i
            container.mux(stream.encode(picture))
        if stream is not None:
            container.mux(stream.encode(None))


def _flows(video: Path, method: str, bound: float = BOUND) -> Iterator[Flow]:
    """u and v between each frame and the next."""
    cv2 = _opencv()
    cv2_flow = (
        cv2.optflow.createOptFlow_DualTVL1()
        if method == "tvl1"
        else cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    )
    before = None
    for gray in _grays(video):
        if before is not None:
            yield quantise(cv2_flow.calc(before, gray, None), bound)
        before = gray


def _grays(video: Path) -> Iterator[np.ndarray]:
    """Every frame as training reads it, a block of them at a time: a film has more than the memory holds."""
    cv2, table = _opencv(), _stamps(video)
    shape = read(video, table[:1], fps=1.0).shape[1:]
    block = max(2, int(BLOCK / shape.numel()))
    for begin in range(0, len(table), block):
        frames = read(video, table[begin : begin + block], fps=1.0)  # T C H W
        if frames.shape[1:] != shape:
            raise DecodeError(video, "the picture changes its size on the way", float(table[begin]))
        for frame in frames.permute(0, 2, 3, 1).numpy():
            yield cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)


def _estimate(left: list[Found], method: str, workers: int, target: Path) -> str:
    pixels = sum(float(item.frames * item.width * item.height) for item in left)
    hours = pixels * SECONDS[method] / workers / 3600
    size, free = pixels * BYTES / 1e9, shutil.disk_usage(target).free / 1e9
    if size > free:
        raise UserError(
            f"{target} has {free:.1f} GB free and the flow takes about {size:.1f} GB: free some space."
        )
    frames = sum(item.frames for item in left)
    return (
        f"{len(left)} videos of {frames} frames to make: about {hours:.2f} hours with {workers} workers, "
        f"{size:.2f} of {free:.1f} GB free"
    )
