"""Long synthetic videos -> Manifest: shapes that stand still and act in turn, the times in `segments`, and `boxes`.

Each actor has a part of the picture of its own and one shape; an act is a tour of `synthetic`, gone through once or
several times, and its label the motion. What moves how, and when, is known exactly: for localisation and detection.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssvid.data import synthetic as drawn
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.randomness import uniform
from ssvid.registry import datasets
from ssvid.shapes import Box, Row

VERSION = 1  # of the films: a new one makes new sets
ROUNDS, STILL = (2, 5), (4, 20)  # tours of an act, and frames without one: from, to


class Scene(NamedTuple):
    first: int  # frame
    last: int  # the one after
    label: int


@datasets.register("synthetic_films")
def synthetic_films(
    root: str
    | None = None,  # holds one folder for each set asked for; default: $SSVID_CACHE or .cache/ssvid
    *,
    train: int = 120,  # films
    val: int = 40,  # films
    test: int = 80,  # films
    acts: tuple[str, ...] = ("across", "along"),  # of a tour: across, along, orbit, spin, grow
    actors: int = 1,  # side by side
    scenes: int = 3,  # of each actor
    size: int = 32,  # pixels: the height; each actor is as wide
    fps: int = 8,  # frames a second
    seed: int = 0,  # of all that is drawn
) -> Manifest:
    """Writes the files where they are not there yet; processes that ask at once wait for one writer."""
    if min(train, val, test, actors, scenes) < 1:
        raise UserError("synthetic_films: train, val, test, actors and scenes are one or more.")
    counts = {"train": train, "val": val, "test": test}
    picture = {
        "acts": list(acts),
        "actors": actors,
        "scenes": scenes,
        "size": size,
        "fps": fps,
        "seed": seed,
    }
    wanted = {"films": VERSION, "pictures": drawn.VERSION, **counts, **picture}
    home = Path(root) if root else Path(os.environ.get("SSVID_CACHE", ".cache/ssvid")) / "synthetic"
    home = home / f"films_{hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:12]}"
    names = drawn.motions(acts)
    films = {
        (split, n): [
            _script(drawn.SPLITS[split] + n, actor, seed, scenes, acts) for actor in range(actors)
        ]
        for split, count in counts.items()
        for n in range(count)
    }
    rows = [_row(split, n, script, names, fps) for (split, n), script in films.items()]

    def fill(part: Path) -> None:
        def one(row: Row) -> None:
            n = int(Path(row.path).stem)
            parts = [
                _played(script, (drawn.SPLITS[row.split] + n) * actors + actor, seed, acts, size)
                for actor, script in enumerate(films[row.split, n])
            ]
            length = max(map(len, parts))
            whole = [np.concatenate([p, p[-1:].repeat(length - len(p), 0)]) for p in parts]
            drawn.encode(part / row.path, np.concatenate(whole, axis=2), fps)

        drawn.each(rows, part, one)

    drawn.once(home, wanted, fill)
    return Manifest.build(rows, home)


def _script(film: int, actor: int, seed: int, scenes: int, acts: tuple[str, ...]) -> list[Scene]:
    """Still, act, still, act, ...: how long each takes, and which motion it is."""
    u = uniform(seed, f"film/{actor}", 0, film, 3 * scenes)[0].tolist()
    tour, labels = sum(drawn.ACTS[act].frames for act in acts), len(drawn.motions(acts))
    script, frame = [], 0
    for still, rounds, label in zip(u[::3], u[1::3], u[2::3], strict=True):
        frame += STILL[0] + int(still * (STILL[1] - STILL[0]))
        length = tour * (ROUNDS[0] + int(rounds * (ROUNDS[1] - ROUNDS[0])))
        script.append(Scene(frame, frame + length, int(label * labels)))
        frame += length
    return script


def _played(
    script: list[Scene], index: int, seed: int, acts: tuple[str, ...], size: int
) -> np.ndarray:
    """Frames of one actor. A tour ends where it began, so that acts and pauses join without a jump."""
    tour = sum(drawn.ACTS[act].frames for act in acts)
    frames = np.repeat(
        drawn.draw_clip(0, index, seed, acts=acts, frames=1, size=size),
        script[-1].last + STILL[0],
        0,
    )
    for scene in script:
        clip = drawn.draw_clip(scene.label, index, seed, acts=acts, frames=tour, size=size)
        frames[scene.first : scene.last] = clip[np.arange(scene.last - scene.first) % tour]
    return frames


def _row(split: str, n: int, films: list[list[Scene]], names: tuple[str, ...], fps: int) -> Row:
    """Boxes once a second, of whoever acts then: the actor's part of the picture."""
    segments = sorted(
        (scene.first / fps, scene.last / fps, names[scene.label])
        for film in films
        for scene in film
    )
    boxes = [
        Box(
            float(t),
            actor / len(films),
            0.0,
            (actor + 1) / len(films),
            1.0,
            (names[scene.label],),
            str(actor),
        )
        for actor, film in enumerate(films)
        for scene in film
        for t in range(-(-scene.first // fps), -(-scene.last // fps))
    ]
    path, length = f"{split}/{n:05d}.mp4", (max(film[-1].last for film in films) + STILL[0]) / fps
    return Row(
        path,
        None,
        split,
        f"{split}/{n}",
        length,
        segments=tuple(segments),
        boxes=tuple(sorted(boxes)),
    )
