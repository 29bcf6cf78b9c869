"""video id -> its file, its stored features and its seconds, found below two folders: what narrated data sets share."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np

from ssvid.data import files
from ssvid.data.decode import stamps
from ssvid.data.lists import number
from ssvid.data.narration.skipped import LeftOut
from ssvid.data.official import Source, get
from ssvid.data.store import Store, read_features, stored
from ssvid.errors import DecodeError, UserError
from ssvid.shapes import Row

ABSENT, BARE, DAMAGED = "no video", "no features", "damaged video"
LENGTH, WIDTH, ODD = (
    "features of another length",
    "features of another width",
    "features of another form",
)
FAR_S, FAR = 3.0, 0.02  # of a video: by how much its features may be shorter or longer

Missing = Literal["refuse", "skip"]


class Place(NamedTuple):
    path: str = ""  # below the root: of the video, or of its features where there is no video
    features: str = ""
    seconds: float = 0.0  # rows of its features, else of the video
    why: str = ""  # not empty: it cannot be used
    what: str = ""


class Paired:
    """`find` opens what belongs to an id, once. Known `seconds` spare it the scan of a video."""

    def __init__(
        self, root: Path, features: str | None = None, seconds: dict[str, float] | None = None
    ) -> None:
        self.root, self.known = root, seconds or {}
        videos = _by_id(files.videos(root))
        self.store = (
            None
            if features is None
            else files.folder(root / Path(features).expanduser(), "--data.features")
        )
        kept = (
            {}
            if self.store is None
            else _by_id(sorted(p.relative_to(self.store).as_posix() for p in stored(self.store)))
        )
        self.videos, self.stored = (
            {id: paths[0] for id, paths in all.items()} for all in (videos, kept)
        )
        self.spare = [
            (id, path) for all in (videos, kept) for id, paths in all.items() for path in paths[1:]
        ]
        if self.store is not None and not self.stored:
            raise UserError(
                f"{self.store} holds no .npy files: --data.features is a folder of stored features."
            )
        if not self.videos and not self.stored:
            raise UserError(
                f"{root} holds no video files: check --data.root, or give --data.features."
            )
        self.width = Store(self.store).dim if self.store is not None else 0
        self.found: dict[str, Place] = {}

    @property
    def ids(self) -> set[str]:
        return {*self.videos, *self.stored}

    def seconds(self, id: str) -> float | None:
        place = self.find(id)
        return None if place.why else place.seconds

    def find(self, *ids: str) -> Place:
        """Of the first of these ids that is there."""
        id = next((id for id in ids if id in self.videos or id in self.stored), ids[0])
        if id not in self.found:
            self.found[id] = self._look(id)
        return self.found[id]

    def _look(self, id: str) -> Place:
        video, stored = self.videos.get(id), self.stored.get(id)
        if video is None and stored is None:
            return Place(why=ABSENT)
        if self.store is not None and stored is None:
            return Place(why=BARE, what=f"{self.store} has no {id}.npy")
        seconds = self.known.get(id)
        if video is not None and seconds is None:
            try:
                seconds = _seconds(self.root / video)
            except DecodeError as error:
                return Place(why=DAMAGED, what=str(error))
        if stored is None or self.store is None:
            return Place(str(video), "", seconds or 0.0)
        return self._with_features(video, self.store / stored, seconds)

    def _with_features(self, video: str | None, file: Path, seconds: float | None) -> Place:
        try:
            length, width = read_features(file).shape
        except UserError as error:
            return Place(why=ODD, what=str(error))
        if width != self.width:
            return Place(why=WIDTH, what=f"{file} is {width} wide, others {self.width}")
        if not length or seconds is not None and abs(length - seconds) > max(FAR_S, FAR * seconds):
            return Place(
                why=LENGTH, what=f"{file} has {length} rows, the video {seconds or 0:.1f} s"
            )
        path = (
            os.path.relpath(file, self.root)
            if file.is_relative_to(self.root)
            else str(file.absolute())
        )
        return Place(video or path, path, float(length))


def take(
    paired: Paired,
    listed: Iterable[tuple[tuple[str, ...], Row]],
    source: Source,
    how: Missing,
    left: LeftOut,
) -> list[Row]:
    """Rows of a published list, of the files that go by any of the names. `how`: what is done about those missing."""
    rows = []
    for names, row in listed:
        place = paired.find(*names)
        if place.why:
            left.add(names[0], place.why, place.what)
        else:
            rows.append(
                replace(row, path=place.path, features=place.features, duration=place.seconds)
            )
    if left.count and (how == "refuse" or not rows):
        first = left.items[0]
        raise UserError(
            f"{paired.root}: {left.count} of {left.count + len(rows)} listed videos cannot be used ({left.counted()}), "
            f"first {first.where}: check --data.root and --data.features, or take those that are there with "
            f"--data.missing skip. {get(source, source.videos)}"
        )
    return rows


def durations(file: str | Path | None, flag: str) -> dict[str, float]:
    """`id,seconds` a line, with or without a head (HowTo100M's htm_vlen.csv has none)."""
    if file is None:
        return {}
    path = files.file(file, flag)
    parts = [
        line.replace(";", ",").split(",") for line in files.text(path).splitlines() if line.strip()
    ]
    read = [(part[0].strip(), number(part[1])) for part in parts if len(part) == 2]
    found = {id: seconds for id, seconds in read if seconds is not None and seconds > 0}
    if len(found) < max(1, len(parts) - 1):
        raise UserError(f"{path} ({flag}) is not lines of `video id,seconds`, each id once.")
    return found


def _by_id(paths: list[str]) -> dict[str, list[str]]:
    """An id is a file's name without suffixes (ID.mp4, ID.npy, ID.mp4.npy); where several folders have it, its path."""
    bare = [_bare(path) for path in paths]
    stems = Counter(PurePosixPath(name).name for name in set(bare))
    found: dict[str, list[str]] = {}
    for name, path in zip(bare, paths, strict=True):
        stem = PurePosixPath(name).name
        found.setdefault(stem if stems[stem] == 1 else name, []).append(path)
    return found


def _bare(path: str) -> str:
    cut = path.removesuffix(".npy")
    stem, suffix = os.path.splitext(cut)
    return stem if suffix.lower() in files.VIDEO else cut


def _seconds(video: Path) -> float:
    """Until the last frame is over."""
    table = stamps(video)
    if not len(table):
        raise DecodeError(video, "no frames in it")
    return float(table[-1] - table[0] + (np.median(np.diff(table)) if len(table) > 1 else 0.0))
