"""Rows -> Manifest: the one list of clips, and the only place where splits are made and checked."""

import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from ssvid.data.files import VIDEO
from ssvid.errors import UserError
from ssvid.log import log_once
from ssvid.shapes import Row

SPLITS = ("train", "val", "test")
HELD_OUT = 0.2  # of the train groups, where a list has no val (or no test) of its own


@dataclass(frozen=True, eq=False)
class Manifest:
    rows: tuple[Row, ...]
    root: Path
    classes: tuple[str, ...] = ()  # over the whole manifest, also after split() and take()

    @classmethod
    def build(
        cls,
        rows: Iterable[Row],
        root: str | Path,
        *,
        source: str | Path | None = None,  # what faults are said of: the list file; default: root
        hold_out: bool = False,  # rows that are all for training give a val and a test of their own
    ) -> "Manifest":
        """The rows with paths made plain, every check made, groups filled in and the splits that are wanting made."""
        root = Path(root)
        source = source or root
        given = tuple(_plain(row, root) for row in rows)
        if not given:
            raise UserError(f"{source} lists no clips: check --data.root and the data set's name.")
        _check(given, root, source)
        made = _splits(given, hold_out)
        if made != given:
            _say_splits(source, given, made)
        return cls(made, root, tuple(sorted(set().union(*(row.classes for row in made)))))

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, name: str) -> "Manifest":
        if name not in SPLITS:
            raise UserError(f"There is no split {name!r}: splits are {', '.join(SPLITS)}.")
        return replace(self, rows=tuple(row for row in self.rows if row.split == name))

    def take(self, indices: Sequence[int] | Tensor) -> "Manifest":
        return replace(self, rows=tuple(self.rows[int(i)] for i in indices))

    @cached_property
    def labels(self) -> Tensor:
        """int64 ids into `classes`, -1 where a row has no label."""
        ids = {name: i for i, name in enumerate(self.classes)}
        return torch.tensor(
            [-1 if row.label is None else ids[row.label] for row in self.rows], dtype=torch.int64
        )

    @cached_property
    def targets(self) -> Tensor:
        """bool S Q: the classes that a clip holds, be it by its label, its segments or its boxes."""
        ids = {name: i for i, name in enumerate(self.classes)}
        held = torch.zeros(len(self.rows), len(self.classes), dtype=torch.bool)
        for row, clip in zip(held, self.rows, strict=True):
            row[[ids[name] for name in clip.classes]] = True
        return held

    @cached_property
    def groups(self) -> list[str]:
        return [row.group for row in self.rows]

    def path(self, i: int) -> Path:
        return self.root / self.rows[i].path

    @cached_property
    def video_ids(self) -> list[str]:
        """A row's own id, else its file's stem where that is unique, else its path without the suffix."""
        stems = Counter(_stem(row.path) for row in self.rows)
        bare = [_stem(row.path) for row in self.rows]
        long = [
            str(PurePosixPath(row.path).with_name(stem))
            for row, stem in zip(self.rows, bare, strict=True)
        ]
        names = [stem if stems[stem] == 1 else path for stem, path in zip(bare, long, strict=True)]
        return [row.video_id or name for row, name in zip(self.rows, names, strict=True)]

    def video_id(self, i: int) -> str:
        return self.video_ids[i]

    @cached_property
    def hash(self) -> str:
        """Of what the rows say; the same on every machine, whatever the root."""
        lines = (
            "\t".join((row.path, row.label or "", row.split, row.group, *_several(row)))
            for row in self.rows
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def carve(rows: Iterable[Row], into: str, share: float = HELD_OUT) -> tuple[Row, ...]:
    """Move about `share` of the train groups into another split: whole groups, chosen by the hash of their names.

    Each class with two groups or more keeps one on either side. Rows of other splits stay as they are. A clip of
    several classes counts for each of them, so that more than `share` may move.
    """
    rows = tuple(rows)
    groups: dict[str, set[str]] = defaultdict(set)  # class -> groups
    classes: dict[str, set[str]] = defaultdict(set)  # group -> classes
    for row in rows:
        if row.split == "train":
            for label in row.classes or {""}:
                groups[label].add(row.group)
                classes[row.group].add(label)
    moved: set[str] = set()
    left = {
        label: len(names) for label, names in groups.items()
    }  # counts: 240k groups of no class make sets too slow
    for label in sorted(groups):
        own = sorted(
            groups[label], key=lambda group: hashlib.sha256(f"{into}/{group}".encode()).hexdigest()
        )
        wanted = max(1, round(share * len(own))) if len(own) > 1 else 0
        for group in own:
            if len(own) - left[label] >= wanted:
                break
            if group not in moved and all(left[other] > 1 for other in classes[group]):
                moved.add(group)
                left.update((other, left[other] - 1) for other in classes[group])
    return tuple(
        replace(row, split=into) if row.split == "train" and row.group in moved else row
        for row in rows
    )


def labelled(data: Manifest) -> Manifest:
    """The rows that have a label, in all three splits."""
    kept = data.take([i for i, label in enumerate(data.labels.tolist()) if label >= 0])
    if not len(kept) and data.classes:
        raise UserError(
            f"{data.root}: clips hold several classes (segments or boxes); this score wants one label a clip."
        )
    for split in SPLITS:
        if not len(kept.split(split)):
            raise UserError(
                f"{data.root} has no labelled clips in the {split} split: a score needs train and test."
            )
    known = {row.label for row in kept.split("train").rows}
    unseen = sorted({str(row.label) for row in kept.split("test").rows if row.label not in known})
    if unseen:
        raise UserError(
            f"{data.root}: test has classes that train lacks ({', '.join(unseen[:3])}): mend the labels."
        )
    return kept


def leaks(pretraining: Manifest, test: Manifest) -> list[Row]:
    """Rows of `pretraining` that are also in `test`: by path, by the video's id, or by the file's content."""
    paths = {os.path.realpath(test.path(i)) for i in range(len(test))}
    ids = {
        name
        for name, row in zip(test.video_ids, test.rows, strict=True)
        if row.video_id or _telling(name)
    }
    contents: dict[int, set[Path]] | None = None
    found = []
    for i, row in enumerate(pretraining.rows):
        known = pretraining.video_ids[i] in ids and (
            row.video_id or _telling(pretraining.video_ids[i])
        )
        if known or os.path.realpath(pretraining.path(i)) in paths:
            found.append(row)
            continue
        contents = _sizes(test) if contents is None else contents
        same_size = contents.get(_size(pretraining.path(i)), set())
        if same_size and _digest(pretraining.path(i)) in {_digest(path) for path in same_size}:
            found.append(row)
    return found


def _several(row: Row) -> list[str]:
    """What a hash adds for clips of several classes or sentences: nothing for others, whose hashes are older."""
    found = [json.dumps([row.segments, row.boxes])] if row.segments or row.boxes else []
    return [*found, json.dumps(row.sentences)] if row.sentences else found


def _plain(row: Row, root: Path) -> Row:
    """`./a.mp4` and `x/../a.mp4` become `a.mp4`, and so does a group that is the path."""
    path = os.path.normpath(row.path)
    if (
        path != row.path
        and ".." in row.path
        and os.path.realpath(root / path) != os.path.realpath(root / row.path)
    ):
        path = row.path  # x is a link: x/.. lies elsewhere
    return replace(row, path=path, group=path if row.group in ("", row.path) else row.group)


def _check(rows: tuple[Row, ...], root: Path, source: str | Path) -> None:
    for row in rows:
        if row.split not in SPLITS:
            raise UserError(
                f"{source}: {row.path} is in split {row.split!r}; splits are {', '.join(SPLITS)}."
            )
    places = _places(rows, root)
    first: dict[str, str] = {}  # where a file is -> its first row's path
    twice = []
    for row, place in zip(rows, places, strict=True):
        if (place or row.path) in first:
            twice.append((first[place or row.path], row.path))
        first.setdefault(place or row.path, row.path)
    if twice:
        old, new = twice[0]
        again = f" (again as {new})" if new != old else ""
        raise UserError(
            f"{source} lists {len(twice)} files more than once, first {old}{again}: keep one row for each file."
        )
    absent = [row.path for row, place in zip(rows, places, strict=True) if place is None]
    if absent:
        raise UserError(
            f"{source}: {len(absent)} of {len(rows)} files are missing, first {absent[0]}: check --data.root."
        )
    where: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        where[row.group].add(row.split)
    for group, splits in where.items():
        if len(splits) > 1:
            raise UserError(
                f"{source}: group {group!r} stands in splits {' and '.join(sorted(splits))}, which leaks training "
                "clips into the score: mend the list, or name the right column with --data.group."
            )


def _places(rows: tuple[Row, ...], root: Path) -> list[str | None]:
    """Each row's real path; None: missing. One listing per folder: 240k stats take minutes on a network disk."""
    listing: dict[str, tuple[str, dict[str, bool]]] = {}
    places: list[str | None] = []
    for row in rows:
        folder, name = os.path.split(root.absolute() / row.path)  # a bare name lies in no folder
        if folder not in listing:
            listing[folder] = os.path.realpath(folder), _links(folder)
        real, links = listing[folder]
        if name not in links:
            places.append(None)
        else:
            places.append(
                os.path.realpath(os.path.join(folder, name))
                if links[name]
                else os.path.join(real, name)
            )
    return places


def _links(folder: str) -> dict[str, bool]:
    """Names in a folder, and whether each is a link; a listing tells both."""
    if not os.path.isdir(folder):
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.is_symlink() for entry in entries}


