"""TensorBoard's event files -> the first, a middle and the last picture of each kind."""

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from benchmarks.reports.page import Picture, make_picture

WIDTH = 920  # of a page, pixels
FRAMES = 16  # beside each other at most
HELD = 16  # pictures of a kind in memory: runs may have thousands
HALF_FRAMES = 6  # a row of more takes half of the page's width
BROAD, BROAD_FRAMES = 600, 10  # pixels and frames: a wider picture has the page's width for itself
ROW_NAMES = {  # picture -> names of its rows
    "reconstruction": ("clip", "visible to the encoder", "predicted", "error"),
    "grad_cam": ("clip", "heat"),
}


class Shot(NamedTuple):
    """A picture as it was logged."""

    step: int
    png: bytes


class ShownPicture(NamedTuple):
    """A picture as the page shows it."""

    step: int
    picture: Picture | None  # None: it is damaged
    rows: list[str]  # names of its rows, from above; empty: none has a name
    broad: bool  # it takes the whole width
    half: bool = False  # it takes half of it


def read_pictures(folder: Path) -> dict[str, list[Shot]]:
    """Name -> first, middle and last picture.

    A start that went on from a checkpoint replaces what came after that checkpoint.
    """
    shots_of_name: dict[str, dict[int, bytes]] = {}
    for file in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.name):
        for event in _read_events(file):
            if event.session_log.status == SessionLog.START:
                _drop_from(shots_of_name, event.step)
            for value in event.summary.value:
                if value.HasField("image"):
                    shots = shots_of_name.setdefault(value.tag, {})
                    _hold(shots, event.step, value.image.encoded_image_string)
    pictures = {}
    for name, shots in sorted(shots_of_name.items()):
        if shots:
            pictures[name] = [Shot(step, shots[step]) for step in _three_steps(shots)]
    return pictures


def _drop_from(shots_of_name: dict[str, dict[int, bytes]], step: int) -> None:
    for name, shots in shots_of_name.items():
        shots_of_name[name] = {s: png for s, png in shots.items() if s < step}


def _read_events(file: Path) -> Iterator[Event]:
    """Records: length, its checksum, event, its checksum.

    TensorBoard's own reader adds the sums up in Python and is 100 times slower. A file that is cut
    short or damaged ends there.
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
    """Add a shot. Of too many the one that is missed least goes, never the first or the newest."""
    shots[step] = png
    if len(shots) > HELD:
        steps = sorted(shots)
        del shots[steps[min(range(1, HELD), key=lambda i: steps[i + 1] - steps[i - 1])]]


def _three_steps(shots: dict[int, bytes]) -> list[int]:
    steps = sorted(shots)
    middle = min(steps, key=lambda step: abs(step - (steps[0] + steps[-1]) / 2))
    return sorted({steps[0], middle, steps[-1]})


def show_picture(name: str, shot: Shot, frame: int | None) -> ShownPicture:
    """Of readable size: small ones enlarged pixel by pixel, huge ones made smaller.

    `frame`: pixels of a frame's side, where the picture is rows of frames. Then small gaps stand
    between the frames, and rows that are too long run over several lines.
    """
    alt = f"{name} at step {shot.step}"
    try:
        with Image.open(io.BytesIO(shot.png)) as file:
            image = file.convert("RGB")
    except (OSError, Image.DecompressionBombError):
        return ShownPicture(shot.step, None, [], False)
    rows, broad, half = list(ROW_NAMES.get(name, ())), image.width > BROAD, False
    if rows:
        frame = image.height // len(rows) if image.height % len(rows) == 0 else None
    if frame and _has_frames(image, frame):
        frames = cut_frames(image, frame)
        lines = rows_to_lines(frames) if rows else clips_to_lines(frames)
        rows *= len(lines) // len(rows) if rows else 1
        broad = len(lines[0]) > BROAD_FRAMES
        half = HALF_FRAMES < len(lines[0]) <= BROAD_FRAMES
        image = join_frames(lines, gap=max(1, frame // 32))
    else:
        rows = []
    return ShownPicture(shot.step, fit_picture(image, alt), rows, broad, half)


def fit_picture(image: Image.Image, alt: str) -> Picture:
    width, height = image.size
    if width > 2 * WIDTH:
        small = (2 * WIDTH, max(1, height * 2 * WIDTH // width))
        return make_picture(
            encode_image(image.resize(small, Image.Resampling.LANCZOS), "jpeg"), alt, "jpeg"
        )
    times = max(1, min(WIDTH // width, 400 // height, 6))
    png = encode_image(image, "png")
    if times == 1:
        return make_picture(png, alt)
    return make_picture(png, alt, width=times * width, pixelated=True)


def _has_frames(image: Image.Image, frame: int) -> bool:
    return image.width % frame == 0 and image.height % frame == 0


def cut_frames(image: Image.Image, frame: int) -> np.ndarray:
    """Picture of rows of square frames -> R T frame frame 3."""
    table = np.asarray(image)
    rows, frames = image.height // frame, image.width // frame
    return table.reshape(rows, frame, frames, frame, 3).swapaxes(1, 2)


def lines_of(frames: int) -> tuple[int, int]:
    """Lines that a row of so many frames runs over, and the frames of each."""
    lines = -(-frames // FRAMES)
    return lines, -(-frames // lines)


def clips_to_lines(frames: np.ndarray) -> list[np.ndarray]:
    """Rows are clips. A long one runs over several lines; then fewer clips are shown."""
    lines, length = lines_of(frames.shape[1])
    shown = []
    for clip in frames[: max(1, len(frames) // lines)]:
        for start in range(0, lines * length, length):
            line = clip[start : start + length]
            shown.append(line)
    return shown


def rows_to_lines(frames: np.ndarray) -> list[np.ndarray]:
    """Rows show the same frames in several ways, and stay below each other in every line."""
    lines, length = lines_of(frames.shape[1])
    shown = []
    for start in range(0, lines * length, length):
        shown += list(frames[:, start : start + length])
    return shown


def join_frames(lines: list[np.ndarray], gap: int) -> Image.Image:
    """Lines of frames (T side side 3), white where a line is shorter and between frames."""
    side, longest = lines[0].shape[1], max(len(line) for line in lines)
    step = side + gap
    height, width = len(lines) * step - gap, longest * step - gap
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    for y, line in enumerate(lines):
        for x, frame in enumerate(line):
            pixels[y * step : y * step + side, x * step : x * step + side] = frame
    return Image.fromarray(pixels)


def encode_image(image: Image.Image, kind: str) -> bytes:
    options = {"quality": 88} if kind == "jpeg" else {"optimize": True}
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()
