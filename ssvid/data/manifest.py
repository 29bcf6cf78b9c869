"""Rows -> Manifest, the one list of clips.

Every data set ends in `Manifest.build`, which normalises the paths, checks the rows and makes the
splits that are missing.
"""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from ssvid.data.files import VIDEO_SUFFIXES, spell_as_on_disk
from ssvid.data.parts import Mixture
from ssvid.data.splits import SPLIT_OF_NAME, describe_change, fill_splits
from ssvid.errors import UserError
from ssvid.log import log_once
from ssvid.shapes import Row, Views

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Manifest:
    """The clips of a data set, or of one of its splits."""

    rows: tuple[Row, ...]
    root: Path
    classes: tuple[str, ...] = ()  # of the whole data set, also after split() and take()
    # Of a set that is drawn: the set that is drawn for the views of an objective.
    redraw: Callable[[Views], "Manifest"] | None = None
    mixture: Mixture | None = None  # the data sets that the rows come from, if they are several
    source: str = ""  # the list or the folder that messages name; left out: the root

    @classmethod
    def build(
        cls,
        rows: Iterable[Row],
        root: str | Path,
        *,
        source: str | Path | None = None,  # the list file that errors name; default: root
        hold_out: bool = False,  # take a val and a test from rows that are all in train
    ) -> "Manifest":
        """A manifest with normalised paths, filled-in groups and the splits that were missing.

        Raises a UserError if there are no rows, a file is missing or listed twice, a split is
        unknown, or a group is in two splits.
        """
        root = Path(root)
        source = source or root
        listed = tuple(_normalise_path(row, root) for row in rows)
        if not listed:
            raise UserError(f"{source} lists no clips: check --data.root and the data set's name.")
        _check(listed, root, source)
        split = fill_splits(listed, hold_out)
        if split != listed:
            counts = Counter(row.split for row in split)
            clips = f"{counts['train']} train, {counts['val']} val, {counts['test']} test"
            log_once(f"{source}: {describe_change(listed)}: {clips} clips.")
        classes: set[str] = set()
        for row in split:
            classes |= row.classes
        return cls(split, root, tuple(sorted(classes)), source=str(source))

    def suit(self, views: Views) -> "Manifest":
        """The data for these views. Recorded data stay as they are.

        A set that is drawn gets what the views lack: longer videos, flow or features.
        """
        return self if self.redraw is None else self.redraw(views)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def title(self) -> str:
        """What messages call the data. The root of a list in the current folder is a mere dot."""
        return self.source or str(self.root)

    def list_batch_sources(self) -> list["Manifest"]:
        """The data that a batch is drawn from: each part of a mixture whose batches alternate."""
        if self.mixture is None or self.mixture.order != "alternate":
            return [self]
        sources = []
        for name in self.mixture.names:
            rows = filter(lambda row: row.source == name, self.rows)
            sources.append(replace(self, rows=tuple(rows), source=f"--data.parts.{name}"))
        return sources

    def split(self, name: str) -> "Manifest":
        """The rows of one split; a UserError if there is no such split."""
        if name not in SPLITS:
            raise UserError(f"There is no split {name!r}: splits are {', '.join(SPLITS)}.")
        return replace(self, rows=tuple(filter(lambda row: row.split == name, self.rows)))

    def take(self, indices: Sequence[int] | Tensor) -> "Manifest":
        """The rows with these indices, in this order."""
        return replace(self, rows=tuple(self.rows[int(i)] for i in indices))

    @cached_property
    def labels(self) -> Tensor:
        """int64 S: ids into `classes`, -1 where a row has no label."""
        ids = self._class_ids()
        labels = [-1 if row.label is None else ids[row.label] for row in self.rows]
        return torch.tensor(labels, dtype=torch.int64)

    @cached_property
    def targets(self) -> Tensor:
        """bool S Q: the classes of each clip, from its label, its segments or its boxes."""
        ids = self._class_ids()
        targets = torch.zeros(len(self.rows), len(self.classes), dtype=torch.bool)
        for target, row in zip(targets, self.rows, strict=True):
            for name in row.classes:
                target[ids[name]] = True
        return targets

    def _class_ids(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.classes)}

    @cached_property
    def groups(self) -> list[str]:
        return [row.group for row in self.rows]

    def path(self, i: int) -> Path:
        return self.root / self.rows[i].path

    def locate(self, i: int) -> tuple[Path, str]:
        """The root of the data set that a row comes from, and the row's path below it."""
        row = self.rows[i]
        for part in self.mixture.parts if self.mixture else ():
            if part.name == row.source:
                return part.root, row.path.removeprefix(part.prefix)
        return self.root, row.path

    @cached_property
    def video_ids(self) -> list[str]:
        """The row's own id; else its file's stem if it is unique; else its path without suffix."""
        stems = [_stem(row.path) for row in self.rows]
        counts = Counter(stems)
        ids = []
        for row, stem in zip(self.rows, stems, strict=True):
            path = str(PurePosixPath(row.path).with_name(stem))
            ids.append(row.video_id or (stem if counts[stem] == 1 else path))
        return ids

    def video_id(self, i: int) -> str:
        return self.video_ids[i]

    @cached_property
    def hash(self) -> str:
        """Hash of the rows; the same on every machine, whatever the root."""
        # A file name may hold bytes that are no UTF-8; Python reads them as surrogates.
        text = "\n".join(map(_hashed_line, self._own_rows()))
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()

    def _own_rows(self) -> Iterable[Row]:
        """The rows with the paths that their own data sets have, below the roots of those."""
        if self.mixture is None:
            return self.rows
        prefix_of = {part.name: part.prefix for part in self.mixture.parts}
        rows = []
        for row in self.rows:
            path = row.path.removeprefix(prefix_of[row.source])
            rows.append(replace(row, path=path, group=f"{row.source}/{row.group}"))
        return rows


