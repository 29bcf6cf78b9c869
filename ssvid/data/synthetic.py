"""(label, index, seed) -> a clip of one shape on tour -> real .mp4 files: the only place that draws videos.

A tour is a closed loop of acts: the shape crosses the picture and comes back in at the other edge, goes round on a
circle, turns through its own symmetry, or grows and starts anew. The label says which way each act goes. Played
backwards, an act shows the same pictures, so the set of frames of a tour is the same for every label. Place, angle and
size at the start are uniform, so they are uniform at every frame, whatever the label: only the order of frames tells.
Every frame is a key frame of the same quality, or the codec's errors would trail behind the shape and tell of the past;
that quality is high and colour is not subsampled, as a target normalised patch by patch makes their noise large.
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
from ssvid.files import locked
from ssvid.progress import progress_bar
from ssvid.randomness import uniform
from ssvid.shapes import Row

SPLITS = {
    "train": 0,
    "val": 10**6,
    "test": 2 * 10**6,
}  # index of a split's first clip: larger sets extend smaller ones
WAVES = ((1, 0), (0, 1), (1, 1), (1, -1), (2, 0), (0, 2))  # of the background, cycles per picture
RADIUS = (
    0.3,
    0.36,
)  # of the picture: small shapes and fast ones teach a masked autoencoder little in a few minutes
DRAWS = 40
WAVE = 0.12  # height of each of those waves: what makes an untrained net's features poor
SHADE = 0.4  # darker at the rim: in a flat patch there would be nothing to predict but the codec's rounding
ORBIT = 0.2  # radius, in pictures
VERSION = 3  # of the pictures: a new one makes new sets
STAMP, LIST = "set.json", "manifest.csv"

Outline = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
SHAPES: tuple[
    tuple[int, Outline], ...
] = (  # turns that map it onto itself; signed distance, negative inside
    (4, lambda x, y, r: np.maximum(abs(x), abs(y)) - 0.86 * r),  # square
    (3, lambda x, y, r: np.maximum(abs(x) * 3**0.5 / 2 - y / 2, y) - 0.6 * r),  # triangle
    (5, lambda x, y, r: np.hypot(x, y) - r * (0.8 + 0.3 * np.cos(5 * np.arctan2(y, x)))),  # star
    (2, lambda x, y, r: np.maximum(abs(x) - 1.15 * r, abs(y) - 0.5 * r)),  # bar
)


class Act(NamedTuple):
    """Part of a tour. `path`: how far it is, in [0, 1), and a uniform -> change of x, y, turn and shrinkage so far.

    Closed: at 1 everything is as it was at 0.
    """

    frames: int
    ways: tuple[str, str]  # forwards, backwards
    path: Callable[[np.ndarray, float], tuple[np.ndarray | float, ...]]


def _orbit(part: np.ndarray, u: float) -> tuple[np.ndarray | float, ...]:
    angle = 2 * math.pi * (u + part)
    home = 2 * math.pi * u
    return (
        ORBIT * (np.cos(angle) - math.cos(home)),
        ORBIT * (np.sin(angle) - math.sin(home)),
        0.0,
        0.0,
    )


ACTS = {  # across and along hop by a third: what is seen of one place tells an untrained net little of a longer step
    "across": Act(3, ("right", "left"), lambda part, u: (part, 0.0, 0.0, 0.0)),
    "along": Act(3, ("down", "up"), lambda part, u: (0.0, part, 0.0, 0.0)),
    "orbit": Act(6, ("round", "back"), _orbit),
    "spin": Act(
        4, ("cw", "ccw"), lambda part, u: (0.0, 0.0, part, 0.0)
    ),  # a whole turn of its symmetry
    "grow": Act(4, ("shrink", "grow"), lambda part, u: (0.0, 0.0, 0.0, part)),
}


def motions(acts: Sequence[str]) -> tuple[str, ...]:
    """The labels of a set: a way for each act."""
    unknown = [act for act in acts if act not in ACTS]
    if unknown or not acts:
        raise UserError(f"There is no act {unknown}: a tour is made of {', '.join(ACTS)}.")
    return tuple("_".join(ways) for ways in itertools.product(*(ACTS[act].ways for act in acts)))


def draw_clip(
    label: int, index: int, seed: int, *, acts: Sequence[str], frames: int, size: int
) -> np.ndarray:
    """uint8 `T H W 3`. Everything but the ways of the acts depends on (seed, index) alone."""
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
    ground = background(size, u[9:])
    clip = paint(
        ground,
        outline,
        hue(u[6], 0.1 + 0.6 * u[7], 0.85 + 0.15 * u[8]),
        u[1] + x,
        u[2] + y,
        angle,
        radius,
    )
    return clip[np.arange(frames) % tour]


def paint(
    ground: np.ndarray,  # H W 3
    outline: Outline,
    colour: np.ndarray,  # 3
    x: np.ndarray,  # T, in pictures; likewise y
    y: np.ndarray,
    angle: np.ndarray,  # T
    radius: np.ndarray,  # T 1 1, in pictures
) -> np.ndarray:
    """uint8 `T H W 3`: one shape on a torus, darker at its rim."""
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
    """Change since the start of x, y in pictures, turn in symmetries and shrinkage, at each frame of a tour: 4 T."""
    parts = []
    for place, act in enumerate(ACTS[name] for name in acts):
        way = -1 if label >> (len(acts) - 1 - place) & 1 else 1  # in the order of motions()
        part = way * np.arange(act.frames) / act.frames
        parts.append(np.stack(np.broadcast_arrays(part, *act.path(part, u))[1:]))
    return np.concatenate(parts, axis=1)


def background(size: int, u: np.ndarray) -> np.ndarray:
    """A few slow waves over a dark colour: H W 3."""
    grid = ((np.arange(size) + 0.5) / size).astype(np.float32)
    ground = np.broadcast_to(hue(u[0], 0.5 * u[1], 0.2 + 0.25 * u[2]), (size, size, 3))
    for (across, along), phase, of in zip(WAVES, u[3:9], u[9:15], strict=True):
        wave = np.cos(2 * math.pi * (across * grid[None, :] + along * grid[:, None] + phase))
        ground = ground + WAVE * wave[..., None].astype(np.float32) * (hue(of, 0.6, 1.0) - 0.3)
    return ground


def hue(turns: float, saturation: float, value: float) -> np.ndarray:
    """-> red, green, blue."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * turns) % 6
    return (value - value * saturation * np.minimum(k, 4 - k).clip(0, 1)).astype(np.float32)


