"""A folder of videos -> the same, fast to read: small, short GOP, no B frames, upright, no sound.

python -m ssvid.data.prepare --source DIR_OR_CSV --out DIR
python -m ssvid.data.prepare --source DIR_OR_CSV --scan_only    # writes nothing, names bad files
Random reads are three to four times faster than from files with a long GOP.
"""

import csv as table
import glob
import io
import os
import shutil
import time
from bisect import bisect_left
from collections import Counter
from fractions import Fraction
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import av
import numpy as np

from ssvid.commands import phrase_next
from ssvid.data import files
from ssvid.data.container import file_address, open_video
from ssvid.data.datasets.csv import PATHS, csv, read_table
from ssvid.data.decode import decode_frames, read, read_span, read_timestamps
from ssvid.data.pictures import is_still
from ssvid.data.preprocess.pool import (
    FileResult,
    check_settings,
    list_bad,
    raise_if_full,
    run_all,
    warn_of_bad,
)
from ssvid.data.quarantine import NAME, Quarantine
from ssvid.data.scan import scan_file
from ssvid.errors import DecodeError, UserError, check_range
from ssvid.files import write_json_whole, write_text_whole
from ssvid.log import log

SETTINGS = "prepare.json"  # in the out folder: the settings of its files
TICK = Fraction(1, 90_000)  # of the written files: fine enough for any rate
# First guesses: 340x256 frames encoded per CPU-second, and bits for a pixel at crf 23.
SPEED, BYTES = 40.0, 0.15
LENGTHS_S = (1, 2, 5, 10, 20, 60, 300, float("inf"))  # groups of the report
Settings = dict[str, Any]  # short_side, gop, crf


def prepare(
    source: str,  # folder of videos, or a csv of them
    # folder for .mp4 files in the same layout; with --scan_only it may be left out
    out: str | None = None,
    *,
    short_side: int = 256,  # pixels; smaller videos keep their size
    gop: int = 12,  # frames between key frames
    crf: int = 23,  # quality of x264, from 18 (large files) to 28 (small files)
    workers: int = 0,  # processes; 0: one for each CPU
    scan_only: bool = False,  # open every file and read its first and last frame; write no video
) -> dict[str, Any]:
    """Scan all files, then re-encode those that are not done. A bad file is listed and left out."""
    check_range(2, 100_000, short_side=short_side)
    check_range(1, 10_000, gop=gop)
    check_range(0, 51, crf=crf)
    check_range(0, 1_000, workers=workers)
    settings: Settings = {"short_side": short_side, "gop": gop, "crf": crf}
    root, paths = _list_sources(source)
    repeated = [name for name, n in Counter(map(_target_name, paths)).items() if n > 1]
    if repeated:
        raise UserError(
            f"{source}: several files would become {repeated[0]}: give them different names."
        )
    target = _open_target(out, root, scan_only)
    if target is not None and not scan_only:
        check_settings(target / SETTINGS, settings)
    workers = workers or len(os.sched_getaffinity(0))
    if target is not None:
        (target / NAME).unlink(missing_ok=True)  # every file is scanned again
    bad = Quarantine(target, len(paths))
    scanned = run_all(partial(_scan, root), paths, workers, "scan")
    with raise_if_full(target or root):
        list_bad(bad, root, scanned)
    good = sorted(file for file in scanned if not file.why)
    log.info(_report(good, len(paths) - len(good)))
    warn_of_bad(bad)
    result: dict[str, Any] = {
        "source": str(source),
        "out": out,
        "files": len(paths),
        "good": len(good),
        "written": 0,
        "kept": 0,
    }
    if target is not None and not scan_only:
        n_unreadable = len(bad)
        result |= _encode_all(root, target, good, bad, workers, settings)
        if len(bad) > n_unreadable:
            warn_of_bad(bad)
        _copy_list(source, target)
        result["next"] = [_phrase_next_step(source, target)]
    return result | {"bad": len(bad), "seconds_of_video": round(_total_seconds(good), 3)}


def _phrase_next_step(source: str, target: Path) -> str:
    """The command that learns from the prepared files."""
    data = "csv" if Path(source).expanduser().is_file() else "folder"
    words = ["--data", data, "--data.root", str(target), "--out", "runs/first"]
    return phrase_next("pretrain", "--objective", "mae", "--preset", "laptop", *words)


def _open_target(out: str | None, root: Path, scan_only: bool) -> Path | None:
    """The folder of --out; None if a scan has none."""
    if out is None:
        if scan_only:
            return None
        raise UserError("--out is missing: name a folder for the videos, or give --scan_only.")
    target = Path(out).expanduser()
    if target.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"--out {out} lies in the source, and would be read as part of it: name another folder."
        )
    target.mkdir(parents=True, exist_ok=True)
    return target


def _total_seconds(videos: list[FileResult]) -> float:
    return sum(video.seconds for video in videos)


