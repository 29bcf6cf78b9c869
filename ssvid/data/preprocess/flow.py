"""Videos -> their optical flow, in files beside them; video, times -> uint8 flow frames.

This is the only file that knows optical flow.
python -m ssvid.data.flow --data NAME --data.root ROOT
Computing flow needs the contrib modules of OpenCV; reading it does not.

A flow file is ffv1, all key frames, gray: v (down) stacked on u (right). Its frame i lies between
frames i and i + 1 of the video and has the time stamp i / 25 s, whatever the times of the video
are. So the stamp gives the number of the frame.
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

from ssvid.commands import phrase_command
from ssvid.data.decode import Frames, read, read_timestamps
from ssvid.data.manifest import Manifest
from ssvid.data.pictures import list_pictures
from ssvid.data.preprocess import pool
from ssvid.data.preprocess.flow_file import TAG, open_flow, read_tag
from ssvid.data.preprocess.pool import FileResult, check_settings, raise_if_full
from ssvid.data.quarantine import NAME, Quarantine
from ssvid.data.scan import NEAR
from ssvid.errors import DecodeError, UserError, check_positive, check_range
from ssvid.files import write_json_whole, write_whole
from ssvid.log import log

SETTINGS = "flow.json"  # in the folder of flow: the settings of its files
BOUND = 20.0  # pixels, as published (MemDPC, CoCLR) for pictures of 240 pixels and more
EMPTY = 128  # value of the third plane of the published files
# Of every flow file. Matroska counts milliseconds, so frame i has the whole stamp 40 * i.
RATE, TICKS = 25, 40
FAR = 50  # flow frames: a longer gap to the next needed frame is jumped, a shorter one is read
# CPU-seconds for a pixel of a frame; tvl1 takes 9e-6 to 20e-6, depending on how much moves.
SECONDS = {"tvl1": 15e-6, "dis": 0.2e-6}
BYTES = 0.15  # of a flow file for a pixel of a frame: 0.05 to 0.25 depending on how much moves
BLOCK = 64e6  # bytes of RGB in memory at once
# Golomb-Rice and the small context are decoded in half the time of the range coder, for a fifth
# more bytes.
FFV1 = {"level": "3", "coder": "0", "context": "0", "g": "1", "slices": "4", "slicecrc": "1"}
ONES = 0xFFFFFFFF
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

Flow = UInt8[np.ndarray, "H W 2"]
Settings = dict[str, Any]  # method, bound


def flow_root(data_root: Path) -> Path:
    """$SSVID_FLOW; else a hidden folder in the data, where no data set takes it for videos."""
    folder = os.environ.get("SSVID_FLOW")
    return Path(folder).expanduser() if folder else data_root / ".flow"


def flow_file(manifest: Manifest, row: int) -> Path:
    """The flow file of a row of the manifest, with the part of a mixture that it is of."""
    root, path = manifest.locate(row)
    return _flow_path(flow_root(root), path)


def need_flow(manifest: Manifest) -> None:
    """Raise a UserError if the data has no folder of flow."""
    for part in manifest.mixture.parts if manifest.mixture else [manifest]:
        if not (root := flow_root(part.root)).is_dir():
            raise UserError(
                f"There is no optical flow at {root}: run {phrase_command('flow')} with the same "
                "--data and --data flags, or set SSVID_FLOW to the folder that holds it."
            )


def read_flow(
    video: Path, flow: Path, times: Sequence[float] | np.ndarray, fps: float | None = None
) -> Frames:
    """uint8 `T 3 H W`, planes (128, v, u): flow from the frame shown at each time to the next one.

    The last frame has no next one and gets the flow of the frame before it. Times (seconds) may be
    in any order and may repeat. `fps`: the rate of a folder of pictures. Raises a DecodeError if
    there is no flow or its file is damaged.
    """
    table = read_timestamps(video, fps)
    if len(table) < 2:
        raise DecodeError(video, "a single frame has no flow" if len(table) else "no frames in it")
    shown = np.searchsorted(table, np.asarray(times, np.float64) + NEAR, side="right") - 1
    needed, back = np.unique(shown.clip(0, len(table) - 2), return_inverse=True)
    planes = _read(video, flow, needed, len(table) - 1)  # T 2H W
    height = planes[0].shape[0] // 2
    frames = np.full((len(planes), height, planes[0].shape[1], 3), EMPTY, np.uint8)
    for frame, plane in zip(frames, planes, strict=True):
        frame[..., 1], frame[..., 2] = plane[:height], plane[height:]
    flow_frames = torch.from_numpy(frames).permute(0, 3, 1, 2)  # channels last, as in decode.read
    if np.array_equal(back, np.arange(len(planes))):
        return flow_frames
    return flow_frames[torch.from_numpy(back)]


def quantise(flow: Float32[np.ndarray, "H W 2"], bound: float = BOUND) -> Flow:
    """-bound to bound pixels -> 0 to 255, rounded half to even as in the published code.

    No motion is 128.
    """
    return np.rint((flow.clip(-bound, bound) + bound) * (255 / (2 * bound))).astype(np.uint8)


def compute(
    data: Manifest,  # the videos, of all splits
    *,
    method: str = "tvl1",  # tvl1: as published | dis: about 100 times faster
    # pixels between two frames; more is clipped, and small pictures move by fewer
    bound: float = BOUND,
    workers: int = 0,  # processes; 0: one for each CPU
    out: str | None = None,  # folder; default: $SSVID_FLOW, else .flow in the data's folder
) -> dict[str, Any]:
    """Compute the flow of every video that has none. A video that fails is listed and left out."""
    if method not in SECONDS:
        raise UserError(f"There is no --method {method}: take {' or '.join(SECONDS)}.")
    check_range(0, 1_000, workers=workers)
    check_positive(bound=bound)
    if data.mixture is not None:
        raise UserError("Flow lies with its data set: compute that of each part by itself.")
    settings = {"method": method, "bound": bound}
    workers = workers or len(os.sched_getaffinity(0))
    _opencv()
    target = Path(out).expanduser() if out else flow_root(data.root)
    if out is None and target.is_symlink() and not os.environ.get("SSVID_FLOW"):
        raise UserError(f"{target} is a link: name the folder that it leads to with --out.")
    _need_outside(target, data.root)
    with raise_if_full(target):
        target.mkdir(parents=True, exist_ok=True)
    check_settings(target / SETTINGS, settings)
    began = time.monotonic()
    paths = sorted({row.path for row in data.rows})
    (target / NAME).unlink(missing_ok=True)  # every video is scanned again
    bad = Quarantine(target, len(paths))
    scanned = pool.run_all(partial(_scan, data.root, target, settings), paths, workers, "scan")
    left = [result for result in scanned if result.frames]
    log.info(_estimate(left, method, workers, target))
    write_json_whole(target / SETTINGS, settings)
    write = partial(_write_flow, data.root, target, settings)
    written = pool.run_all(write, [result.path for result in left], workers, "flow")
    with raise_if_full(target):
        pool.list_bad(bad, data.root, [*scanned, *written])
    pool.warn_of_bad(bad)
    if target.resolve() != flow_root(data.root).resolve():
        log.info(f"Give training the same folder: SSVID_FLOW={target}")
    return {
        "videos": len(paths),
        "made": sum(not result.why for result in written),
        "kept": sum(not result.why and not result.frames for result in scanned),
        "bad": len(bad),
        "seconds": round(time.monotonic() - began, 3),
        "out": str(target),
        "method": method,
    }


def _flow_path(root: Path, path: str) -> Path:
    """The flow file of a video's path, below `root` whatever the path is.

    No two paths share a file: `/` and `..` that lead out of the data become names.
    """
    escapes = {"": "%2F", "..": "%2E%2E"}
    names = [escapes.get(name, name.replace("%", "%25")) for name in path.split("/")]
    return root.joinpath(*map(_shorten, names[:-1]), _shorten(names[-1]) + ".mkv")


def _shorten(name: str) -> str:
    """A file name has 255 bytes at most, and a suffix and a temporary name are added to it."""
    raw = os.fsencode(name)
    if len(raw) <= 200:
        return name
    return os.fsdecode(raw[:100]) + "%" + hashlib.sha256(raw).hexdigest()


def advise_again() -> str:
    return f"remove that file and run {phrase_command('flow')}"


def _read(video: str | Path, flow: Path, needed: np.ndarray, frames: int) -> list[np.ndarray]:
    """The stacked planes of these flow frames. `frames`: the number that the file must have."""
    if not flow.exists():
        raise DecodeError(video, f"there is no flow of it at {flow}: run {phrase_command('flow')}")
    try:
        with open_flow(flow) as container:
            n = read_tag(container).get("frames")
            if n != frames:
                raise DecodeError(
                    video, f"its flow at {flow} has {n} frames and not {frames}: {advise_again()}"
                )
            return list(_planes(container, needed))
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise DecodeError(
            video, f"its flow at {flow} is damaged ({error}): {advise_again()}"
        ) from error


def _planes(container: Any, needed: np.ndarray) -> Iterator[np.ndarray]:
    stream = container.streams.video[0]
    stream.thread_type = "NONE"  # the workers already use every CPU
    stream.codec_context.thread_count = 1
    for run in np.split(needed, np.flatnonzero(np.diff(needed) > FAR) + 1):
        container.seek(int(run[0]) * TICKS, stream=stream)
        packets = container.demux(stream)
        for number in run.tolist():
            packet = next((p for p in packets if p.pts is None or p.pts >= number * TICKS), None)
            if packet is None or packet.pts != number * TICKS:
                raise ValueError(f"frame {number} is not in it")
            if not _is_whole(bytes(packet)):
                raise ValueError(f"frame {number} has other bytes than were written")
            yield packet.decode()[0].to_ndarray()


def _is_whole(packet: bytes) -> bool:
    """Whether the checksums of ffv1 are right.

    The decoder reads them too, but it conceals an error and reports nothing. Each slice ends with
    its CRC-32, most significant bit first, from 0, so the remainder of all slices is 0 again.
    """
    return zlib.crc32(packet.translate(MIRRORED), ONES) == ONES


def _opencv() -> Any:
    try:
        import cv2

        _ = cv2.optflow.createOptFlow_DualTVL1
    except (ImportError, AttributeError) as error:
        raise UserError(
            "Optical flow is computed by OpenCV with its contrib modules, which cannot be "
            "imported: pip install opencv-contrib-python-headless (and no other opencv package "
            "beside it)."
        ) from error
    cv2.setNumThreads(1)  # the workers already use every CPU
    return cv2


def _need_outside(target: Path, data: Path) -> None:
    """Raise a UserError if the folder of flow is a visible folder in the data.

    Flow files are videos too, and a data set may read all videos below its root.
    """
    folder, root = target.resolve(), data.resolve()
    if not folder.is_relative_to(root):
        return
    if not any(name.startswith(".") for name in folder.relative_to(root).parts):
        raise UserError(
            f"The folder of flow, {target}, lies in the data and would be read as part of it: name "
            f"another folder, or leave out --out and SSVID_FLOW for {data / '.flow'}."
        )


def _scan(root: Path, target: Path, settings: Settings, path: str) -> FileResult:
    """A video to compute flow of. Its `frames` are those of the flow; 0: it has its flow."""
    video = root / path
    try:
        if _is_current(video, _flow_path(target, path), settings):
            return FileResult(path)
        table = _read_stamps(video)
        if len(table) < 2:
            raise DecodeError(
                video, "a single frame has no flow" if len(table) else "no frames in it"
            )
        first = read(video, table[:1], fps=1.0)
    except DecodeError as error:
        return FileResult(path, error.why, error.time)
    except OSError as error:
        return FileResult(path, str(error))
    return FileResult(path, "", None, first.shape[3], first.shape[2], len(table) - 1)


def _read_stamps(video: Path) -> np.ndarray:
    return read_timestamps(
        video, fps=1.0
    )  # the rate is for a folder of pictures: only the order counts


def _is_current(video: Path, flow: Path, settings: Settings) -> bool:
    """Whether a flow file is complete, of this very video, and of these settings.

    A file that was cut off lacks its last frame.
    """
    try:
        with open_flow(flow) as container:
            tag = read_tag(container)
        required = {**_fingerprint(video), **settings}
        if any(tag.get(key) != value for key, value in required.items()):
            return False
        return len(_read(video, flow, np.array([tag["frames"] - 1]), tag["frames"])) == 1
    except (av.FFmpegError, DecodeError, OSError, ValueError, KeyError):
        return False


def _fingerprint(video: Path) -> dict[str, int]:
    """Values that change if a video is replaced. Those of a folder are of its pictures together."""
    if not video.is_dir():
        stat = video.stat()
        return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    stats = [(video / name).stat() for name in list_pictures(video)]
    return {
        "size": sum(s.st_size for s in stats),
        "mtime_ns": max((s.st_mtime_ns for s in stats), default=0),
    }


def _write_flow(root: Path, target: Path, settings: Settings, path: str) -> FileResult:
    cv2, video, final = _opencv(), root / path, _flow_path(target, path)
    try:
        with raise_if_full(target):
            final.parent.mkdir(parents=True, exist_ok=True)
            write_whole(final, lambda file: _encode(file, video, settings))
    except DecodeError as error:
        return FileResult(path, error.why, error.time)
    except cv2.error as error:
        return FileResult(path, error.err.strip())
    except (av.FFmpegError, OSError) as error:
        return FileResult(path, str(error))
    for temporary in final.parent.glob(f".{glob.escape(final.name)}.*.tmp"):
        temporary.unlink(missing_ok=True)  # a run that was killed has left it
    return FileResult(path)


def _encode(file: IO[bytes], video: Path, settings: Settings) -> None:
    tag = {**_fingerprint(video), "frames": len(_read_stamps(video)) - 1, **settings}
    tag["opencv"] = _opencv().__version__
    # Without bitexact the file would hold a random id.
    with av.open(file, "w", format="matroska", options={"fflags": "bitexact"}) as container:
        stream = None
        container.metadata[TAG] = json.dumps(tag)
        for i, flow in enumerate(_flows(video, settings["method"], settings["bound"])):
            if stream is None:
                stream = container.add_stream("ffv1", rate=RATE)
                stream.width, stream.height = flow.shape[1], 2 * flow.shape[0]
                stream.pix_fmt, stream.options = "gray", dict(FFV1)
                stream.codec_context.thread_count = 1
            planes = np.concatenate((flow[..., 1], flow[..., 0]))
            picture = av.VideoFrame.from_ndarray(planes, format="gray")
            picture.pts = i
            container.mux(stream.encode(picture))
        if stream is not None:
            container.mux(stream.encode(None))


def _flows(video: Path, method: str, bound: float = BOUND) -> Iterator[Flow]:
    """u and v between each frame and the next."""
    cv2 = _opencv()
    if method == "tvl1":
        algorithm = cv2.optflow.createOptFlow_DualTVL1()
    else:
        algorithm = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    before = None
    for gray in _read_gray(video):
        if before is not None:
            yield quantise(algorithm.calc(before, gray, None), bound)
        before = gray


def _read_gray(video: Path) -> Iterator[np.ndarray]:
    """Every frame as training reads it, in gray.

    Frames are read in blocks, because a film does not fit into memory.
    """
    cv2, table = _opencv(), _read_stamps(video)
    shape = read(video, table[:1], fps=1.0).shape[1:]
    block = max(2, int(BLOCK / shape.numel()))
    for begin in range(0, len(table), block):
        frames = read(video, table[begin : begin + block], fps=1.0)  # T C H W
        if frames.shape[1:] != shape:
            why = "the picture changes its size within the file"
            raise DecodeError(video, why, float(table[begin]))
        for frame in frames.permute(0, 2, 3, 1).numpy():
            yield cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)


def _estimate(left: list[FileResult], method: str, workers: int, target: Path) -> str:
    """Time and space that the flow takes, in words. A UserError if the disk has too little."""
    pixels = sum(float(video.frames * video.width * video.height) for video in left)
    hours = pixels * SECONDS[method] / workers / 3600
    size, free = pixels * BYTES / 1e9, shutil.disk_usage(target).free / 1e9
    if size > free:
        raise UserError(
            f"{target} has {free:.1f} GB free and the flow takes about {size:.1f} GB: free some "
            "space."
        )
    frames = sum(video.frames for video in left)
    return (
        f"{len(left)} videos of {frames} frames to do: about {hours:.2f} hours with {workers} "
        f"workers, {size:.2f} of {free:.1f} GB free"
    )
