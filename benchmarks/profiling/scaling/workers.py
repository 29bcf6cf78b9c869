"""Files of three kinds -> clips per CPU-second of a loader worker, and so the workers that a GPU
wants.

`SSVID_SPEED_VIDEOS=DIR[:DIR ...]` adds folders of videos to the films of our own making, by the
folder's name.
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

from benchmarks.profiling.speed.clips import OWN, TAKEN, VIEWS, film
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


def decoded() -> Iterator[dict[str, Any]]:
    """16 frames of 224 pixels, 4 apart, from a random start, resized and cut; stamps are read once
    a file.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        made = place / "made"
        made.mkdir()
        for i in range(FILMS):
            film(made / f"{i}.mp4", seed=i)
        own = [Path(path) for path in os.environ.get(OWN, "").split(":") if path]
        for source in (made, *own):
            yield line_of(
                source.parent.name if source.name == "videos" else source.name, source, place
            )


def line_of(name: str, source: Path, place: Path) -> dict[str, Any]:
    here = place / "set" / name
    (here / "original").mkdir(parents=True)
    found = files.list_videos(source)
    chosen = found[:: max(1, len(found) // TAKEN)][:TAKEN]
    for i, path in enumerate(chosen):
        (here / "original" / f"{i}{Path(path).suffix}").symlink_to((source / path).resolve())
        as_jpegs(source / path, here / "jpegs" / str(i))
    prepare(str(here / "original"), str(here / "prepared"), workers=1)
    sides = [clips_of(folder(str(here / kind))) for kind in KINDS[:2]]
    sides.append(clips_of(frames(str(here / "jpegs"), fps=FPS)))
    read = measure_in_turn([partial(take, side) for side in sides], cpu_seconds, 1 + ROUNDS)
    costs = [
        statistics.median(side) for side in zip(*read[1:], strict=True)
    ]  # the first reads the tables
    rates = {kind: round(TAKEN / cost, 1) for kind, cost in zip(KINDS, costs, strict=True)}
    sizes = {kind: size(here / kind) for kind in KINDS}
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


def clips_of(data: Manifest) -> Iterator[Any]:
    clips, epoch = Clips(data, VIEWS, seed=0), 0
    while True:
        yield from (clips[epoch, row] for row in range(len(data)))
        epoch += 1


def take(clips: Iterator[Any]) -> list[Any]:
    return list(islice(clips, TAKEN))


def as_jpegs(path: Path, out: Path) -> None:
    """Every frame, of its own size."""
    out.mkdir(parents=True)
    with av.open(str(path)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            Image.fromarray(frame.to_ndarray(format="rgb24")).save(
                out / f"{i:05d}.jpg", quality=QUALITY
            )


def size(place: Path) -> int:
    return sum(
        path.stat().st_size
        for path in place.rglob("*")
        if path.is_file() and path.suffix != ".json"
    )