def _list_sources(source: str) -> tuple[Path, list[str]]:
    """The root folder, and the paths of the videos below it."""
    path = Path(source).expanduser()
    if path.is_file():
        listed = csv(str(path))
        paths = sorted(row.path for row in listed.rows)
        for row in listed.rows:
            # Below --out a path through a link and `..` would lead to another place.
            if row.path.startswith("/") or ".." in PurePosixPath(row.path).parts:
                raise UserError(
                    f"{path}: {row.path} leaves the list's folder, so it cannot be written below "
                    "--out: list it by its path without `..`."
                )
        return listed.root, paths
    contents = files.list_contents(files.need_folder(path, "--source"))
    files.log_skipped_files(path, contents.suffixes, files.VIDEO_SUFFIXES)
    if not contents.videos:
        raise UserError(f"{path} holds no video files: check --source.")
    return path, contents.videos


def _target_name(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(".mp4"))


def _scan(root: Path, path: str) -> FileResult:
    """Count the frames, decode the first and the last one, and look at the bytes of all."""
    try:
        span, table = read_span(root / path), read_timestamps(root / path)
        picture = read(root / path, [table[0], table[-1]])
        if not is_still(path) and scan_file(root / path).find_damage_inside():
            raise DecodeError(root / path, "a damaged packet")
    except DecodeError as error:
        return FileResult(path, error.why, error.time)
    height, width = picture.shape[2:]
    return FileResult(path, "", None, width, height, len(table), span.end - span.start)


def _encode_all(
    root: Path,
    target: Path,
    good: list[FileResult],
    bad: Quarantine,
    workers: int,
    settings: Settings,
) -> dict[str, Any]:
    """Encode the good files that are not done, and add those that fail to `bad`."""
    left = [file for file in good if not _is_done(root, target, file.path)]
    log.info(_estimate(left, settings["short_side"], workers, target))
    # After the estimate, so that a refused run leaves no file of settings.
    write_json_whole(target / SETTINGS, settings)
    began = time.monotonic()
    encode = partial(_encode, root, target, **settings)
    encoded = run_all(encode, [file.path for file in left], workers, "encode")
    with raise_if_full(target):
        list_bad(bad, root, encoded)
    return {
        "written": sum(not file.why for file in encoded),
        "kept": len(good) - len(left),
        "seconds": round(time.monotonic() - began, 3),
    }


def _is_done(root: Path, target: Path, path: str) -> bool:
    """Whether the file is encoded, and the source has not changed since."""
    source, encoded = root / path, target / _target_name(path)
    return encoded.exists() and encoded.stat().st_mtime_ns == source.stat().st_mtime_ns


def _encode(
    root: Path, target: Path, path: str, *, short_side: int, gop: int, crf: int
) -> FileResult:
    final = target / _target_name(path)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        with raise_if_full(target):
            final.parent.mkdir(parents=True, exist_ok=True)
            _transcode(root / path, temporary, short_side, gop, crf)
            modified_ns = os.stat(root / path).st_mtime_ns
            os.utime(temporary, ns=(modified_ns, modified_ns))  # see _is_done
        os.replace(temporary, final)
        for left in final.parent.glob(f".{glob.escape(final.name)}.*.part"):
            left.unlink(missing_ok=True)  # a run that was killed has left it
    except (av.FFmpegError, DecodeError, ValueError, OSError) as error:
        why = error.why if isinstance(error, DecodeError) else str(error) or type(error).__name__
        return FileResult(path, why)
    finally:
        temporary.unlink(missing_ok=True)
    return FileResult(path)


def _transcode(source: Path, target: Path, short_side: int, gop: int, crf: int) -> None:
    """Write the frames of a file at their times, so that seconds count from the same start.

    Without the sound a file would begin with its first frame: where that comes later, it is written
    a second time, at the very start. The last frame lasts as long as it did.
    """
    if is_still(source):
        raise DecodeError(source, "it is a picture, which needs no preparing")
    table, span = scan_file(source), read_span(source)
    with open_video(source) as old:
        rate = old.streams[table.stream].average_rate or 25
    writer, packets, left = None, [], set(table.pts.tolist())
    zero = min(0.0, span.start)  # an mp4 cannot start before 0
    with av.open(file_address(target), "w", format="mp4") as new:
        for pts, decoded in decode_frames(source, table, frozenset()):
            if pts is None or pts not in left:
                continue
            left.remove(pts)
            picture, time = decoded.show(), float(table.times[np.searchsorted(table.pts, pts)])
            if writer is None:
                writer = _add_video_stream(new, rate, picture, short_side, gop, crf)
                if time > span.start:
                    packets += _encode_picture(writer, picture, span.start - zero)
            packets += _encode_picture(writer, picture, time - zero)
            while len(packets) > 1:
                new.mux(packets.pop(0))
            if not left:
                break  # a torn packet of a truncated file may follow
        if writer is None or left:
            raise DecodeError(source, "the decoder does not give every frame")
        packets += writer.encode(None)
        packets[-1].duration = round((span.end - table.times[-1]) / float(TICK))
        new.mux(packets)


