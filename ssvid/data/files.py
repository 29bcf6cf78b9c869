"""Folders -> file names: what the data sets and `prepare` look for on a disk.

Checks that a folder or file exists, lists video files, and finds the file that a list means.
"""

import codecs
import csv
import io
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ssvid.data.labels import to_nfc
from ssvid.data.pictures import STILL_SUFFIXES, is_picture, is_still
from ssvid.data.splits import SPLIT_OF_NAME
from ssvid.errors import UserError
from ssvid.files import OF_SYSTEM, read_bytes
from ssvid.log import log, log_once

VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"),
        *(".ts", ".m2ts", ".mts", ".wmv", ".flv", ".3gp", ".3g2", ".ogv", ".vob"),
    )
)
# Files that lie beside videos and are no samples.
TEXT_SUFFIXES = frozenset(
    (
        *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".rst"),
        *(".srt", ".vtt", ".html", ".pdf", ".log", ".py", ".sh"),
    )
)
MAX_LISTED_SUFFIXES = 8  # in the line of the log that counts skipped files
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
        data = read_bytes(path).removeprefix(codecs.BOM_UTF8)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    bad_byte = data.find(b"\0")  # its offset; -1: there is none
    try:
        decoded = data.decode()
    except UnicodeDecodeError as error:
        decoded, bad_byte = "", error.start
    if bad_byte >= 0:
        line = data.count(b"\n", 0, bad_byte) + 1
        raise UserError(
            f"{path}, line {line} is not UTF-8 text: check that this is the list, or save it as "
            "UTF-8."
        )
    return decoded


def read_csv_rows(path: Path) -> list[list[str]]:
    """The fields of each line of a csv. A UserError if it is none."""
    try:
        return list(csv.reader(io.StringIO(read_text(path))))
    except csv.Error as error:
        raise UserError(f"{path} is no csv: {error}.") from error


def is_video(name: str) -> bool:
    """Whether the suffix of a file name is one of a video."""
    return suffix_of(name) in VIDEO_SUFFIXES


def suffix_of(name: str) -> str:
    return os.path.splitext(name)[1].lower()


class Contents(NamedTuple):
    """What lies below a folder, except hidden files and folders. Paths are relative and sorted."""

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
    pending = [str(root)]  # folders to read with all that is below them: root, then links
    while pending:
        for directory, folders, names in os.walk(pending.pop(0)):
            stat = os.stat(directory)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if os.path.realpath(directory).startswith(OF_SYSTEM):
                log.info(f"{directory} belongs to the operating system: it is passed over.")
                folders.clear()
                continue
            if (stat.st_dev, stat.st_ino) in visited_folders:
                log.info(f"{directory} leads to a folder that is read already: it is passed over.")
                folders.clear()
                continue
            visited_folders.add((stat.st_dev, stat.st_ino))
            paths = [os.path.join(directory, name) for name in folders]
            pending += filter(os.path.islink, paths)
            relative_folder = PurePosixPath(Path(os.path.relpath(directory, root)).as_posix())
            yield relative_folder, [name for name in names if not name.startswith(".")]


def list_videos(root: Path) -> list[str]:
    """Video files below root, as sorted relative paths with forward slashes."""
    return list_contents(root).videos


def list_stills(root: Path) -> tuple[list[str], Counter[str]]:
    """Pictures below root, as sorted relative paths, and how many files have each suffix."""
    paths: list[str] = []
    suffixes: Counter[str] = Counter()
    for folder, names in _walk(root):
        paths.extend(str(folder / name) for name in filter(is_still, names))
        suffixes.update(map(suffix_of, names))
    return sorted(paths), suffixes


def log_skipped_files(root: Path, suffixes: Counter[str], readable: frozenset[str]) -> None:
    """Log one line that counts the files which a reader passes over, by suffix.

    `readable`: suffixes that it reads. Texts are not counted: they are lists, notes or subtitles.
    Where it reads no pictures, these have a line of their own.
    """
    others, stills = [], 0
    for suffix, count in suffixes.most_common():
        if suffix in STILL_SUFFIXES and readable.isdisjoint(STILL_SUFFIXES):
            stills += count
        elif suffix not in readable and suffix not in TEXT_SUFFIXES:
            others.append(f"{count} {suffix or 'without a suffix'}")
    if stills:
        phrase = "1 picture is" if stills == 1 else f"{stills} pictures are"
        log_once(
            f"{root}: {phrase} passed over: --data images reads them, and --data frames reads "
            "folders of frames."
        )
    if others:
        rest_mark = ", ..." if len(others) > MAX_LISTED_SUFFIXES else ""
        counts = ", ".join(others[:MAX_LISTED_SUFFIXES])
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
        spellings: tuple[str, ...] = ()
        if not os.path.lexists(folder / part) and folder.is_dir():
            spellings_of_name = _list_spellings(str(folder), folder.stat().st_mtime_ns)
            spellings = spellings_of_name.get(to_nfc(part), ())
        spelled /= spellings[0] if len(spellings) == 1 else part
    return str(spelled) if os.path.lexists(root / spelled) else path


