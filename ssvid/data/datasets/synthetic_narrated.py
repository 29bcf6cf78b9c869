"""Long synthetic videos with a careless narrator -> Manifest with sentences.

The true times of the sentences are in a file beside the videos, in the form of HTM-Align.
"""

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch.nn.functional as F

from ssvid.data import synthetic as drawing
from ssvid.data.datasets.synthetic import default_folder
from ssvid.data.decode import read
from ssvid.data.manifest import Manifest
from ssvid.data.narration import synthetic_narrator
from ssvid.data.narration.synthetic_narrator import Action, Utterance
from ssvid.data.store import Store, path_of_video, write_features
from ssvid.errors import UserError
from ssvid.files import locked
from ssvid.log import log
from ssvid.randomness import uniform
from ssvid.registry import datasets
from ssvid.shapes import Row, Views, Window

VERSION = 2  # of scripts and narration; sets of another version are drawn again
# Of val and test: id -> [[alignable, start, end, sentence], ...] in the order of speech.
TRUTH = "htm_align.json"
SPEED = 0.25  # of a shape, in pictures per second
RADIUS = 0.3, 0.36  # from, to; fraction of the picture
FEATURE_SIDE = 32  # pixels; 32 x 32 are the 1024 numbers that an aligner of default size reads


@datasets.register("synthetic_narrated")
def synthetic_narrated(
    # folder that holds one folder for each set; default: $SSVID_CACHE or .cache/ssvid
    root: str | None = None,
    *,
    # a feature store of ssvid.extract --per_second; null: for objectives that read pixels
    features: str | None = None,
    train: int = 240,  # videos
    val: int = 20,  # videos
    test: int = 60,  # videos
    seconds: int = 128,  # length of a video
    size: int = 32,  # pixels
    fps: int = 4,  # frames per second
    seed: int = 0,  # of everything that is drawn
) -> Manifest:
    """Write the files if they do not exist. Of several processes one writes and the others wait."""
    if min(train, val, test) < 1 or seconds < 16:
        raise UserError(
            "synthetic_narrated: train, val and test are one or more videos, of 16 seconds or more."
        )
    counts = {"train": train, "val": val, "test": test}
    picture = {"seconds": seconds, "size": size, "fps": fps, "seed": seed}
    settings = {"narrated": VERSION, "pictures": drawing.VERSION, **counts, **picture}
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    folder = default_folder(root) / f"narrated_{digest}"
    store = Store(features) if features else None
    index_of, scripts, narration, rows = {}, {}, {}, []
    for split, count in counts.items():
        for n in range(count):
            name, index = f"{split}_{n:05d}", drawing.SPLITS[split] + n
            script = synthetic_narrator.write_script(index, seed, seconds)
            narration[name] = synthetic_narrator.narrate(script, index, seed, seconds)
            index_of[name], scripts[name] = index, script
            rows.append(_make_row(split, name, seconds, narration[name], store))

    def fill(unfinished: Path) -> None:
        def write(row: Row) -> None:
            name = row.video_id
            video = draw_film(scripts[name], index_of[name], seed, seconds, size, fps)
            drawing.encode(unfinished / row.path, video, fps)

        drawing.write_files(rows, unfinished, write)
        evaluated = [row.video_id for row in rows if row.split != "train"]
        truth = {name: list_true_times(narration[name]) for name in evaluated}
        (unfinished / TRUTH).write_text(json.dumps(truth, indent=1))

    drawing.fill_once(folder, settings, fill)
    built = Manifest.build(rows, folder)
    return built if store else replace(built, redraw=partial(add_features, built))


def add_features(data: Manifest, views: Views) -> Manifest:
    """The set with features that are drawn from the films, for an objective that reads features.

    The feature of a second is its first frame, gray and of FEATURE_SIDE pixels. An aligner learns
    little from them; `ssvid.extract --per_second` stores better ones for --data.features.
    """
    if not isinstance(views.text, Window):
        return data
    root = data.root / "pixels"
    log.info(
        f"{data.root}: without --data.features the features are the gray pixels of each second, in "
        f"{root}; ssvid extract --per_second stores those of an encoder."
    )
    rows = []
    with locked(data.root / ".pixels.lock", wait=True, what=f"The features of {data.root}"):
        for row in data.rows:
            path = path_of_video(root, row.video_id, ".npy")
            if not path.exists():
                write_features(
                    path, read_gray_seconds(data.root / row.path, int(row.duration or 0))
                )
            rows.append(replace(row, features=str(path.absolute())))
    return replace(data, rows=tuple(rows))


def read_gray_seconds(path: Path, seconds: int) -> np.ndarray:
    """The first frame of each second, gray, 0 to 1: `seconds` x FEATURE_SIDE**2."""
    frames = read(path, np.arange(seconds, dtype=np.float64))  # T 3 H W
    gray = frames.float().mean(1, keepdim=True) / 255
    side = (FEATURE_SIDE, FEATURE_SIDE)
    return F.interpolate(gray, side, mode="bilinear", antialias=True).flatten(1).numpy()


def _make_row(
    split: str, name: str, seconds: int, utterances: list[Utterance], store: Store | None
) -> Row:
    return Row(
        f"{split}/{name}.mp4",
        split=split,
        duration=float(seconds),
        sentences=tuple((u.start, u.end, u.text) for u in utterances),
        video_id=name,
        features=str(store.path(name).absolute()) if store else "",
    )


def list_true_times(utterances: list[Utterance]) -> list[tuple[int, float, float, str]]:
    """alignable (0 or 1), start, end, sentence of each utterance.

    The times are the true ones of what is shown, and those of speech where nothing is shown.
    """
    rows = []
    for spoken in utterances:
        start, end = spoken.true or (spoken.start, spoken.end)
        rows.append((int(spoken.true is not None), start, end, spoken.text))
    return rows


def draw_film(
    script: list[Action], index: int, seed: int, seconds: int, size: int, fps: int
) -> np.ndarray:
    """uint8 `T H W 3`: the shape of each action crosses the picture, which is empty otherwise."""
    u = uniform(seed, "film", 0, index, 15 + 4 * len(script))[0].numpy()
    ground = drawing.draw_background(size, u[:15])
    frames = np.repeat((ground.clip(0, 1) * 255 + 0.5).astype(np.uint8)[None], seconds * fps, 0)
    for action, (x, y, turn, wide) in zip(script, u[15:].reshape(-1, 4), strict=True):
        first, last = round(action.start * fps), round(action.end * fps)
        n = last - first
        moved = SPEED * np.arange(n) / fps
        across, down = synthetic_narrator.WAYS[action.way]
        radius = np.full((n, 1, 1), RADIUS[0] + (RADIUS[1] - RADIUS[0]) * wide, np.float32)
        outline = drawing.SHAPES[synthetic_narrator.SHAPES.index(action.shape)][1]
        colour = drawing.hue_to_rgb(synthetic_narrator.COLOURS[action.colour], 0.8, 1.0)
        angle = np.full(n, 2 * np.pi * turn)
        frames[first:last] = drawing.paint(
            ground, outline, colour, x + across * moved, y + down * moved, angle, radius
        )
    return frames
