"""Video files of three kinds -> clips per CPU-second of a loader worker.

From this rate the study derives how many workers a GPU needs. `SSVID_SPEED_VIDEOS=DIR[:DIR ...]`
adds folders of videos to the synthetic ones; each is listed by its folder's name.
"""

import os
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import av
import torch
from PIL import Image

from benchmarks.profiling.speed.clips import TAKEN, VIDEOS, VIEWS, write_film
from benchmarks.profiling.speed.pairs import measure_in_turn
from ssvid.data import files
from ssvid.data.clips import Clips
from ssvid.data.datasets.folder import folder
from ssvid.data.datasets.frames import frames
from ssvid.data.manifest import Manifest
from ssvid.data.preprocess.prepare import prepare
from ssvid.engine.features import cpu_seconds

FILMS, ROUNDS, QUALITY, FPS = 4, 5, 90, 25.0
KINDS = ("original", "prepared", "jpegs")


def measure_decoding() -> Iterator[dict[str, Any]]:
    """A line for each folder of videos.

    A clip is 16 frames of 224 pixels, 4 apart, from a random start, resized and cut. Time stamps
    are read once a file.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        synthetic = work / "made"  # the name of its line
        synthetic.mkdir()
        for i in range(FILMS):
            write_film(synthetic / f"{i}.mp4", seed=i)
        folders = list(map(Path, filter(None, os.environ.get(VIDEOS, "").split(":"))))
        for source in (synthetic, *folders):
            label = source.parent.name if source.name == "videos" else source.name
            yield measure_folder(label, source, work)


def measure_folder(name: str, source: Path, work: Path) -> dict[str, Any]:
    """Makes the three kinds of files of up to TAKEN videos, and measures each."""
    out = work / "set" / name
    (out / "original").mkdir(parents=True)
    videos = files.list_videos(source)
    chosen = videos[:: max(1, len(videos) // TAKEN)][:TAKEN]
    for i, path in enumerate(chosen):
        (out / "original" / f"{i}{Path(path).suffix}").symlink_to((source / path).resolve())
        write_jpegs(source / path, out / "jpegs" / str(i))
    prepare(str(out / "original"), str(out / "prepared"), workers=1)
    sides = [load_clips(folder(str(out / kind))) for kind in KINDS[:2]]
    sides.append(load_clips(frames(str(out / "jpegs"), fps=FPS)))
    take_turns = [partial(take, side) for side in sides]
    rounds = measure_in_turn(take_turns, cpu_seconds, 1 + ROUNDS)
    rates, sizes = {}, {}
    # The first round is left out, because it reads the tables of time stamps.
    for kind, costs in zip(KINDS, zip(*rounds[1:], strict=True), strict=True):
        rates[kind] = round(TAKEN / statistics.median(costs), 1)
        sizes[kind] = count_bytes(out / kind)
    with av.open(str(source / chosen[0])) as container:
        stream = container.streams.video[0]
        picture = f"{stream.codec_context.name} {stream.width}x{stream.height}"
    return {
        "part": "decode",
        "name": name,
        "first": picture,
        "files": len(chosen),
        "rates": rates,
        "bytes": sizes,
    }


def load_clips(data: Manifest) -> Iterator[Any]:
    """The clips of all files, epoch after epoch."""
    clips, epoch = Clips(data, VIEWS, seed=0), 0
    while True:
        for row in range(len(data)):
            yield clips[epoch, row]
        epoch += 1


def take(clips: Iterator[Any]) -> list[Any]:
    return list(islice(clips, TAKEN))


def write_jpegs(path: Path, out: Path) -> None:
    """Writes every frame of a video as a JPEG of the frame's size."""
    out.mkdir(parents=True)
    with av.open(str(path)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            Image.fromarray(frame.to_ndarray(format="rgb24")).save(
                out / f"{i:05d}.jpg", quality=QUALITY
            )


def count_bytes(root: Path) -> int:
    """Bytes of all files below a folder, without JSON files."""
    total = 0
    for path in root.rglob("*"):
        if path.is_file() and path.suffix != ".json":
            total += path.stat().st_size
    return total
