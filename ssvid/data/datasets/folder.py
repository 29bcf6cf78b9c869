"""A folder of videos -> Manifest: root/[train|val|test/][class/]...file."""

import os
from pathlib import Path, PurePosixPath

from ssvid.data import files
from ssvid.data.datasets.csv import SPLIT
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import datasets
from ssvid.shapes import Row


@datasets.register("folder")
def folder(
    root: str,  # folder of videos, at any depth
    *,
    labels: bool | None = None,  # the folders are classes; default: when every file lies in one
) -> Manifest:
    """Train/val/test folders are the splits; else labelled files are split by hash; else all are for training."""
    path = files.need_folder(root, "--data.root of a folder data set")
    found = files.list_videos(path)
    if not found:
        raise UserError(
            f"{path} holds no video files ({', '.join(sorted(files.VIDEO))}): check --data.root."
        )
    return lay_out(path, found, labels)


def lay_out(
    root: Path, found: list[str], labels: bool | None, fps: float | None = None
) -> Manifest:
    """Splits and classes from where the files lie."""
    tops = {path.split("/", 1)[0].lower() for path in found if "/" in path}
    has_splits = (
        bool(tops & {"train", "training"})
        and tops <= set(SPLIT)
        and all("/" in path for path in found)
    )
    inner = {
        path: PurePosixPath(path).parts[1:] if has_splits else PurePosixPath(path).parts
        for path in found
    }
    in_class = [len(parts) > 1 for parts in inner.values()]
    if labels and not all(in_class):
        stray = next(path for path, parts in inner.items() if len(parts) < 2)
        raise UserError(
            f"{root}: {stray} lies in no class folder: lay files out as class/file, or --data.labels false."
        )
    if labels is None:
        labels = all(in_class) and len({parts[0] for parts in inner.values()}) > 1
    empty = (
        _empty(root, {parts[0] for parts in inner.values()}, tops if has_splits else set())
        if labels
        else []
    )
    if empty:
        raise UserError(
            f"{root}: class folders {', '.join(empty[:3])} hold no files: fill them or take them away."
        )
    rows = [
        Row(
            path=path,
            label=parts[0] if labels else None,
            split=SPLIT[path.split("/", 1)[0].lower()] if has_splits else "train",
            group=files.name_film(path),
            fps=fps,
        )
        for path, parts in inner.items()
    ]
    return Manifest.build(rows, root, hold_out=labels and not has_splits)


def _empty(root: Path, known: set[str], splits: set[str]) -> list[str]:
    """Classes whose folders (in all splits) hold nothing at all: unpacking them failed, or was forgotten."""
    homes = [home for home in root.iterdir() if home.name.lower() in splits] if splits else [root]
    folders = [
        f
        for home in homes
        if home.is_dir()
        for f in home.iterdir()
        if f.is_dir() and f.name not in known
    ]
    bare = [
        f
        for f in folders
        if not f.name.startswith(".") and not any(names for _, _, names in os.walk(f))
    ]
    return sorted({f.name for f in bare})
