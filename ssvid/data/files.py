"""Folders -> file names: what the data sets and `prepare` look for on a disk."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from ssvid.data.decode import IMAGES
from ssvid.errors import UserError

VIDEO = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".avi",
        ".mkv",
        ".webm",
        ".mpg",
        ".mpeg",
        ".ts",
        ".m2ts",
        ".mts",
        ".wmv",
        ".flv",
        ".3gp",
        ".ogv",
        ".vob",
    ]
)


FILMS = re.compile(
    r"(?P<film>.+_g\d+)_c\d+|(?P<youtube>.{11})_\d{6}_\d{6}"
)  # UCF101's names and Kinetics'


def film(path: str) -> str:
    """What several cuts of one film share, where their names tell; else the path itself."""
    match = FILMS.fullmatch(PurePosixPath(path).stem)
    return path if match is None else match["film"] or match["youtube"]


def folder(path: str | Path, flag: str) -> Path:
    path = Path(path).expanduser()
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}: {flag} is a folder.")
    return path


def file(path: str | Path, flag: str) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}: {flag} is a file.")
    return path


def text(path: Path) -> str:
    """What a list says, its line ends untouched."""
    data = path.read_bytes()
    try:
        found = data.decode("utf-8-sig")
        wrong = found.find("\0")
    except UnicodeDecodeError as error:
        found, wrong = "", error.start
    if wrong >= 0:
        line = data.count(b"\n", 0, wrong) + 1
        raise UserError(
            f"{path}, line {line} is no UTF-8 text: check that this is the list, or save it as UTF-8."
        )
    return found


def videos(root: Path) -> list[str]:
    """Video files below root, as sorted relative paths with forward slashes."""
    return sorted(
        _walk(
            root,
            lambda names: [name for name in names if os.path.splitext(name)[1].lower() in VIDEO],
        )
    )


def frame_folders(root: Path) -> list[str]:
    """Folders below root that hold pictures."""
    found = _walk(
        root,
        lambda names: [""] if any(os.path.splitext(n)[1].lower() in IMAGES for n in names) else [],
    )
    return sorted(path.rstrip("/") for path in found)


def _walk(root: Path, wanted: Callable[[list[str]], list[str]]) -> Iterator[str]:
    for here, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(here, root)
        for name in wanted([name for name in names if not name.startswith(".")]):
            yield (PurePosixPath(Path(inside).as_posix()) / name).as_posix()


class Finder:
    """A list's name -> the file that is there: the same path, another suffix, or the same stem anywhere below root."""

    def __init__(self, found: list[str]) -> None:
        self.found = set(found)
        self.bare = {os.path.splitext(path)[0]: path for path in found}
        self.stems: dict[str, str | None] = {}
        for path in found:
            stem = PurePosixPath(path).stem
            self.stems[stem] = None if stem in self.stems else path  # None: more than one

    def __call__(self, name: str) -> str | None:
        name = name.replace("\\", "/").removeprefix("./")
        if name in self.found:
            return name
        cut, suffix = os.path.splitext(name)
        cut = cut if suffix.lower() in VIDEO else name
        return self.bare.get(cut) or self.stems.get(PurePosixPath(cut).name)
