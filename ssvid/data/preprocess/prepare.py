"""A folder of videos -> the same, quick to read: short side, short GOP, no B frames, upright, no sound.

python -m ssvid.data.prepare --source DIR_OR_CSV --out DIR. Three to four times the random reads of a long GOP.
"""

import csv as table
import io
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import av
import numpy as np

from ssvid.data import files
from ssvid.data.datasets.csv import PATHS, csv, read_table
from ssvid.data.decode import read, stamps, upright, video_stream
from ssvid.data.preprocess.pool import Found, each, list_bad, room, same_settings
from ssvid.data.quarantine import NAME, Quarantine
from ssvid.errors import DecodeError, UserError, within
from ssvid.files import write_json_whole, write_text_whole
from ssvid.log import log

SETTINGS = "prepare.json"  # in the out folder: what its files were made with
TICK = Fraction(1, 90_000)  # of the files written: fine enough for any rate
SPEED, BYTES = (
    40.0,
    0.15,
)  # a first guess: 340x256 frames encoded a CPU second, bits a pixel at crf 23
Settings = dict[str, Any]  # short_side, gop, crf


def prepare(
    source: str,  # folder of videos, or a csv of them
    out: str,  # folder: the same layout, .mp4
    *,
    short_side: int = 256,  # pixels; smaller videos keep their size
    gop: int = 12,  # frames between key frames
    crf: int = 23,  # x264's quality, 18 (large) to 28 (small)
    workers: int = 0,  # processes; 0 = one for each CPU
    scan_only: bool = False,  # open every file, read its first and last frame, write no video
) -> dict[str, Any]:
    """Scan, then re-encode what is not there yet. A file that fails is counted, listed and left out."""
    within(2, 100_000, short_side=short_side)
    within(1, 10_000, gop=gop)
    within(0, 51, crf=crf)
    within(0, 1_000, workers=workers)
    how: Settings = {"short_side": short_side, "gop": gop, "crf": crf}
    root, paths = _sources(source)
    twins = [name for name, n in Counter(map(_target, paths)).items() if n > 1]
    if twins:
        raise UserError(
            f"{source}: several files would become {twins[0]}: give them different names."
        )
    target = Path(out).expanduser()
    if target.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"--out {out} lies in the source, and would be read as part of it: name another folder."
        )
    target.mkdir(parents=True, exist_ok=True)
    if not scan_only:
        same_settings(target / SETTINGS, how)
    workers = workers or len(os.sched_getaffinity(0))
    (target / NAME).unlink(missing_ok=True)  # every file is looked at again
    bad = Quarantine(target, len(paths))
    found = each(partial(_scan, root), paths, workers, "scan")
    with room(target):
        list_bad(bad, root, found)
    good = sorted(item for item in found if not item.why)
    log.info(_report(good, len(paths) - len(good)))
    result = {
        "source": str(source),
        "out": str(out),
        "files": len(paths),
        "good": len(good),
        "written": 0,
        "kept": 0,
    }
    if not scan_only:
        result |= _encode_all(root, target, good, bad, workers, how)
        _copy_list(source, root, target)
    return result | {
        "bad": len(bad),
        "seconds_of_video": round(sum(item.seconds for item in good), 3),
    }


def _sources(source: str) -> tuple[Path, list[str]]:
    path = Path(source).expanduser()
    if path.is_file():
        listed = csv(str(path))
        outside = [row.path for row in listed.rows if row.path.startswith(("/", "../"))]
        if outside:
            raise UserError(
                f"{path}: {outside[0]} does not lie below the list's folder, so it has no place in --out."
            )
        return listed.root, sorted(row.path for row in listed.rows)
    paths = files.list_videos(files.need_folder(path, "--source"))
    if not paths:
        raise UserError(f"{path} holds no video files: check --source.")
    return path, paths


def _target(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(".mp4"))


def _scan(root: Path, path: str) -> Found:
    """Opens, counts and decodes the first and last frame: most damage shows there."""
    try:
        table = stamps(root / path)
        if len(table) == 0:
            raise DecodeError(path, "no frames in it")
        picture = read(root / path, [table[0], table[-1]])
    except DecodeError as error:
        return Found(path, error.why, error.time)
    gap = float(np.median(np.diff(table))) if len(table) > 1 else 0.0
    return Found(
        path,
        "",
        None,
        picture.shape[3],
        picture.shape[2],
        len(table),
        float(table[-1] - table[0]) + gap,
    )


def _encode_all(
    root: Path, target: Path, good: list[Found], bad: Quarantine, workers: int, how: Settings
) -> dict[str, Any]:
    left = [item for item in good if not _made(root / item.path, target / _target(item.path))]
    log.info(_estimate(left, how["short_side"], workers, target))
    write_json_whole(target / SETTINGS, how)  # an estimate refused leaves none
    began = time.monotonic()
    done = each(
        partial(_encode, root, target, **how), [item.path for item in left], workers, "encode"
    )
    with room(target):
        list_bad(bad, root, done)
    written = sum(not item.why for item in done)
    return {
        "written": written,
        "kept": len(good) - len(left),
        "seconds": round(time.monotonic() - began, 3),
    }


def _made(source: Path, target: Path) -> bool:
    return target.exists() and target.stat().st_mtime_ns == source.stat().st_mtime_ns


