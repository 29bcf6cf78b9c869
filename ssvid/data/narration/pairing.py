"""video id -> its file, its stored features and its length, found below two folders.

All narrated data sets use this to pair transcripts with videos.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from ssvid.data import files
from ssvid.data.decode import read_span
from ssvid.data.lists import parse_number
from ssvid.data.narration.skipped import LeftOut
from ssvid.data.official import Source, where_to_get
from ssvid.data.store import Store, list_features, read_features
from ssvid.errors import DecodeError, UserError
from ssvid.log import log_once
from ssvid.shapes import Row

# Reasons. They are written to files.
ABSENT, BARE, DAMAGED = "no video", "no features", "damaged video"
LENGTH = "features of another length"
WIDTH = "features of another width"
ODD = "features of another form"
# Features may be shorter or longer than their video by FAR_S seconds or by this share of it.
FAR_S, FAR = 3.0, 0.02

Missing = Literal["refuse", "skip"]


class VideoFiles(NamedTuple):
    """The files of one video, or the reason why it cannot be used."""

    path: str = ""  # below the root: the video, or its features where there is no video
    features: str = ""
    seconds: float = 0.0  # rows of its features, else the length of the video
    why: str = ""  # empty: it can be used
    details: str = ""


def find_store(root: Path, features: str) -> Path:
    """The folder that --data.features names, from the folder where the command stands.

    An earlier version counted it from --data.root. That works for one more version, with a warning,
    where features lie only there.
    """
    folder = Path(features).expanduser()
    former = root / folder
    if former != folder and holds_features(former) and not holds_features(folder):
        log_once(
            f"--data.features {features} now counts from the current folder, where no features "
            f"are, and no longer from --data.root: give --data.features {former}. The old way "
            "works for one more version.",
            logging.WARNING,
        )
        return former
    return folder


def holds_features(folder: Path) -> bool:
    """Whether a .npy file lies anywhere below the folder."""
    return folder.is_dir() and next(list_features(folder), None) is not None


class VideoFinder:
    """Finds the files of a video id and checks them, each once.

    `features`: folder of stored features. `seconds`: known lengths, which save the scan of a video.
    Raises a UserError if there are neither videos nor features.
    """

    def __init__(
        self, root: Path, features: str | None = None, seconds: dict[str, float] | None = None
    ) -> None:
        self.root, self.known_seconds = root, seconds or {}
        self.store: Path | None = None
        self.spare: list[tuple[str, str]] = []  # id and path of further files of the same id
        self.videos = self._first_of_id(files.list_videos(root))
        self.stored: dict[str, str] = {}
        if features is not None:
            folder = find_store(root, features)
            self.store = files.need_folder(folder, "--data.features")
            paths = [path.relative_to(folder).as_posix() for path in list_features(folder)]
            self.stored = self._first_of_id(sorted(paths))
            if not self.stored:
                raise UserError(
                    f"{folder} holds no .npy files: --data.features is a folder of stored features."
                )
        if not self.videos and not self.stored:
            raise UserError(
                f"{root} holds no video files: check --data.root, or give --data.features."
            )
        self.width = Store(self.store).dim if self.store is not None else 0
        self.checked: dict[str, VideoFiles] = {}

    def _first_of_id(self, paths: list[str]) -> dict[str, str]:
        first = {}
        for id, paths_of_id in _group_by_id(paths).items():
            first[id] = paths_of_id[0]
            self.spare += [(id, path) for path in paths_of_id[1:]]
        return first

    @property
    def ids(self) -> set[str]:
        return {*self.videos, *self.stored}

    def seconds(self, id: str) -> float | None:
        """The length of a video; None if it cannot be used."""
        video = self.find(id)
        return None if video.why else video.seconds

    def find(self, *ids: str) -> VideoFiles:
        """The files of the first of these ids that exists."""
        id = next((id for id in ids if id in self.videos or id in self.stored), ids[0])
        if id not in self.checked:
            self.checked[id] = self._check(id)
        return self.checked[id]

    def _check(self, id: str) -> VideoFiles:
        video, stored = self.videos.get(id), self.stored.get(id)
        if video is None and stored is None:
            return VideoFiles(why=ABSENT)
        if self.store is not None and stored is None:
            return VideoFiles(why=BARE, details=f"{self.store} has no {id}.npy")
        seconds = self.known_seconds.get(id)
        if video is not None and seconds is None:
            try:
                seconds = _measure_seconds(self.root / video)
            except DecodeError as error:
                return VideoFiles(why=DAMAGED, details=str(error))
        if stored is None or self.store is None:
            return VideoFiles(str(video), "", seconds or 0.0)
        return self._check_features(video, self.store / stored, seconds)

    def _check_features(self, video: str | None, file: Path, seconds: float | None) -> VideoFiles:
        try:
            length, width = read_features(file).shape
        except UserError as error:
            return VideoFiles(why=ODD, details=str(error))
        if width != self.width:
            details = f"{file} is {width} wide, others {self.width}"
            return VideoFiles(why=WIDTH, details=details)
        if not length or seconds is not None and abs(length - seconds) > max(FAR_S, FAR * seconds):
            details = f"{file} has {length} rows, the video {seconds or 0:.1f} s"
            return VideoFiles(why=LENGTH, details=details)
        is_below = file.absolute().is_relative_to(self.root.absolute())
        path = os.path.relpath(file, self.root) if is_below else str(file.absolute())
        return VideoFiles(video or path, path, float(length))


def pair_rows(
    finder: VideoFinder,
    listed: Iterable[tuple[tuple[str, ...], Row]],  # possible ids of a video, and its row
    source: Source,
    missing: Missing,
    left: LeftOut,
) -> list[Row]:
    """The rows of a published list with the files of their videos.

    Videos that cannot be used are added to `left`. A UserError is raised if `missing` is "refuse"
    and there are any, or if no video can be used.
    """
    rows = []
    for ids, row in listed:
        video = finder.find(*ids)
        if video.why:
            left.add(ids[0], video.why, video.details)
        else:
            rows.append(
                replace(row, path=video.path, features=video.features, duration=video.seconds)
            )
    if left.count and (missing == "refuse" or not rows):
        raise UserError(
            f"{finder.root}: {left.count} of {left.count + len(rows)} listed videos cannot be used "
            f"({left.describe()}), first {left.items[0].where}: check --data.root and "
            "--data.features, or take those that are there with --data.missing skip. "
            f"{where_to_get(source, source.videos)}"
        )
    return rows


def read_durations(file: str | Path | None, flag: str) -> dict[str, float]:
    """id -> seconds, from lines of `id,seconds`; the first line may name the columns.

    HowTo100M's htm_vlen.csv is such a file, without names. Raises a UserError for another form.
    """
    if file is None:
        return {}
    path = files.need_file(file, flag)
    lines = list(filter(str.strip, files.read_text(path).splitlines()))
    durations = {}
    for line in lines:
        fields = line.replace(";", ",").split(",")
        seconds = parse_number(fields[1]) if len(fields) == 2 else None
        if seconds is not None and seconds > 0:
            durations[fields[0].strip()] = seconds
    if len(durations) < max(1, len(lines) - 1):
        raise UserError(f"{path} ({flag}) is not lines of `video id,seconds`, each id once.")
    return durations


def _group_by_id(paths: list[str]) -> dict[str, list[str]]:
    """id -> its paths. The id is a file's name without suffixes (ID.mp4, ID.npy, ID.mp4.npy).

    Where several folders have a file of that name, the id is the path without suffixes.
    """
    names = list(map(_without_suffixes, paths))
    counts = Counter(PurePosixPath(name).name for name in set(names))
    paths_of_id: dict[str, list[str]] = {}
    for name, path in zip(names, paths, strict=True):
        stem = PurePosixPath(name).name
        paths_of_id.setdefault(stem if counts[stem] == 1 else name, []).append(path)
    return paths_of_id


def _without_suffixes(path: str) -> str:
    cut = path.removesuffix(".npy")
    return os.path.splitext(cut)[0] if files.is_video(cut) else cut


def _measure_seconds(video: Path) -> float:
    """The length of a video, from the start of the file until its last frame is over."""
    span = read_span(video)
    return span.end - span.start
