"""Folders -> file names: what the data sets and `prepare` look for on a disk.

Checks that a folder or file exists, lists video files, and finds the file that a list means.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from ssvid.data.pictures import is_picture
from ssvid.errors import UserError

VIDEO = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"),
        *(".ts", ".m2ts", ".mts", ".wmv", ".flv", ".3gp", ".ogv", ".vob"),
    )
)
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
    data = path.read_bytes()
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
    return os.path.splitext(name)[1].lower() in VIDEO


def list_videos(root: Path) -> list[str]:
    """Video files below root, as sorted relative paths with forward slashes."""
    return sorted(_walk(root, lambda names: list(filter(is_video, names))))


def list_frame_folders(root: Path) -> list[str]:
    """Folders below root that hold pictures, as sorted relative paths."""
    folders = _walk(root, lambda names: [""] if any(map(is_picture, names)) else [])
    return sorted(path.rstrip("/") for path in folders)


def _walk(root: Path, select: Callable[[list[str]], list[str]]) -> Iterator[str]:
    """Relative paths of the names that `select` returns for each folder, without hidden ones."""
    for directory, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(directory, root)
        for name in select([name for name in names if not name.startswith(".")]):
            yield (PurePosixPath(Path(inside).as_posix()) / name).as_posix()


class Finder:
    """A name in a list -> the file that it means.

    That is the file of the same path, or of the same path with another suffix, or the only file
    below root with the same stem.
    """

    def __init__(self, paths: list[str]) -> None:
        self.paths = set(paths)
        self.without_suffix = {os.path.splitext(path)[0]: path for path in paths}
        self.stems: dict[str, str | None] = {}
        for path in paths:
            stem = PurePosixPath(path).stem
            self.stems[stem] = None if stem in self.stems else path  # None: several files

    def __call__(self, name: str) -> str | None:
        name = name.replace("\\", "/").removeprefix("./")
        if name in self.paths:
            return name
        cut = os.path.splitext(name)[0] if is_video(name) else name
        return self.without_suffix.get(cut) or self.stems.get(PurePosixPath(cut).name)