def write(
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
    """The files, `manifest.csv` and, last, the stamp; nothing to do where the stamp is there. Safe to ask at once."""
    if size % 2 or size < 16 or frames < 1:
        raise UserError(
            f"A synthetic video has an even size of 16 pixels or more and a frame or more, not {size}."
        )
    made = {"acts": list(acts), "frames": frames, "size": size, "fps": fps, "seed": seed}

    def fill(part: Path) -> None:
        rows = clips(train=train, val=val, test=test, acts=acts)
        _write_all(part, rows, acts=acts, frames=frames, size=size, fps=fps, seed=seed)
        with open(part / LIST, "w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(("path", "label", "split"))
            lines.writerows((row.path, row.label, row.split) for row in rows)

    once(root, {"train": train, "val": val, "test": test, **made}, fill)


def once(root: Path, wanted: dict[str, Any], fill: Callable[[Path], None]) -> None:
    """A folder filled whole or not at all, with a stamp of what was asked for; nothing to do where that is there."""
    with locked(root.with_name(f".{root.name}.lock"), wait=True, what=f"The synthetic set {root}"):
        if root.exists():
            _check(root, wanted)
            return
        part = root.with_name(f".{root.name}.part")
        shutil.rmtree(part, ignore_errors=True)  # of a writer that died
        part.mkdir(parents=True)
        fill(part)
        (part / STAMP).write_text(json.dumps(wanted))
        os.replace(part, root)


def clips(*, train: int, val: int, test: int, acts: Sequence[str]) -> list[Row]:
    """The rows of a set, labels in turn."""
    counts = {"train": train, "val": val, "test": test}
    return [
        Row(path=f"{split}/{motion}/{n:05d}.mp4", label=motion, split=split, group=f"{split}/{n}")
        for split, count in counts.items()
        for n, motion in zip(range(count), itertools.cycle(motions(acts)), strict=False)
    ]


def _check(root: Path, wanted: dict[str, Any]) -> None:
    stamp = root / STAMP
    if not stamp.exists() or json.loads(stamp.read_text()) != wanted:
        raise UserError(
            f"{root} holds something else than the synthetic set asked for: name another folder."
        )


def _write_all(
    root: Path, rows: list[Row], *, acts: Sequence[str], frames: int, size: int, fps: int, seed: int
) -> None:
    labels = len(motions(acts))

    def one(row: Row) -> None:
        n = int(Path(row.path).stem)
        clip = draw_clip(
            n % labels, SPLITS[row.split] + n, seed, acts=acts, frames=frames, size=size
        )
        encode(root / row.path, clip, fps)

    each(rows, root, one)


def each(rows: list[Row], root: Path, one: Callable[[Row], None]) -> None:
    """`one` writes the file of a row; folders are made before."""
    for folder in {(root / row.path).parent for row in rows}:
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(
        min(2, os.cpu_count() or 1)
    ) as pool:  # codec and numpy let go of the interpreter
        list(
            progress_bar(
                len(rows),
                "file",
                iterable=pool.map(one, rows),
                desc="synthetic videos",
                leave=False,
            )
        )


def encode(path: Path, clip: np.ndarray, fps: int) -> None:
    options = {"qp": "4", "preset": "ultrafast", "g": "1", "bf": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.width, stream.height, stream.pix_fmt = clip.shape[2], clip.shape[1], "yuv444p"
        stream.codec_context.thread_count = 1
        for picture in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