def _encode(root: Path, target: Path, path: str, *, short_side: int, gop: int, crf: int) -> Found:
    final = target / _target(path)
    part = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        with room(target):
            final.parent.mkdir(parents=True, exist_ok=True)
            _transcode(root / path, part, short_side, gop, crf)
            os.utime(
                part, ns=(os.stat(root / path).st_mtime_ns,) * 2
            )  # tells whether the source has changed since
        os.replace(part, final)
    except (av.FFmpegError, DecodeError, ValueError, OSError) as error:
        why = error.why if isinstance(error, DecodeError) else str(error) or type(error).__name__
        return Found(path, why)
    finally:
        part.unlink(missing_ok=True)
    return Found(path)


def _transcode(source: Path, target: Path, short_side: int, gop: int, crf: int) -> None:
    with av.open(str(source)) as old, av.open(str(target), "w", format="mp4") as new:
        reader, writer = video_stream(old, source), None
        reader.thread_type = "NONE"
        reader.codec_context.options = {"err_detect": "explode"}
        shown = -1
        for frame in _whole_frames(old, reader, source):
            if writer is None:
                writer = _writer(new, reader, frame, short_side, gop, crf)
                first = min(0, frame.pts)  # an mp4 starts at 0 or later
            tick = round((frame.pts - first) * frame.time_base / TICK)
            if tick <= shown:
                continue
            picture = _resized(frame, writer.width, writer.height)
            picture.pts, picture.time_base, shown = tick, TICK, tick
            new.mux(writer.encode(picture))
        if writer is None:
            raise DecodeError(source, "no frames in it")
        new.mux(writer.encode(None))


def _whole_frames(container: Any, stream: Any, source: Path) -> Iterator[Any]:
    """All frames; a file that was cut off loses its torn last packet, damage before that is an error."""
    torn = False
    for packet in container.demux(stream):
        if torn and packet.size:
            raise DecodeError(source, "a damaged packet")
        torn = torn or packet.is_corrupt
        for frame in () if torn and packet.size else packet.decode():
            if frame.is_corrupt or frame.pts is None:
                raise DecodeError(source, "a damaged frame", frame.time)
            yield frame


def _writer(new: Any, reader: Any, frame: Any, short_side: int, gop: int, crf: int) -> Any:
    width, height = (
        (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)
    )
    scale = min(1.0, short_side / min(width, height))
    writer = new.add_stream("libx264", rate=reader.average_rate or 25)
    writer.width, writer.height = (
        max(2, round(side * scale / 2) * 2) for side in (width, height)
    )  # 4:2:0 is even
    writer.pix_fmt, writer.codec_context.thread_count = "yuv420p", 1
    writer.codec_context.time_base, writer.codec_context.max_b_frames = TICK, 0
    fast = "scenecut=0:cabac=0"  # CAVLC: the same pictures, decoded in 0.6 to 0.75 of the time, 6 to 23 % more bytes
    writer.options = {
        "crf": str(crf),
        "g": str(gop),
        "bf": "0",
        "preset": "medium",
        "x264-params": fast,
    }
    return writer


def _resized(frame: Any, width: int, height: int) -> Any:
    """By way of the RGB that training reads, so that no rotation, colour matrix or range is lost."""
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(upright(frame)), format="rgb24")
    how: dict[str, Any] = {
        "interpolation": "BICUBIC",
        "dst_colorspace": "ITU601",
        "dst_color_range": "MPEG",
        "threads": 1,
    }
    return picture.reformat(width, height, "yuv420p", **how)


def _report(good: list[Found], bad: int) -> str:
    lines = [
        f"{len(good)} good files, {bad} bad; {sum(item.seconds for item in good) / 3600:.2f} hours"
    ]
    lines += _bars("size", Counter(f"{item.width}x{item.height}" for item in good).most_common(8))
    edges = (1, 2, 5, 10, 20, 60, 300, float("inf"))
    durations = Counter(next(edge for edge in edges if item.seconds <= edge) for item in good)
    lines += _bars(
        "seconds", [(f"<= {edge:g}", durations[edge]) for edge in edges if durations[edge]]
    )
    rates = Counter(round(item.frames / item.seconds) if item.seconds else 0 for item in good)
    return "\n".join(
        lines + _bars("frames a second", [(f"{rate}", n) for rate, n in rates.most_common(8)])
    )


def _bars(title: str, counts: Iterable[tuple[str, int]]) -> list[str]:
    counts = list(counts)
    most = max((n for _, n in counts), default=1)
    return [f"{title}:"] + [
        f"  {name:>12} {n:>7} {'#' * round(30 * n / most)}" for name, n in counts
    ]


def _estimate(left: list[Found], short_side: int, workers: int, target: Path) -> str:
    pixels = 0.0
    for item in left:
        scale = min(1.0, short_side / min(item.width, item.height))
        pixels += item.frames * item.width * item.height * scale**2
    hours = pixels / (340 * 256 * SPEED * workers) / 3600
    size, free = pixels * BYTES / 8 / 1e9, shutil.disk_usage(target).free / 1e9
    if size > free:
        raise UserError(
            f"{target} has {free:.1f} GB free and the files take about {size:.1f} GB: free some space."
        )
    return f"{len(left)} files to write: about {hours:.2f} hours with {workers} workers, {size:.2f} of {free:.1f} GB free"


def _copy_list(source: str, root: Path, target: Path) -> None:
    """A csv is copied with the new suffixes, so that --data csv works on the copy."""
    path = Path(source).expanduser()
    if not path.is_file():
        return
    rows, columns = read_table(path)
    column = next(name for name in PATHS if name in columns)
    kept = [row | {column: _target(row[column].strip().replace("\\", "/"))} for _, row in rows]
    text = io.StringIO()
    writer = table.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(row for row in kept if (target / row[column]).exists())
    write_text_whole(target / path.name, text.getvalue())
