"""Helper: seeded damage to small files, and how often a read gives a wrong picture in silence.

`python -m tests.data.campaign` prints a line for every kind of file: the table of
docs/guides/decoding.md. `python -m tests.data.campaign KIND FILES` prints the counts of one kind.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch

from ssvid.data.decode import read, read_timestamps
from ssvid.errors import DecodeError
from tests.data.kinds import TICK

FRAMES, READS = 60, 12  # frames of a file, and how many of them are read
FAR = 2.0  # grey levels, on average: a picture that is farther from the sound one is wrong
LIMIT_S = 300  # for all files of one kind; a minute is usual
FILES = 32  # of each kind
X264 = {"preset": "fast", "g": "20"}
SOURCES: dict[str, tuple[str, str, dict[str, str]]] = {  # kind: file, codec, options
    "h264.mp4": ("a.mp4", "libx264", X264),
    "h264_cavlc.mp4": ("a.mp4", "libx264", {**X264, "coder": "0", "bf": "0"}),
    "h264.mkv": ("a.mkv", "libx264", X264),
    "h264.ts": ("a.ts", "libx264", X264),
    "hevc.mp4": ("a.mp4", "libx265", {"x265-params": "log-level=none:keyint=20:pools=none"}),
    "vp9.webm": ("a.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "20"}),
    "vp8.webm": ("a.webm", "libvpx", {"deadline": "realtime", "cpu-used": "8", "g": "20"}),
    "av1.mkv": ("a.mkv", "libsvtav1", {"preset": "12", "g": "20", "svtav1-params": "lp=1"}),
    "mpeg4.avi": ("a.avi", "mpeg4", {"g": "20", "b": "600k"}),
    "mpeg2.mpg": ("a.mpg", "mpeg2video", {"g": "20", "bf": "2", "b": "900k"}),
}


class Counts(NamedTuple):
    files: int
    refused: int  # files of which no frame can be read
    frames: int  # that were read
    errors: int
    held: int  # an earlier frame is shown, since the frame itself is lost from the file
    wrong: int  # frames that are wrong without an error
    wrong_of_zeros: int  # the same, where the damage is a row of zeros
    wrong_files: int


def write_source(path: Path, codec: str, options: dict[str, str]) -> None:
    """A texture that drifts, under noise, so that nearly every byte matters."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, width=160, height=120)
        stream.pix_fmt, stream.options = "yuv420p", options
        stream.codec_context.thread_count = 1
        for i in range(FRAMES):
            shown = texture[i : i + 120, 2 * i // 2 : 2 * i // 2 + 160].astype(np.int16)
            noisy = (shown + rng.integers(-8, 9, shown.shape)).clip(0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(noisy, format="rgb24")
            frame.pts, frame.time_base = i, TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_zeros(data: bytearray, first: int, rng: np.random.Generator) -> None:
    end = min(len(data), first + int(rng.choice([16, 64, 256, 1024])))
    data[first:end] = bytes(end - first)


def write_noise(data: bytearray, first: int, rng: np.random.Generator) -> None:
    end = min(len(data), first + 16)
    data[first:end] = rng.bytes(end - first)


def flip_bit(data: bytearray, first: int, rng: np.random.Generator) -> None:
    data[first] ^= 1 << int(rng.integers(8))


def delete_bytes(data: bytearray, first: int, rng: np.random.Generator) -> None:
    del data[first : first + int(rng.integers(1, 300))]


def cut_file(data: bytearray, first: int, rng: np.random.Generator) -> None:
    del data[first:]


FAULTS: tuple[Callable[[bytearray, int, np.random.Generator], None], ...] = (
    write_zeros,
    write_noise,
    flip_bit,
    delete_bytes,
    write_zeros,
    cut_file,
)


def count_faults(kind: str, files: int) -> Counts:
    """Damage files of a kind, one fault each, and read some frames of each alone."""
    name, codec, options = SOURCES[kind]
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / name
        write_source(sound, codec, options)
        times = read_timestamps(sound)
        pictures = read(sound, times).float()
        chosen = range(0, FRAMES, FRAMES // READS)
        for seed in range(files):
            data, rng = bytearray(sound.read_bytes()), np.random.default_rng(seed)
            fault = FAULTS[seed % len(FAULTS)]
            fault(data, int(rng.integers(len(data) // 50, len(data))), rng)
            path = sound.with_stem(f"damaged{seed}")
            path.write_bytes(data)
            results = Counter(read_result(path, times[i], pictures[: i + 1]) for i in chosen)
            path.unlink()
            counts += results
            counts["refused"] += results["errors"] == READS
            counts["wrong_files"] += results["wrong"] > 0
            counts["wrong_of_zeros"] += results["wrong"] if fault is write_zeros else 0
    counts["files"], counts["frames"] = files, files * READS
    return Counts(*(counts[name] for name in Counts._fields))


def read_result(path: Path, time: float, sound: torch.Tensor) -> str:
    """`sound`: the pictures of the sound file up to this time."""
    try:
        picture = read(path, [time])[0]
    except DecodeError:
        return "errors"
    if picture.shape != sound.shape[1:]:
        return "wrong"
    is_near = (picture.float() - sound).abs().mean((1, 2, 3)) <= FAR  # T
    if is_near[-1]:
        return "right"
    return "held" if is_near.any() else "wrong"


def run_campaign(kind: str, files: int) -> Counts:
    """The counts of a kind, from a process of its own: a crash or a hang is an error here."""
    argv = [sys.executable, "-m", "tests.data.campaign", kind, str(files)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    return Counts(**json.loads(done.stdout.splitlines()[-1]))


def describe(kind: str, counts: Counts) -> str:
    fields: list[Any] = [kind, *counts]
    return f"| {' | '.join(map(str, fields))} |"


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(count_faults(sys.argv[1], int(sys.argv[2]))._asdict()))
    else:
        print(f"| kind | {' | '.join(Counts._fields)} |")
        for source in SOURCES:
            print(describe(source, run_campaign(source, FILES)), flush=True)
