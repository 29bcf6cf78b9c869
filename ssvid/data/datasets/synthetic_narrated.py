"""Long synthetic videos with a careless narrator -> Manifest. The true times lie beside them, in HTM-Align's form."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from ssvid.data import synthetic as drawn
from ssvid.data.manifest import Manifest
from ssvid.data.narration import synthetic_narrator
from ssvid.data.narration.synthetic_narrator import Action, Said
from ssvid.data.store import Store
from ssvid.errors import UserError
from ssvid.randomness import uniform
from ssvid.registry import datasets
from ssvid.shapes import Row

VERSION = 2  # of scripts and narration: a new one makes new sets
TRUTH = "htm_align.json"  # of val and test: id -> [[alignable, start, end, sentence], ...] in the order of speech
SPEED = 0.25  # pictures a second
RADIUS = 0.3, 0.36  # of the picture


@datasets.register("synthetic_narrated")
def synthetic_narrated(
    root: str
    | None = None,  # holds one folder for each set asked for; default: $SSVID_CACHE or .cache/ssvid
    *,
    features: str
    | None = None,  # a store of ssvid.extract --per_second; null: for objectives on pixels
    train: int = 240,  # videos
    val: int = 20,  # videos
    test: int = 60,  # videos
    seconds: int = 128,  # of a video
    size: int = 32,  # pixels
    fps: int = 4,  # frames a second
    seed: int = 0,  # of all that is drawn
) -> Manifest:
    """Writes the files where they are not there yet; processes that ask at once wait for one writer."""
    if min(train, val, test) < 1 or seconds < 16:
        raise UserError(
            "synthetic_narrated: train, val and test are one or more videos, of 16 seconds or more."
        )
    counts = {"train": train, "val": val, "test": test}
    picture = {"seconds": seconds, "size": size, "fps": fps, "seed": seed}
    wanted = {"narrated": VERSION, "pictures": drawn.VERSION, **counts, **picture}
    home = Path(root) if root else Path(os.environ.get("SSVID_CACHE", ".cache/ssvid")) / "synthetic"
    home = home / f"narrated_{hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:12]}"
    store = Store(features) if features else None
    films = {
        f"{split}_{n:05d}": (split, drawn.SPLITS[split] + n)
        for split, count in counts.items()
        for n in range(count)
    }
    scripts = {
        name: synthetic_narrator.script(index, seed, seconds) for name, (_, index) in films.items()
    }
    heard = {
        name: synthetic_narrator.narrate(scripts[name], index, seed, seconds)
        for name, (_, index) in films.items()
    }
    rows = [
        Row(
            f"{split}/{name}.mp4",
            split=split,
            duration=float(seconds),
            sentences=tuple((one.start, one.end, one.text) for one in heard[name]),
            video_id=name,
            features=str(store.path(name).absolute()) if store else "",
        )
        for name, (split, _) in films.items()
    ]

    def fill(part: Path) -> None:
        def one(row: Row) -> None:
            index = films[row.video_id][1]
            drawn.encode(
                part / row.path, film(scripts[row.video_id], index, seed, seconds, size, fps), fps
            )

        drawn.each(rows, part, one)
        known = {name: truth(heard[name]) for name, (split, _) in films.items() if split != "train"}
        (part / TRUTH).write_text(json.dumps(known, indent=1))

    drawn.once(home, wanted, fill)
    return Manifest.build(rows, home)


def truth(said: list[Said]) -> list[tuple[int, float, float, str]]:
    """True times of what is shown; of the rest the times of speech."""
    return [
        (int(one.true is not None), *(one.true or (one.start, one.end)), one.text) for one in said
    ]


def film(
    script: list[Action], index: int, seed: int, seconds: int, size: int, fps: int
) -> np.ndarray:
    """uint8 `T H W 3`: each action's shape crosses the picture of its video; between them the picture is empty."""
    u = uniform(seed, "film", 0, index, 15 + 4 * len(script))[0].numpy()
    ground = drawn.background(size, u[:15])
    frames = np.repeat((ground.clip(0, 1) * 255 + 0.5).astype(np.uint8)[None], seconds * fps, 0)
    for action, (x, y, turn, wide) in zip(script, u[15:].reshape(-1, 4), strict=True):
        first, last = round(action.start * fps), round(action.end * fps)
        moved = SPEED * np.arange(last - first) / fps
        across, down = synthetic_narrator.WAYS[action.way]
        radius = np.full(
            (last - first, 1, 1), RADIUS[0] + (RADIUS[1] - RADIUS[0]) * wide, np.float32
        )
        outline = drawn.SHAPES[synthetic_narrator.SHAPES.index(action.shape)][1]
        colour = drawn.hue(synthetic_narrator.COLOURS[action.colour], 0.8, 1.0)
        angle = np.full(last - first, 2 * np.pi * turn)
        frames[first:last] = drawn.paint(
            ground, outline, colour, x + across * moved, y + down * moved, angle, radius
        )
    return frames
