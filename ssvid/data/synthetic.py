"""(label, index, seed) -> a clip of one moving shape -> real .mp4 files.

This is the only file that draws videos. A shape goes on a tour, which is a closed loop of acts: it
crosses the picture and enters again at the other edge, goes round on a circle, turns through its
symmetry, or grows and starts again. The label says in which direction each act goes. An act that is
played backwards shows the same pictures, so the set of frames of a tour is the same for every
label. Position, angle and size are uniform at the start and therefore at every frame, whatever the
label. So only the order of the frames reveals the label.

Every frame is a key frame of the same quality; otherwise the errors of the codec would trail behind
the shape and reveal its past. The quality is high and colour is not subsampled, because a target
that is normalised patch by patch makes the noise of the codec large.
"""

import csv
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from ssvid.errors import UserError
from ssvid.files import locked, read_json
from ssvid.progress import progress_bar
from ssvid.randomness import uniform
from ssvid.shapes import Row

# Index of the first clip of a split. A larger set extends a smaller one.
SPLITS = {"train": 0, "val": 10**6, "test": 2 * 10**6}
WAVES = ((1, 0), (0, 1), (1, 1), (1, -1), (2, 0), (0, 2))  # of the background, cycles per picture
# Fraction of the picture. From small or fast shapes a masked autoencoder learns little in minutes.
RADIUS = (0.3, 0.36)
DRAWS = 40  # uniforms of a clip
WAVE = 0.12  # height of each wave; the waves make the features of an untrained encoder poor
# A shape is darker at its rim: in a flat patch only the rounding of the codec could be predicted.
SHADE = 0.4
ORBIT = 0.2  # radius, as a fraction of the picture
VERSION = 3  # of the pictures; sets of another version are drawn again
STAMP, LIST = "set.json", "manifest.csv"

# x, y, radius -> signed distance to the outline, negative inside.
Outline = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
# Number of rotations that map the shape onto itself, and its outline.
SHAPES: tuple[tuple[int, Outline], ...] = (
    (4, lambda x, y, r: np.maximum(abs(x), abs(y)) - 0.86 * r),  # square
    (3, lambda x, y, r: np.maximum(abs(x) * 3**0.5 / 2 - y / 2, y) - 0.6 * r),  # triangle
    (5, lambda x, y, r: np.hypot(x, y) - r * (0.8 + 0.3 * np.cos(5 * np.arctan2(y, x)))),  # star
    (2, lambda x, y, r: np.maximum(abs(x) - 1.15 * r, abs(y) - 0.5 * r)),  # bar
)


class Act(NamedTuple):
    """One part of a tour. It is closed: at progress 1 everything is as it was at 0."""

    frames: int
    ways: tuple[str, str]  # names of the directions: forwards, backwards
    # progress in [0, 1), a uniform -> change of x, y, turn and shrinkage since the start of the act
    path: Callable[[np.ndarray, float], tuple[np.ndarray | float, ...]]


def _orbit(progress: np.ndarray, u: float) -> tuple[np.ndarray | float, ...]:
    angle = 2 * math.pi * (u + progress)
    first_angle = 2 * math.pi * u
    dx = ORBIT * (np.cos(angle) - math.cos(first_angle))
    dy = ORBIT * (np.sin(angle) - math.sin(first_angle))
    return dx, dy, 0.0, 0.0


# across and along hop by a third of the picture: what one place shows tells an untrained encoder
# little about such a long step. spin turns once through the symmetry of the shape.
ACTS = {
    "across": Act(3, ("right", "left"), lambda progress, u: (progress, 0.0, 0.0, 0.0)),
    "along": Act(3, ("down", "up"), lambda progress, u: (0.0, progress, 0.0, 0.0)),
    "orbit": Act(6, ("round", "back"), _orbit),
    "spin": Act(4, ("cw", "ccw"), lambda progress, u: (0.0, 0.0, progress, 0.0)),
    "grow": Act(4, ("shrink", "grow"), lambda progress, u: (0.0, 0.0, 0.0, progress)),
}


def list_motions(acts: Sequence[str]) -> tuple[str, ...]:
    """The labels of a set: each names a direction for every act.

    Raises a UserError if an act is unknown.
    """
    unknown = [act for act in acts if act not in ACTS]
    if unknown or not acts:
        raise UserError(f"There is no act {unknown}: a tour is made of {', '.join(ACTS)}.")
    ways = [ACTS[act].ways for act in acts]
    return tuple(map("_".join, itertools.product(*ways)))