def select_labelled(data: Manifest) -> Manifest:
    """The rows that have a label, in all three splits.

    Raises a UserError if clips have several classes, if all have one, if a split has no labelled
    clips, or if val or test has classes that train lacks.
    """
    labelled = data.take((data.labels >= 0).nonzero()[:, 0])
    if not len(labelled) and data.classes:
        raise UserError(
            f"{data.title}: clips have several classes (segments or boxes); this score needs one "
            "label for each clip."
        )
    if not len(labelled):
        raise UserError(_explain_absent_labels(data))
    for split in SPLITS:
        if not len(labelled.split(split)):
            raise UserError(
                f"{data.title} has no labelled clips in the {split} split: a score needs train and "
                "test."
            )
    trained = _labels_of(labelled, "train")
    for split in ("val", "test"):
        unseen = sorted(_labels_of(labelled, split) - trained)
        if unseen:
            raise UserError(
                f"{data.title}: {split} has classes that train lacks ({', '.join(unseen[:3])}): "
                "correct the labels."
            )
    if len(trained) == 1:
        raise UserError(f"{data.title} has one class, {trained.pop()}: a score needs two or more.")
    return labelled


def _labels_of(data: Manifest, split: str) -> set[str]:
    return {str(row.label) for row in data.split(split).rows}


LAYOUT = "ROOT/CLASS/clip.mp4, or ROOT/train/CLASS/clip.mp4 with test (and val) beside train"


def _explain_absent_labels(data: Manifest) -> str:
    """Why no clip of the data has a label, and how files are laid out for a data set of folders."""
    folder, first = _find_single_folder(data), data.rows[0].path
    if not folder:
        return (
            f"{data.title} has no labelled clips, and a score needs them: {first} has no class. A "
            f"folder of videos is laid out as {LAYOUT}; a csv has a column label."
        )
    below = data.root / folder
    inner = {PurePosixPath(row.path).parent.name for row in data.rows}
    if len(inner) > 1:
        return (
            f"{data.title} has no labelled clips: the folder {folder} stands alone in it, and what "
            f"lies there are the folders {', '.join(sorted(inner)[:3])}, .... Classes are the "
            f"folders of --data.root ({LAYOUT}): give --data.root {below}."
        )
    return (
        f"{data.title} has one class, for all clips lie in one folder, {folder}: a score needs two "
        f"class folders or more ({LAYOUT})."
    )