def _splits(rows: tuple[Row, ...], hold_out: bool) -> tuple[Row, ...]:
    """No test: val becomes the test. No val then: a fifth of the train groups. Only train: as `hold_out` says."""
    given = {row.split for row in rows}
    if given == {"train"}:
        rows = carve(rows, "test") if hold_out else rows
    elif "test" not in given:
        rows = tuple(replace(row, split="test") if row.split == "val" else row for row in rows)
    present = {row.split for row in rows}
    return rows if present == {"train"} or "val" in present else carve(rows, "val")


def _say_splits(source: str | Path, given: tuple[Row, ...], made: tuple[Row, ...]) -> None:
    before, after = ({row.split for row in given}, Counter(row.split for row in made))
    if before == {"train"}:
        why = "no split given, whole groups are held out"
    elif "test" not in before:
        why = "no test given, val is the test and whole groups of train are val"
    else:
        why = "no val given, whole groups of train are val"
    log_once(
        f"{source}: {why}: " + ", ".join(f"{after[name]} {name}" for name in SPLITS) + " clips."
    )


def _stem(path: str) -> str:
    pure = PurePosixPath(path)
    return (
        pure.stem if pure.suffix.lower() in VIDEO else pure.name
    )  # a folder of frames may hold dots


def _telling(name: str) -> bool:
    """`v_Archery_g01_c01` says which video it is; `clip_0001` and `0001` stand in many data sets."""
    return re.fullmatch(r"\D*\d*", name.rsplit("/", 1)[-1]) is None


def _size(path: Path) -> int:
    return os.path.getsize(path) if path.is_file() else -1


def _sizes(manifest: Manifest) -> dict[int, set[Path]]:
    sizes: dict[int, set[Path]] = defaultdict(set)
    for i in range(len(manifest)):
        path = manifest.path(i)
        if path.is_file():
            sizes[_size(path)].add(path)
    return sizes


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