@lru_cache(maxsize=64)  # because each file of a large folder may be asked for
def _list_spellings(folder: str, mtime_ns: int) -> dict[str, tuple[str, ...]]:
    """Name in NFC -> the names that a folder has for it.

    `mtime_ns` is not read: it makes the cache list a folder anew after a change.
    """
    spellings_of_name: dict[str, tuple[str, ...]] = {}
    for name in os.listdir(folder):
        composed = to_nfc(name)
        spellings_of_name[composed] = (*spellings_of_name.get(composed, ()), name)
    return spellings_of_name


class Finder:
    """A name in a list -> the file that it means.

    Names are compared without the suffix of a video, and accents may be composed or not. A name
    means the file that has the same path below the root. Where there is none, it means a file of
    the same name whose folders agree with those of the list: one of the two paths ends with the
    other. So `a/1.mp4` may be `videos/a/1.mp4`, or `1.mp4` where `a` lies above the root, but never
    `b/1.mp4`. A name that may mean several files has none. An absolute path below the root means
    the file of that path and no other.
    """

    def __init__(self, root: Path, paths: list[str]) -> None:
        self.root = os.path.abspath(root)
        self.real_root = os.path.realpath(root)
        self.paths = set(paths)
        self.top_folders: set[str] = set()
        self.paths_of_name: dict[str, list[str]] = defaultdict(list)
        self.real_folders: dict[str, str] = {}
        for path in paths:
            parts = _parts(path)
            self.top_folders.update(parts[:-1][:1])
            self.paths_of_name[parts[-1]].append(path)

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
        namesakes = self.paths_of_name.get(_parts(path)[-1])
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
        if listed[-1] not in self.paths_of_name:
            return []
        namesakes = [(file, _parts(file)) for file in self.paths_of_name[listed[-1]]]
        files = [file for file, parts in namesakes if parts == listed]
        if not files and "/" in path:  # a link leads to the folder of the file
            real = os.path.realpath(os.path.join(self.root, path))
            files = list(self.paths & {os.path.relpath(real, self.real_root)})
        if not files and path != _normalise(name):
            return []  # an absolute path below the root
        if not files:
            files = [file for file, parts in namesakes if parts[-len(listed) :] == listed]
        if not files:
            for file, parts in namesakes:
                outer_folders = listed[: -len(parts)]  # those of the list alone
                if listed[-len(parts) :] == parts and self._may_lie_above(outer_folders):
                    files.append(file)
        same_suffix = [file for file in files if suffix_of(file) == suffix_of(path)]
        return same_suffix or files

    def _cut_root(self, name: str) -> str | None:
        """The path below the root of an absolute path; None for a file that lies elsewhere.

        Other paths, also absolute ones of another machine, stay as they are.
        """
        path = _normalise(name)
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
        """Whether the leading folders of a listed path can be the root and the folders above it.

        They cannot if the root holds a folder of their names, if the last of them lies beside the
        root, or if the last of them and the root are named after two different splits.
        """
        if not self.top_folders.isdisjoint(folders):
            return False
        last_folder, root_name = folders[-1], os.path.basename(self.root)
        if last_folder == root_name:
            return True
        split = SPLIT_OF_NAME.get(last_folder.lower())
        if split and SPLIT_OF_NAME.get(root_name.lower(), split) != split:
            return False
        return not os.path.isdir(os.path.join(os.path.dirname(self.root), last_folder))


def _normalise(name: str) -> str:
    """A listed path with forward slashes, without `./` and `x/../`."""
    return posixpath.normpath(name.replace("\\", "/")) if name else ""


def _parts(path: str) -> tuple[str, ...]:
    """The folders and the name of a path, composed and without the suffix of a video."""
    stem, suffix = os.path.splitext(path)
    return tuple(to_nfc(stem if suffix.lower() in VIDEO_SUFFIXES else path).split("/"))