def _add_video_stream(
    output: Any, rate: Fraction | int, picture: np.ndarray, short_side: int, gop: int, crf: int
) -> Any:
    """Add to the output the h264 stream that holds the frames of a file.

    `picture`: the first frame, whose sides decide the size of the stream. `rate`: frames a second.
    """
    height, width = picture.shape[:2]
    scale = min(1.0, short_side / min(width, height))
    writer = output.add_stream("libx264", rate=rate)
    # yuv420p stores one colour for each square of 2 x 2 pixels, so width and height must be even.
    writer.width = max(2, round(width * scale / 2) * 2)
    writer.height = max(2, round(height * scale / 2) * 2)
    writer.pix_fmt, writer.codec_context.thread_count = "yuv420p", 1
    writer.codec_context.time_base, writer.codec_context.max_b_frames = TICK, 0
    # Training reads each file many times, so fast decoding matters more than size. cabac=0 has x264
    # write the same pictures with the simpler code CAVLC. Decoding then takes 0.6 to 0.75 of the
    # time, and the file is 6 to 23 % larger.
    options = {"crf": str(crf), "g": str(gop), "bf": "0", "preset": "medium"}
    writer.options = {**options, "x264-params": "scenecut=0:cabac=0"}
    return writer


def _encode_picture(writer: Any, picture: np.ndarray, time: float) -> Any:
    """Packets of a picture that is shown from `time` (seconds) on.

    It is made from the RGB that training reads, so no rotation, colour matrix or range is lost.
    """
    colours: dict[str, Any] = {
        "interpolation": "BICUBIC",
        "dst_colorspace": "ITU601",
        "dst_color_range": "MPEG",
        "threads": 1,
    }
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    frame = frame.reformat(writer.width, writer.height, "yuv420p", **colours)
    frame.pts, frame.time_base = round(time / float(TICK)), TICK
    return writer.encode(frame)


def _report(good: list[FileResult], bad: int) -> str:
    """Sizes, lengths and frame rates of the good files, as bars of text."""
    hours = _total_seconds(good) / 3600
    sizes: Counter[str] = Counter()
    lengths: Counter[float] = Counter()
    rates: Counter[str] = Counter()
    for video in good:
        sizes[f"{video.width}x{video.height}"] += 1
        lengths[LENGTHS_S[bisect_left(LENGTHS_S, video.seconds)]] += 1
        rates[str(round(video.frames / video.seconds) if video.seconds else 0)] += 1
    counts_of_length = [(f"<= {limit:g}", lengths[limit]) for limit in sorted(lengths)]
    lines = [f"{len(good)} good files, {bad} bad; {hours:.2f} hours"]
    lines += _bars("size", sizes.most_common(8))
    lines += _bars("seconds", counts_of_length)
    lines += _bars("frames a second", rates.most_common(8))
    return "\n".join(lines)


def _bars(title: str, counts: list[tuple[str, int]]) -> list[str]:
    most = max((n for _, n in counts), default=1)
    bars = [f"  {name:>12} {n:>7} {'#' * round(30 * n / most)}" for name, n in counts]
    return [f"{title}:", *bars]


def _estimate(left: list[FileResult], short_side: int, workers: int, target: Path) -> str:
    """Time and space that the files take, in words. A UserError if the disk has too little."""
    pixels = 0.0
    for video in left:
        scale = min(1.0, short_side / min(video.width, video.height))
        pixels += video.frames * video.width * video.height * scale**2
    hours = pixels / (340 * 256 * SPEED * workers) / 3600
    size, free = pixels * BYTES / 8 / 1e9, shutil.disk_usage(target).free / 1e9
    if size > free:
        raise UserError(
            f"{target} has {free:.1f} GB free and the files take about {size:.1f} GB: free some "
            "space."
        )
    return (
        f"{len(left)} files to write: about {hours:.2f} hours with {workers} workers, {size:.2f} "
        f"of {free:.1f} GB free"
    )


def _copy_list(source: str, target: Path) -> None:
    """Copy a csv with the new suffixes, so that --data csv works on the copy."""
    path = Path(source).expanduser()
    if not path.is_file():
        return
    rows, columns = read_table(path)
    column = next(name for name in PATHS if name in columns)
    text = io.StringIO()
    writer = table.DictWriter(text, columns)
    writer.writeheader()
    for _, row in rows:
        name = _target_name(row[column].strip().replace("\\", "/"))
        name = files.spell_as_on_disk(target, name)
        if (target / name).exists():
            writer.writerow({**row, column: name})
    write_text_whole(target / path.name, text.getvalue())