def tour_frames(acts: Sequence[str]) -> int:
    """Frames of a whole tour."""
    return sum(ACTS[act].frames for act in acts)


def draw_clip(
    label: int, index: int, seed: int, *, acts: Sequence[str], frames: int, size: int
) -> np.ndarray:
    """uint8 `T H W 3`. All but the directions of the acts depends on (seed, index) alone."""
    u = uniform(seed, "synthetic", 0, index, DRAWS)[0].numpy()
    path = _tour(label, acts, u[30])
    tour = path.shape[1]
    x, y, turn, shrinkage = path[:, : min(frames, tour)]
    shrinkage = (u[0] + shrinkage) % 1 if "grow" in acts else np.zeros_like(turn)
    symmetry, outline = SHAPES[int(u[3] * len(SHAPES))]
    radius = (RADIUS[0] + (RADIUS[1] - RADIUS[0]) * u[4]) * (
        1 - 0.5 * shrinkage.astype(np.float32)
    )[:, None, None]
    angle = 2 * math.pi * (u[5] + turn / symmetry)
    ground = draw_background(size, u[9:])
    colour = hue_to_rgb(u[6], 0.1 + 0.6 * u[7], 0.85 + 0.15 * u[8])
    clip = paint(ground, outline, colour, u[1] + x, u[2] + y, angle, radius)
    return clip[np.arange(frames) % tour]