def _find_single_folder(data: Manifest) -> str:
    """The folder of all clips, below those of the splits; empty if they lie in several or none."""
    folders = set()
    for row in data.rows:
        parts = PurePosixPath(row.path).parts[:-1]
        has_split = len(parts) > 1 and parts[0].lower() in SPLIT_OF_NAME
        folders.add(parts[has_split] if parts else "")
    return folders.pop() if len(folders) == 1 else ""


def _hashed_line(row: Row) -> str:
    """The fields of a row that are hashed.

    Clips of several classes and clips with sentences or questions have fields that others lack,
    because the hashes of the others are older than these fields.
    """
    fields = [row.path, row.label or "", row.split, row.group]
    if row.segments or row.boxes:
        fields.append(json.dumps([row.segments, row.boxes]))
    if row.sentences:
        fields.append(json.dumps(row.sentences))
    if row.questions:
        fields.append(json.dumps(row.questions))
    return "\t".join(fields)


def _normalise_path(row: Row, root: Path) -> Row:
    """`./a.mp4` and `x/../a.mp4` become `a.mp4`, and so does a group that is the path.

    Accents are spelled as on the disk.
    """
    path = os.path.normpath(row.path)
    if path != row.path and ".." in row.path and not _is_same(root / path, root / row.path):
        path = row.path  # x is a link, so x/.. is another folder
    path = spell_as_on_disk(root, path)
    return replace(row, path=path, group=path if row.group in ("", row.path) else row.group)


def _is_same(first: Path, second: Path) -> bool:
    return os.path.realpath(first) == os.path.realpath(second)


def _check(rows: tuple[Row, ...], root: Path, source: str | Path) -> None:
    for row in rows:
        if row.split not in SPLITS:
            raise UserError(
                f"{source}: {row.path} is in split {row.split!r}; splits are {', '.join(SPLITS)}."
            )
    _check_files(rows, root, source)
    splits_of_group: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        splits_of_group[row.group].add(row.split)
    for group, splits in splits_of_group.items():
        if len(splits) > 1:
            raise UserError(
                f"{source}: group {group!r} is in splits {' and '.join(sorted(splits))}, which "
                "would let a film or a person be learnt from and tested on: correct the list, or "
                "name the right column with --data.group."
            )


def _check_files(rows: tuple[Row, ...], root: Path, source: str | Path) -> None:
    """Every file exists and is listed once."""
    real_paths = _real_paths(rows, root)
    first: dict[str, str] = {}  # real path of a file -> the path of its first row
    repeats, absent = [], []
    for row, real_path in zip(rows, real_paths, strict=True):
        path = real_path or row.path
        if path in first:
            repeats.append((first[path], row.path))
        first.setdefault(path, row.path)
        if real_path is None:
            absent.append(row.path)
    if repeats:
        old, new = repeats[0]
        again = f" (again as {new})" if new != old else ""
        raise UserError(
            f"{source} lists {len(repeats)} files more than once, first {old}{again}: keep one row "
            "for each file."
        )
    if absent:
        raise UserError(
            f"{source}: {len(absent)} of {len(rows)} files are missing, first {absent[0]}: check "
            "--data.root."
        )


def _real_paths(rows: tuple[Row, ...], root: Path) -> list[str | None]:
    """The real path of each row's file; None where it is missing.

    Each folder is listed once, because 240k stats take minutes on a network disk.
    """
    listing: dict[str, tuple[str, dict[str, bool]]] = {}
    real_paths: list[str | None] = []
    for row in rows:
        folder, name = os.path.split(root.absolute() / row.path)  # a bare name has no folder
        if folder not in listing:
            listing[folder] = os.path.realpath(folder), _list_links(folder)
        real_folder, is_link = listing[folder]
        if name not in is_link:
            real_paths.append(None)
        elif is_link[name]:
            real_paths.append(os.path.realpath(os.path.join(folder, name)))
        else:
            real_paths.append(os.path.join(real_folder, name))
    return real_paths


def _list_links(folder: str) -> dict[str, bool]:
    """Name of each entry of a folder -> whether it is a link. One listing tells both."""
    if not os.path.isdir(folder):
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.is_symlink() for entry in entries}


def _stem(path: str) -> str:
    """The name without the suffix of a video. The name of a folder of frames may hold dots."""
    pure = PurePosixPath(path)
    return pure.stem if pure.suffix.lower() in VIDEO_SUFFIXES else pure.name
