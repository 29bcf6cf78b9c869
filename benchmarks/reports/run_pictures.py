"""TensorBoard's event files -> the first, a middle and the last picture of each kind, fit for a page."""

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from benchmarks.reports.page import image

WIDTH = 920  # of a page, pixels
FRAMES = 16  # beside each other at most
HELD = 16  # pictures of a kind in memory: runs may have thousands


class Shot(NamedTuple):
    step: int
    png: bytes


def read(folder: Path) -> dict[str, list[Shot]]:
    """Name -> first, middle and last picture; a start that went on replaces what came after its checkpoint."""
    held: dict[str, dict[int, bytes]] = {}
    for file in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.name):
        for event in _events(file):
            if event.session_log.status == SessionLog.START:
                for shots in held.values():
                    for step in [step for step in shots if step >= event.step]:
                        del shots[step]
            for value in event.summary.value:
                if value.HasField("image"):
                    _hold(
                        held.setdefault(value.tag, {}), event.step, value.image.encoded_image_string
                    )
    return {
        name: [Shot(step, shots[step]) for step in _three(shots)]
        for name, shots in sorted(held.items())
        if shots
    }


def _events(file: Path) -> Iterator[Event]:
    """Records: length, its checksum, event, its checksum. TensorBoard's own reader adds sums up in Python, 100x slower.

    A file that is cut short or damaged ends there.
    """
    with open(file, "rb") as stream:
        size = file.stat().st_size
        while len(head := stream.read(12)) == 12:
            (length,) = struct.unpack("<Q", head[:8])
            if length > size - stream.tell():
                return
            try:
                yield Event.FromString(stream.read(length))
            except DecodeError:
                return
            stream.read(4)


def _hold(shots: dict[int, bytes], step: int, png: bytes) -> None:
    shots[step] = png
    if len(shots) > HELD:  # without the one that is missed least, but never the first or the newest
        steps = sorted(shots)
        del shots[steps[min(range(1, HELD), key=lambda i: steps[i + 1] - steps[i - 1])]]


def _three(shots: dict[int, bytes]) -> list[int]:
    steps = sorted(shots)
    middle = min(steps, key=lambda step: abs(step - (steps[0] + steps[-1]) / 2))
    return sorted({steps[0], middle, steps[-1]})


def figure(shot: Shot, alt: str, frame: int | None = None) -> str:
    """An <img> of readable size: small ones enlarged pixel by pixel, huge ones made smaller.

    `frame`: the pixels of one, where the picture is rows of frames; long rows are then folded.
    """
    try:
        with Image.open(io.BytesIO(shot.png)) as file:
            picture = file.convert("RGB")
    except (OSError, Image.DecompressionBombError):
        return "<p>This picture is damaged.</p>"
    if frame:
        picture = fold(picture, frame)
    width, height = picture.size
    if width > 2 * WIDTH:
        picture = picture.resize(
            (2 * WIDTH, max(1, height * 2 * WIDTH // width)), Image.Resampling.LANCZOS
        )
        return image(_encoded(picture, "jpeg"), alt, form="jpeg")
    times = max(1, min(WIDTH // width, 400 // height, 6))
    more = f' width="{times * width}" class="sharp"' if times > 1 else ""
    return image(_encoded(picture, "png"), alt, more)


def fold(picture: Image.Image, frame: int) -> Image.Image:
    """Rows of more than FRAMES frames in several rows of equal length, and then of fewer clips."""
    width, height = picture.size
    frames, clips = width // frame, height // frame
    if width % frame or height % frame or width <= WIDTH or frames <= FRAMES:
        return picture
    parts = -(-frames // FRAMES)
    each = -(-frames // parts)
    shown = max(1, clips // parts)
    pixels = np.full((shown * parts * frame, each * frame, 3), 255, dtype=np.uint8)
    table = np.asarray(picture)
    for row in range(shown * parts):
        clip, part = divmod(row, parts)
        piece = table[
            clip * frame : (clip + 1) * frame, part * each * frame : (part + 1) * each * frame
        ]
        pixels[row * frame : (row + 1) * frame, : piece.shape[1]] = piece
    return Image.fromarray(pixels)


def _encoded(picture: Image.Image, form: str) -> bytes:
    with io.BytesIO() as file:
        picture.save(file, form, **({"quality": 88} if form == "jpeg" else {"optimize": True}))
        return file.getvalue()
