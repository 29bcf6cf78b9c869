"""Folders -> file names: what the data sets and `prepare` look for on a disk.

Checks that a folder or file exists, lists video files, and finds the file that a list means.
"""

import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ssvid.data.labels import compose
from ssvid.data.pictures import is_picture
from ssvid.data.splits import SPLIT
from ssvid.errors import UserError
from ssvid.files import read_bytes
from ssvid.log import log, log_once

VIDEO = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"),
        *(".ts", ".m2ts", ".mts", ".wmv", ".flv", ".3gp", ".ogv", ".vob"),
    )
)
# Files that lie beside videos and are no samples.
TEXTS = frozenset(
    (
        *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".rst"),
        *(".srt", ".vtt", ".html", ".pdf", ".log", ".py", ".sh"),
    )
)
MOST_SUFFIXES = 8  # that a line counts
# File names of UCF101 and of Kinetics.
FILMS = re.compile(r"(?P<film>.+_g\d+)_c\d+|(?P<youtube>.{11})_\d{6}_\d{6}")


def name_film(path: str) -> str:
    """The name that all clips of one film share, where their file names show it; else the path."""
    match = FILMS.fullmatch(PurePosixPath(path).stem)
    return path if match is None else match["film"] or match["youtube"]


def need_folder(path: str | Path, flag: str) -> Path:
    """The path with `~` expanded. A UserError names the flag if it is not a folder."""
    path = Path(path).expanduser()
    if not path.is_dir():
        fault = "is a file" if path.exists() else "does not exist"
        raise UserError(f"{path} {fault}: {flag} is a folder.")
    return path


def need_file(path: str | Path, flag: str) -> Path:
    """The path with `~` expanded. A UserError names the flag if it is not a file."""
    path = Path(path).expanduser()
    if not path.is_file():
        fault = "is a folder" if path.exists() else "does not exist"
        raise UserError(f"{path} {fault}: {flag} is a file.")
    return path


