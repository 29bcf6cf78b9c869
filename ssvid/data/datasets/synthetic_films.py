"""Long synthetic videos -> Manifest: shapes that stand still and act in turn.

The times of the acts are in `segments`, and who acts when is in `boxes`. Each actor has its own
shape and its own part of the picture. An act is a tour of `ssvid.data.synthetic`, repeated once or
several times, and its label is the motion. All motions and times are known exactly, which suits
tests of localisation and detection.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssvid.data import synthetic as drawing
from ssvid.data.datasets.synthetic import default_folder
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.randomness import uniform
from ssvid.registry import datasets
from ssvid.shapes import Box, Row

VERSION = 1  # of the films; sets of another version are drawn again
ROUNDS = (2, 5)  # tours of an act: from, to
STILL = (4, 20)  # frames between two acts: from, to


class Scene(NamedTuple):
    """One act of one actor."""

    first: int  # frame
    last: int  # the frame after the act
    label: int


@datasets.register("synthetic_films")
def synthetic_films(
    # folder that holds one folder for each set; default: $SSVID_CACHE or .cache/ssvid
    root: str | None = None,
    *,
    train: int = 120,  # films
    val: int = 40,  # films
    test: int = 80,  # films
    acts: tuple[str, ...] = ("across", "along"),  # of a tour: across, along, orbit, spin, grow
    actors: int = 1,  # side by side in the picture
    scenes: int = 3,  # of each actor
    size: int = 32,  # pixels: height of the picture, and width of the part of each actor
    fps: int = 8,  # frames per second
    seed: int = 0,  # of everything that is drawn
) -> Manifest:
    """Write the files if they do not exist. Of several processes one writes and the others wait."""
    if min(train, val, test, actors, scenes) < 1:
        raise UserError("synthetic_films: train, val, test, actors and scenes are one or more.")
    counts = {"train": train, "val": val, "test": test}
    settings: dict[str, Any] = {"films": VERSION, "pictures": drawing.VERSION, **counts}
    settings |= {"acts": list(acts), "actors": actors, "scenes": scenes}
    settings |= {"size": size, "fps": fps, "seed": seed}
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    folder = default_folder(root) / f"films_{digest}"
    names = drawing.list_motions(acts)
    scripts: dict[str, list[list[Scene]]] = {}  # path -> the scenes of each actor
    rows = []
    for split, count in counts.items():
        for n in range(count):
            film = drawing.SPLITS[split] + n
            script = [_write_script(film, actor, seed, scenes, acts) for actor in range(actors)]
            row = _make_row(split, n, script, names, fps)
            scripts[row.path] = script
            rows.append(row)

    def fill(unfinished: Path) -> None:
        def write(row: Row) -> None:
            film = drawing.SPLITS[row.split] + int(Path(row.path).stem)
            clips = []
            for actor, script in enumerate(scripts[row.path]):
                clips.append(_draw_actor(script, film * actors + actor, seed, acts, size))
            drawing.encode(unfinished / row.path, _join_side_by_side(clips), fps)

        drawing.write_files(rows, unfinished, write)

    drawing.fill_once(folder, settings, fill)
    return Manifest.build(rows, folder)


def _write_script(
    film: int, actor: int, seed: int, scenes: int, acts: tuple[str, ...]
) -> list[Scene]:
    """Pause, act, pause, act, ...: how long each takes, and the motion of each act."""
    u = uniform(seed, f"film/{actor}", 0, film, 3 * scenes)[0].tolist()
    tour, labels = drawing.tour_frames(acts), len(drawing.list_motions(acts))
    script, frame = [], 0
    for still, rounds, label in zip(u[::3], u[1::3], u[2::3], strict=True):
        frame += STILL[0] + int(still * (STILL[1] - STILL[0]))
        length = tour * (ROUNDS[0] + int(rounds * (ROUNDS[1] - ROUNDS[0])))
        script.append(Scene(frame, frame + length, int(label * labels)))
        frame += length
    return script


def _draw_actor(
    script: list[Scene], index: int, seed: int, acts: tuple[str, ...], size: int
) -> np.ndarray:
    """Frames of one actor, uint8 `T H W 3`.

    A tour ends where it began, so acts and pauses join without a jump.
    """
    tour = drawing.tour_frames(acts)
    still = drawing.draw_clip(0, index, seed, acts=acts, frames=1, size=size)
    frames = np.repeat(still, script[-1].last + STILL[0], 0)
    for scene in script:
        clip = drawing.draw_clip(scene.label, index, seed, acts=acts, frames=tour, size=size)
        frames[scene.first : scene.last] = clip[np.arange(scene.last - scene.first) % tour]
    return frames


def _join_side_by_side(clips: list[np.ndarray]) -> np.ndarray:
    """Clips `T H W 3` joined along W. A shorter clip repeats its last frame."""
    length = max(map(len, clips))
    padded = [np.concatenate([c, c[-1:].repeat(length - len(c), 0)]) for c in clips]
    return np.concatenate(padded, axis=2)


def _make_row(
    split: str, n: int, script: list[list[Scene]], names: tuple[str, ...], fps: int
) -> Row:
    """Each act is a segment, and gives a box once a second: the actor's part of the picture."""
    segments, boxes = [], []
    for actor, scenes in enumerate(script):
        left, right = actor / len(script), (actor + 1) / len(script)
        for scene in scenes:
            name = names[scene.label]
            segments.append((scene.first / fps, scene.last / fps, name))
            seconds = map(float, range(-(-scene.first // fps), -(-scene.last // fps)))
            boxes += [Box(s, left, 0.0, right, 1.0, (name,), str(actor)) for s in seconds]
    frames = max(scenes[-1].last for scenes in script) + STILL[0]
    return Row(
        path=f"{split}/{n:05d}.mp4",
        split=split,
        group=f"{split}/{n}",
        duration=frames / fps,
        segments=tuple(sorted(segments)),
        boxes=tuple(sorted(boxes)),
    )
