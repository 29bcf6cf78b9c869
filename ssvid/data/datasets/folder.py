"""A folder of videos -> Manifest: root/[train|val|test/][class/]...file."""

import logging
import os
from pathlib import Path, PurePosixPath

from ssvid.data import files
from ssvid.data.labels import to_nfc
from ssvid.data.manifest import Manifest
from ssvid.data.splits import SPLIT_OF_NAME, are_groups_single
from ssvid.errors import UserError
from ssvid.log import log_once
from ssvid.registry import datasets
from ssvid.shapes import Row


@datasets.register("folder")
def folder(
    root: str,  # folder of videos, at any depth
    *,
    # whether the folders are classes; default: yes if every file is in one, and there are several
    labels: bool | None = None,
) -> Manifest:
    """Folders named train, val and test are the splits.

    Without such folders files with labels are split by a hash, and files without labels are all for
    training.
    """
    path = files.need_folder(root, "--data.root of a folder data set")
    contents = files.list_contents(path)
    files.log_skipped_files(path, contents.suffixes, files.VIDEO_SUFFIXES)
    if not contents.videos:
        suffixes = ", ".join(sorted(files.VIDEO_SUFFIXES))
        raise UserError(f"{path} holds no video files ({suffixes}): check --data.root.")
    return build_from_paths(path, contents.videos, labels)


def build_from_paths(
    root: Path, paths: list[str], labels: bool | None, fps: float | None = None
) -> Manifest:
    """A manifest whose splits and classes come from the paths of the files.

    `fps`: of folders of frames. Raises a UserError if labels are wanted and a file is in no class
    folder, or a class folder is empty.
    """
    in_folders = [path for path in paths if "/" in path]
    tops = set(map(_top_folder, in_folders))
    are_splits = bool(tops & {"train", "training"}) and tops <= set(SPLIT_OF_NAME)
    has_splits = are_splits and len(in_folders) == len(paths)
    class_of: dict[str, str | None] = {}  # path -> the folder that may be its class
    for path in paths:
        parts = PurePosixPath(path).parts[1 if has_splits else 0 :]
        class_of[path] = parts[0] if len(parts) > 1 else None
    stray = [path for path, name in class_of.items() if name is None]
    if labels and stray:
        raise UserError(
            f"{root}: {stray[0]} lies in no class folder: lay files out as class/file, or "
            "--data.labels false."
        )
    if labels is None:
        labels = not stray and len(set(class_of.values())) > 1
    if labels:
        _refuse_empty_classes(root, set(class_of.values()), tops if has_splits else set())
    rows = []
    for path, name in class_of.items():
        row = Row(
            path=path,
            label=to_nfc(name) if labels and name else None,
            split=SPLIT_OF_NAME[_top_folder(path)] if has_splits else "train",
            group=files.name_film(path),
            fps=fps,
        )
        rows.append(row)
    if (labels or has_splits) and are_groups_single(rows):
        log_once(
            f"{root}: the names of the files tell no films, so every clip counts as its own film "
            "or person, and clips of one may be in train and in test. A csv can name them: --data "
            "csv with a column group.",
            logging.WARNING,
        )
    return Manifest.build(rows, root, hold_out=labels and not has_splits)


def _top_folder(path: str) -> str:
    """The first folder of a path, in lower case."""
    return path.split("/", 1)[0].lower()


def _holds_files(folder: Path) -> bool:
    """Whether there is a file anywhere below a folder."""
    return any(names for _, _, names in os.walk(folder))


def _refuse_empty_classes(root: Path, classes: set[str | None], splits: set[str]) -> None:
    """Raise a UserError if a class folder (in all splits) holds no file at all.

    Then unpacking it has failed or was forgotten. `splits`: folders of splits, in lower case; empty
    if the classes are directly below the root.
    """
    parents = [root]
    if splits:
        parents = [path for path in root.iterdir() if path.name.lower() in splits]
    empty = set()
    for parent in filter(Path.is_dir, parents):
        for path in filter(Path.is_dir, parent.iterdir()):
            is_class = path.name not in classes and not path.name.startswith(".")
            if is_class and not _holds_files(path):
                empty.add(path.name)
    if empty:
        raise UserError(
            f"{root}: class folders {', '.join(sorted(empty)[:3])} hold no files: fill them or "
            "remove them."
        )