def paint(
    ground: np.ndarray,  # H W 3
    outline: Outline,
    colour: np.ndarray,  # 3
    x: np.ndarray,  # T, as a fraction of the picture; so is y
    y: np.ndarray,
    angle: np.ndarray,  # T
    radius: np.ndarray,  # T 1 1, as a fraction of the picture
) -> np.ndarray:
    """uint8 `T H W 3`: one shape, darker at its rim, on a picture whose edges are joined."""
    size = len(ground)
    grid = ((np.arange(size) + 0.5) / size).astype(np.float32)
    dx = (grid - x[:, None] + 0.5) % 1 - 0.5  # T W, around the shape's centre
    dy = (grid - y[:, None] + 0.5) % 1 - 0.5  # T H
    dx, dy = dx[:, None, :].astype(np.float32), dy[:, :, None].astype(np.float32)
    cos, sin = (f(angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    inside = (0.5 - size * outline(cos * dx + sin * dy, cos * dy - sin * dx, radius)).clip(0, 1)[
        ..., None
    ]  # T H W 1
    shade = 1 - SHADE * ((dx / radius) ** 2 + (dy / radius) ** 2)[..., None]  # T H W 1
    return ((ground + inside * (colour * shade - ground)).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _tour(label: int, acts: Sequence[str], u: float) -> np.ndarray:
    """Changes since the start at each frame of a tour, `4 T`.

    They are of x and y (fractions of the picture), of the turn (in symmetries) and of shrinkage.
    """
    paths = []
    for i, name in enumerate(acts):
        act = ACTS[name]
        way = -1 if label >> (len(acts) - 1 - i) & 1 else 1  # in the order of list_motions()
        progress = way * np.arange(act.frames) / act.frames
        paths.append(np.stack(np.broadcast_arrays(progress, *act.path(progress, u))[1:]))
    return np.concatenate(paths, axis=1)


def draw_background(size: int, u: np.ndarray) -> np.ndarray:
    """A few long waves over a dark colour: H W 3. `u`: 15 uniforms."""
    grid = ((np.arange(size) + 0.5) / size).astype(np.float32)
    ground = np.broadcast_to(hue_to_rgb(u[0], 0.5 * u[1], 0.2 + 0.25 * u[2]), (size, size, 3))
    for (across, along), phase, hue in zip(WAVES, u[3:9], u[9:15], strict=True):
        wave = np.cos(2 * math.pi * (across * grid[None, :] + along * grid[:, None] + phase))
        colour = hue_to_rgb(hue, 0.6, 1.0) - 0.3
        ground = ground + WAVE * wave[..., None].astype(np.float32) * colour
    return ground


def hue_to_rgb(turns: float, saturation: float, value: float) -> np.ndarray:
    """Red, green and blue, float32. `turns`: the hue, in turns of the colour circle."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * turns) % 6
    return (value - value * saturation * np.minimum(k, 4 - k).clip(0, 1)).astype(np.float32)


def write_set(
    root: Path,
    *,
    train: int,
    val: int,
    test: int,
    acts: Sequence[str],
    frames: int,
    size: int,
    fps: int,
    seed: int,
) -> None:
    """Write the videos, `manifest.csv` and, last, a stamp of the settings.

    Nothing is done if the stamp is there already. Several processes may call this at the same time.
    Raises a UserError for an impossible size, or if `root` holds a set of other settings.
    """
    if size % 2 or size < 16 or frames < 1:
        raise UserError(
            "A synthetic video has an even size of 16 pixels or more and at least one frame, not "
            f"{size} pixels and {frames} frames."
        )
    picture = {"acts": list(acts), "frames": frames, "size": size, "fps": fps, "seed": seed}

    def fill(folder: Path) -> None:
        rows = list_clips(train=train, val=val, test=test, acts=acts)
        _write_videos(folder, rows, acts=acts, frames=frames, size=size, fps=fps, seed=seed)
        with open(folder / LIST, "w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(("path", "label", "split"))
            lines.writerows((row.path, row.label, row.split) for row in rows)

    fill_once(root, {"train": train, "val": val, "test": test, **picture}, fill)


def fill_once(root: Path, settings: dict[str, Any], fill: Callable[[Path], None]) -> None:
    """Fill a folder completely or not at all, with a stamp of the settings.

    Nothing is done if the folder exists with the same stamp; with another stamp a UserError is
    raised. Of several processes one writes and the others wait.
    """
    with locked(root.with_name(f".{root.name}.lock"), wait=True, what=f"The synthetic set {root}"):
        if root.exists():
            _check_stamp(root, settings)
            return
        unfinished = root.with_name(f".{root.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)  # a writer that died has left it
        unfinished.mkdir(parents=True)
        fill(unfinished)
        (unfinished / STAMP).write_text(json.dumps(settings))
        os.replace(unfinished, root)


def list_clips(*, train: int, val: int, test: int, acts: Sequence[str]) -> list[Row]:
    """The rows of a set: train, then val, then test. The labels take turns."""
    motions, rows = list_motions(acts), []
    for split, count in {"train": train, "val": val, "test": test}.items():
        for n in range(count):
            motion = motions[n % len(motions)]
            path = f"{split}/{motion}/{n:05d}.mp4"
            rows.append(Row(path=path, label=motion, split=split, group=f"{split}/{n}"))
    return rows


def _check_stamp(root: Path, settings: dict[str, Any]) -> None:
    stamp = root / STAMP
    if not stamp.exists() or read_json(stamp, "settings") != settings:
        raise UserError(
            f"{root} does not hold the synthetic set of these settings: name another folder."
        )


def _write_videos(
    root: Path, rows: list[Row], *, acts: Sequence[str], frames: int, size: int, fps: int, seed: int
) -> None:
    labels = len(list_motions(acts))

    def write(row: Row) -> None:
        n = int(Path(row.path).stem)
        index = SPLITS[row.split] + n
        clip = draw_clip(n % labels, index, seed, acts=acts, frames=frames, size=size)
        encode(root / row.path, clip, fps)

    write_files(rows, root, write)


def write_files(rows: list[Row], root: Path, write: Callable[[Row], None]) -> None:
    """Call `write` for each row, in two threads: it writes the file of the row."""
    for folder in {(root / row.path).parent for row in rows}:
        folder.mkdir(parents=True, exist_ok=True)
    bar: dict[str, Any] = {"desc": "synthetic videos", "leave": False}
    # Threads are enough: the codec and numpy release the interpreter's lock.
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        list(progress_bar(len(rows), "file", iterable=pool.map(write, rows), **bar))


def encode(path: Path, clip: np.ndarray, fps: int) -> None:
    """Write a clip, uint8 `T H W 3`, as an .mp4 of key frames."""
    options = {"qp": "4", "preset": "ultrafast", "g": "1", "bf": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.width, stream.height, stream.pix_fmt = clip.shape[2], clip.shape[1], "yuv444p"
        stream.codec_context.thread_count = 1
        for picture in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