def read_text(path: Path) -> str:
    """The text of a list file, with its line ends unchanged. A UserError if it is not UTF-8."""
    try:
        data = read_bytes(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    try:
        decoded = data.decode("utf-8-sig")
        wrong = decoded.find("\0")
    except UnicodeDecodeError as error:
        decoded, wrong = "", error.start
    if wrong >= 0:
        line = data.count(b"\n", 0, wrong) + 1
        raise UserError(
            f"{path}, line {line} is not UTF-8 text: check that this is the list, or save it as "
            "UTF-8."
        )
    return decoded


def is_video(name: str) -> bool:
    """Whether the suffix of a file name is one of a video."""
    return suffix_of(name) in VIDEO


def suffix_of(name: str) -> str:
    return os.path.splitext(name)[1].lower()


class Contents(NamedTuple):
    """What lies below a folder, hidden files and folders apart. Paths are relative and sorted."""

    videos: list[str]
    frame_folders: list[str]  # folders that hold pictures
    suffixes: Counter[str]  # suffix of a file -> number of files


def list_contents(root: Path) -> Contents:
    """The videos and the folders of pictures below root, with forward slashes."""
    contents = Contents([], [], Counter())
    for folder, names in _walk(root):
        contents.videos.extend(str(folder / name) for name in filter(is_video, names))
        if any(map(is_picture, names)):
            contents.frame_folders.append(str(folder))
        contents.suffixes.update(map(suffix_of, names))
    contents.videos.sort()
    contents.frame_folders.sort()
    return contents


def _walk(root: Path) -> Iterator[tuple[PurePosixPath, list[str]]]:
    """Each folder, relative to root, and the names of its files, without hidden ones.

    Links are followed, but each folder is read once: a link may lead to a folder above it. Folders
    that are no links come first, so that files keep their usual paths.
    """
    visited_folders: set[tuple[int, int]] = set()
    starts = [str(root)]
    while starts:
        for directory, folders, names in os.walk(starts.pop(0)):
            stat = os.stat(directory)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if (stat.st_dev, stat.st_ino) in visited_folders:
                log.info(f"{directory} leads to a folder that is read already: it is passed over.")
                folders.clear()
                continue
            visited_folders.add((stat.st_dev, stat.st_ino))
            paths = [os.path.join(directory, name) for name in folders]
            starts += filter(os.path.islink, paths)
            inside = PurePosixPath(Path(os.path.relpath(directory, root)).as_posix())
            yield inside, [name for name in names if not name.startswith(".")]


def list_videos(root: Path) -> list[str]:
    """Video files below root, as sorted relative paths with forward slashes."""
    return list_contents(root).videos


def tell_other_files(root: Path, suffixes: Counter[str], readable: frozenset[str]) -> None:
    """Log one line that counts the files which a reader passes over, by suffix.

    `readable`: suffixes that it reads. Texts are not counted: they are lists, notes or subtitles.
    """
    others = []
    for suffix, count in suffixes.most_common():
        if suffix not in readable and suffix not in TEXTS:
            others.append(f"{count} {suffix or 'without a suffix'}")
    if others:
        rest_mark = ", ..." if len(others) > MOST_SUFFIXES else ""
        counts = ", ".join(others[:MOST_SUFFIXES])
        log_once(f"{root}: files of other kinds are passed over: {counts}{rest_mark}.")


def spell_as_on_disk(root: Path, path: str) -> str:
    """The path as the disk spells it, where accents may be composed with their letters or not.

    A path that is on the disk, or that is not there in either spelling, is returned as it is.
    """
    if path.isascii() or os.path.lexists(root / path):
        return path
    spelled = PurePosixPath()
    for part in PurePosixPath(path).parts:
        folder = root / spelled
        alike: tuple[str, ...] = ()
        if not os.path.lexists(folder / part) and folder.is_dir():
            names = _list_composed(str(folder), folder.stat().st_mtime_ns)
            alike = names.get(compose(part), ())
        spelled /= alike[0] if len(alike) == 1 else part
    return str(spelled) if os.path.lexists(root / spelled) else path


@lru_cache(maxsize=64)  # because each file of a large folder may be asked for
def _list_composed(folder: str, mtime: int) -> dict[str, tuple[str, ...]]:
    """Composed name -> the names that a folder has for it."""
    names: dict[str, tuple[str, ...]] = {}
    for name in os.listdir(folder):
        names[compose(name)] = (*names.get(compose(name), ()), name)
    return names


class Finder:
    """A name in a list -> the file that it means.

    Names are compared without the suffix of a video, and accents may be composed or not. The file
    of the same path below the root comes first. Otherwise it is the only file of that name whose
    folders agree with those of the list: the one path ends with the other. So `a/1.mp4` may be
    `videos/a/1.mp4`, or `1.mp4` where `a` lies above the root, but never `b/1.mp4`. An absolute
    path below the root is that file alone.
    """

    def __init__(self, root: Path, paths: list[str]) -> None:
        self.root = os.path.abspath(root)
        self.real_root = os.path.realpath(root)
        self.paths = set(paths)
        self.top_folders: set[str] = set()
        self.paths_of_stem: dict[str, list[str]] = defaultdict(list)
        self.real_folders: dict[str, str] = {}
        for path in paths:
            parts = _parts(path)
            self.top_folders.update(parts[:-1][:1])
            self.paths_of_stem[parts[-1]].append(path)

    def __call__(self, name: str) -> str | None:
        """The path of the file below root; None where there is none, or more than one."""
        if name in self.paths:
            return name
        candidates = self._find_candidates(name)
        return candidates[0] if len(candidates) == 1 else None

    def explain(self, name: str) -> str:
        """Why a name has no file, in brackets; empty if no file has a name like it."""
        candidates = self._find_candidates(name)
        if len(candidates) > 1:
            return f" (it may be {candidates[0]} or {candidates[1]})"
        path = self._cut_root(name)
        if path is None:
            return " (it lies outside of --data.root)"
        namesakes = self.paths_of_stem.get(_parts(path)[-1])
        if namesakes:
            return f" ({namesakes[0]} has this name, but its folders are not those of the list)"
        on_disk = os.path.join(self.root, path)
        if os.path.isfile(on_disk):
            return f" (it is there, but {suffix_of(path) or 'its name'} has no suffix of a video)"
        if os.path.isdir(on_disk):
            return " (it is a folder: frames are read where no videos lie below --data.root)"
        return ""

    def _find_candidates(self, name: str) -> list[str]:
        path = self._cut_root(name)
        if not path:
            return []
        listed = _parts(path)
        namesakes = [(file, _parts(file)) for file in self.paths_of_stem.get(listed[-1], ())]
        files = [file for file, parts in namesakes if parts == listed]
        if not files and namesakes and "/" in path:  # a link leads to the folder of the file
            real = os.path.realpath(os.path.join(self.root, path))
            files = list(self.paths & {os.path.relpath(real, self.real_root)})
        if not files and path != _plain(name):
            return []  # an absolute path below the root
        if not files:
            files = [file for file, parts in namesakes if parts[-len(listed) :] == listed]
        if not files:
            for file, parts in namesakes:
                above = listed[: -len(parts)]
                if listed[-len(parts) :] == parts and self._may_lie_above(above):
                    files.append(file)
        same_suffix = [file for file in files if suffix_of(file) == suffix_of(path)]
        return same_suffix or files

    def _cut_root(self, name: str) -> str | None:
        """The path below the root of an absolute path; None for a file that lies elsewhere.

        Other paths, also absolute ones of another machine, stay as they are.
        """
        path = _plain(name)
        if not path.startswith("/"):
            return path
        folder, file = os.path.split(path)
        if folder not in self.real_folders:
            self.real_folders[folder] = os.path.realpath(folder)
        for start, root in ((folder, self.root), (self.real_folders[folder], self.real_root)):
            if start == root or start.startswith(root.rstrip("/") + "/"):
                return os.path.relpath(os.path.join(start, file), root)
        return None if os.path.exists(path) else path

    def _may_lie_above(self, folders: tuple[str, ...]) -> bool:
        """Whether leading folders of a listed path can be the root and the folders around it.

        They cannot where the root has such a folder inside or beside it, or where they and the root
        are folders of two splits.
        """
        if not self.top_folders.isdisjoint(folders):
            return False
        nearest, name = folders[-1], os.path.basename(self.root)
        if nearest == name:
            return True
        split = SPLIT.get(nearest.lower())
        if split and SPLIT.get(name.lower(), split) != split:
            return False
        return not os.path.isdir(os.path.join(os.path.dirname(self.root), nearest))


def _plain(name: str) -> str:
    """A listed path with forward slashes, without `./` and `x/../`."""
    return posixpath.normpath(name.replace("\\", "/")) if name else ""


def _parts(path: str) -> tuple[str, ...]:
    """The folders and the name of a path, composed and without the suffix of a video."""
    return tuple(compose(os.path.splitext(path)[0] if is_video(path) else path).split("/"))
