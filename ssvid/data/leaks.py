"""Two manifests -> the clips of the first that are also in the second; a manifest -> its copies.

A test clip that was seen in pretraining leaks into the score, even without its label.
"""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ssvid.data.manifest import Manifest
from ssvid.shapes import Row


class Leak(NamedTuple):
    """A clip of one manifest that is also in another."""

    row: int
    test_row: int
    why: str  # path | name | content


def find_leaks(pretraining: Manifest, test: Manifest) -> list[Row]:
    """Rows of `pretraining` that are also in `test`: by path, by video id, or by file content."""
    return [pretraining.rows[leak.row] for leak in list_leaks(pretraining, test)]


def list_leaks(pretraining: Manifest, test: Manifest) -> Iterator[Leak]:
    """As `find_leaks`, with the clip of `test` and how it was recognised; one for each row."""
    row_of_path: dict[str, int] = {}
    row_of_id: dict[str, int] = {}
    for i, (name, row) in enumerate(zip(test.video_ids, test.rows, strict=True)):
        row_of_path.setdefault(os.path.realpath(test.path(i)), i)
        if row.video_id or _is_telling(name):
            row_of_id.setdefault(name, i)
    rows_of_size: dict[int, list[int]] | None = None
    digests: dict[int, str] = {}
    for i, row in enumerate(pretraining.rows):
        path, name = pretraining.path(i), pretraining.video_ids[i]
        real_path = os.path.realpath(path)
        if real_path in row_of_path:
            yield Leak(i, row_of_path[real_path], "path")
            continue
        if name in row_of_id and (row.video_id or _is_telling(name)):
            yield Leak(i, row_of_id[name], "name")
            continue
        rows_of_size = _group_by_size(test) if rows_of_size is None else rows_of_size
        candidates = rows_of_size.get(_size(path), [])
        digest = _digest(path) if candidates else ""
        for j in candidates:
            if j not in digests:
                digests[j] = _digest(test.path(j))
            if digests[j] == digest:
                yield Leak(i, j, "content")
                break


def list_copies(data: Manifest) -> Iterator[tuple[int, int]]:
    """Each row whose file has the same bytes as that of an earlier row, and that first row."""
    for rows in _group_by_size(data).values():
        first_of: dict[str, int] = {}
        for row in rows if len(rows) > 1 else ():
            first = first_of.setdefault(_digest(data.path(row)), row)
            if first != row:
                yield row, first


def _is_telling(name: str) -> bool:
    """Whether a name identifies a video.

    `v_Archery_g01_c01` does; names such as `clip_0001` and `0001` are in many data sets.
    """
    return re.fullmatch(r"\D*\d*", name.rsplit("/", 1)[-1]) is None


def _size(path: Path) -> int:
    return os.path.getsize(path) if path.is_file() else -1


def _group_by_size(manifest: Manifest) -> dict[int, list[int]]:
    """Size in bytes -> the rows whose files have it. Folders of frames are left out."""
    rows_of_size: dict[int, list[int]] = defaultdict(list)
    for i in range(len(manifest)):
        path = manifest.path(i)
        if path.is_file():
            rows_of_size[_size(path)].append(i)
    return rows_of_size


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
