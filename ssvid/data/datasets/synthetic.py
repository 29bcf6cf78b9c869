"""Moving shapes drawn on the spot -> Manifest: root/SET/[train|val|test]/motion/number.mp4, the label is the motion."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

from ssvid.data import synthetic as drawn
from ssvid.data.manifest import Manifest
from ssvid.registry import datasets


@datasets.register("synthetic")
def synthetic(
    root: str
    | None = None,  # holds one folder for each set asked for; default: $SSVID_CACHE or .cache/ssvid
    *,
    train: int = 4096,  # clips
    labelled: int = 192,  # of the train clips; the others are for pretraining alone
    val: int = 320,  # clips
    test: int = 480,  # clips
    acts: tuple[str, ...] = ("across", "along"),  # of a tour: across, along, orbit, spin, grow
    frames: int = 11,  # of a file: a clip of 6 is a whole tour, begun at any of its frames
    size: int = 32,  # pixels
    fps: int = 8,  # frames a second
    seed: int = 0,  # of all that is drawn
) -> Manifest:
    """Writes the files where they are not there yet; processes that ask at once wait for one writer."""
    counts = {"train": train, "val": val, "test": test}
    picture = {"acts": acts, "frames": frames, "size": size, "fps": fps, "seed": seed}
    name = hashlib.sha256(json.dumps([drawn.VERSION, counts, picture]).encode()).hexdigest()[:12]
    home = Path(root) if root else Path(os.environ.get("SSVID_CACHE", ".cache/ssvid")) / "synthetic"
    drawn.write(home / name, **counts, acts=acts, frames=frames, size=size, fps=fps, seed=seed)
    rows = drawn.clips(**counts, acts=acts)  # train first
    known = (
        row if n < labelled or row.split != "train" else replace(row, label=None)
        for n, row in enumerate(rows)
    )
    return Manifest.build(known, home / name)
