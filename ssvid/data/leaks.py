"""Two manifests -> the clips of the first that are also in the second.

A test clip that was seen in pretraining leaks into the score, even without its label.
"""

import hashlib
import os
import re
from collections import defaultdict
from pathlib import Path

from ssvid.data.manifest import Manifest
from ssvid.shapes import Row


def find_leaks(pretraining: Manifest, test: Manifest) -> list[Row]:
    """Rows of `pretraining` that are also in `test`: by path, by video id, or by file content."""
    paths = {os.path.realpath(test.path(i)) for i in range(len(test))}
    ids = set()
    for name, row in zip(test.video_ids, test.rows, strict=True):
        if row.video_id or _is_telling(name):
            ids.add(name)
    files_of_size: dict[int, set[Path]] | None = None
    leaked = []
    for i, row in enumerate(pretraining.rows):
        path, name = pretraining.path(i), pretraining.video_ids[i]
        same_id = name in ids and (row.video_id or _is_telling(name))
        if same_id or os.path.realpath(path) in paths:
            leaked.append(row)
            continue
        files_of_size = _group_by_size(test) if files_of_size is None else files_of_size
        same_size = files_of_size.get(_size(path), set())
        if same_size and _digest(path) in set(map(_digest, same_size)):
            leaked.append(row)
    return leaked


def _is_telling(name: str) -> bool:
    """Whether a name identifies a video.

    `v_Archery_g01_c01` does; names such as `clip_0001` and `0001` are in many data sets.
    """
    return re.fullmatch(r"\D*\d*", name.rsplit("/", 1)[-1]) is None


def _size(path: Path) -> int:
    return os.path.getsize(path) if path.is_file() else -1


def _group_by_size(manifest: Manifest) -> dict[int, set[Path]]:
    """Size in bytes -> the files of that size. Folders of frames are left out."""
    files_of_size: dict[int, set[Path]] = defaultdict(set)
    for i in range(len(manifest)):
        path = manifest.path(i)
        if path.is_file():
            files_of_size[_size(path)].add(path)
    return files_of_size


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
