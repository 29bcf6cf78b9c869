"""Videos of moving shapes, drawn when they are needed -> Manifest.

The files are root/SET/[train|val|test]/motion/number.mp4, and the label is the motion.
"""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

from ssvid.data import synthetic as drawing
from ssvid.data.manifest import Manifest
from ssvid.registry import datasets


@datasets.register("synthetic")
def synthetic(
    # folder that holds one folder for each set; default: $SSVID_CACHE or .cache/ssvid
    root: str | None = None,
    *,
    train: int = 4096,  # clips
    labelled: int = 192,  # of the train clips; the others are for pretraining only
    val: int = 320,  # clips
    test: int = 480,  # clips
    acts: tuple[str, ...] = ("across", "along"),  # of a tour: across, along, orbit, spin, grow
    frames: int = 11,  # of a file; a clip of 6 is a whole tour, from any of its frames
    size: int = 32,  # pixels
    fps: int = 8,  # frames per second
    seed: int = 0,  # of everything that is drawn
) -> Manifest:
    """Write the files if they do not exist. Of several processes one writes and the others wait."""
    counts = {"train": train, "val": val, "test": test}
    picture = {"acts": acts, "frames": frames, "size": size, "fps": fps, "seed": seed}
    settings = json.dumps([drawing.VERSION, counts, picture])
    name = hashlib.sha256(settings.encode()).hexdigest()[:12]
    folder = default_folder(root) / name
    drawing.write_set(folder, **counts, acts=acts, frames=frames, size=size, fps=fps, seed=seed)
    rows = []
    for n, row in enumerate(drawing.list_clips(**counts, acts=acts)):  # train comes first
        has_label = n < labelled or row.split != "train"
        rows.append(row if has_label else replace(row, label=None))
    return Manifest.build(rows, folder)


def default_folder(root: str | None) -> Path:
    """The folder that holds the synthetic sets: `root`, else one in the cache."""
    return Path(root) if root else Path(os.environ.get("SSVID_CACHE", ".cache/ssvid")) / "synthetic"
