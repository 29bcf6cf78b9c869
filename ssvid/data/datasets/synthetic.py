"""Videos of moving shapes, drawn when they are needed -> Manifest.

The files are root/SET/[train|val|test]/motion/number.mp4, and the label is the motion.
"""

import hashlib
import json
import math
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ssvid.data import synthetic as drawing
from ssvid.data.manifest import Manifest
from ssvid.data.preprocess.flow import compute, flow_root
from ssvid.files import locked, write_json_whole
from ssvid.log import log
from ssvid.registry import datasets
from ssvid.shapes import ClipSpec, Views


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
    redrawn = partial(
        redraw, root=root, labelled=labelled, acts=acts, frames=frames, size=size, seed=seed
    )
    redrawn = partial(redrawn, train=train, val=val, test=test, fps=fps)
    return replace(Manifest.build(rows, folder), redraw=redrawn)


def redraw(views: Views, *, frames: int, fps: int, **settings: Any) -> Manifest:
    """The set with the frames and the flow that these views ask for.

    Videos are drawn longer for an objective that needs all frames of its clip. Flow of the training
    clips is computed once.
    """
    needed = frames
    if views.needs_all_frames:
        needed = max(frames, *(count_frames(spec, fps) for spec in views.clips))
    if needed > frames:
        log.info(f"The synthetic videos are drawn with {needed} frames, which the clip takes.")
    data = synthetic(frames=needed, fps=fps, **settings)
    if any(spec.modality == "flow" for spec in views.clips):
        compute_flow_once(data)
    return data


def count_frames(spec: ClipSpec, fps: int) -> int:
    """The frames of a file that a clip spans."""
    if spec.whole:
        return spec.frames
    stride = spec.stride if spec.fps is None else fps / spec.fps
    return math.ceil((spec.frames - 1) * (stride or 1)) + 1


def compute_flow_once(data: Manifest) -> None:
    """Compute the flow of the training clips, unless a stamp tells that it is there.

    Of several processes one computes and the others wait.
    """
    stamp = flow_root(data.root) / "complete.json"
    with locked(data.root / ".flow.lock", wait=True, what=f"The flow of {data.root}"):
        if not stamp.exists():
            compute(data.split("train"), method="dis")
            write_json_whole(stamp, {"split": "train"})


def default_folder(root: str | None) -> Path:
    """The folder that holds the synthetic sets: `root`, else one in the cache."""
    return Path(root) if root else Path(os.environ.get("SSVID_CACHE", ".cache/ssvid")) / "synthetic"
