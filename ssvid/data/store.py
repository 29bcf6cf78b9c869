"""video id -> its stored features, one row for each second.

This is the only file that knows what a feature store is: a folder of `<video id>.npy` (T x D) and a
`store.json`, its card, that says how they were made. A folder of such .npy files without a card,
as features are published, is a store too.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssvid.commands import phrase_command
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.files import (
    read_json_mapping,
    remove_leftovers,
    require_file,
    write_json_whole,
    write_whole,
)
from ssvid.shapes import ClipSpec

CARD = "store.json"
FAULTS = (OSError, ValueError, EOFError, SyntaxError)  # what numpy raises for damaged files
TABLE = "a table of floats, seconds x width, is needed"


class Origin(NamedTuple):
    """Width and maker of stored features."""

    width: int | None  # None: no file can be read
    hash: str | None  # of the encoder; None: published features, which have no card


class Store:
    """A folder of features. They stay on disk: `read` maps a file into memory.

    Raises a UserError if the folder does not exist, or has neither a card nor .npy files.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            fault = "is a file" if self.root.exists() else "does not exist"
            raise UserError(f"{self.root} {fault}: a feature store is a folder of .npy files.")
        self.card = read_card(self.root)  # None: published features
        self.dim = int(self.card["dim"]) if self.card else self._first_width()

    def path(self, video_id: str) -> Path:
        return path_of_video(self.root, video_id, ".npy")

    def __contains__(self, video_id: str) -> bool:
        return self.path(video_id).is_file()

    def read(self, video_id: str) -> np.ndarray:
        """T x D, one row per second, float16 from `ssvid.extract` or as they were published.

        Raises a UserError if the video has no features or their file is damaged.
        """
        path = self.path(video_id)
        if not path.is_file():
            raise UserError(
                f"There are no features of the video {video_id} in {self.root}: extract them with "
                f"{phrase_command('extract')} --per_second, or name the store that has them."
            )
        return read_features(path, self.dim)

    def _first_width(self) -> int:
        """The width of the first file that can be read."""
        fault: UserError | None = None
        for path in list_features(self.root):
            try:
                return int(read_features(path).shape[1])
            except UserError as error:
                fault = fault or error
        if fault is not None:
            raise fault
        raise UserError(
            f"{self.root} has neither a {CARD} nor .npy files: name a folder of stored features."
        )


def path_of_video(root: Path, video_id: str, suffix: str) -> Path:
    """The file of a video, below the root whatever the id is. A `/` in the id makes a folder."""
    escapes = {"": "%2F", ".": "%2E", "..": "%2E%2E"}
    names = [escapes.get(name, name) for name in video_id.split("/")]
    return root.joinpath(*names[:-1], f"{names[-1]}{suffix}")


def read_features(path: Path, dim: int | None = None) -> np.ndarray:
    """One file of a store, T x D floats, memory-mapped.

    Raises a UserError if it is damaged or its width is not `dim`.
    """
    try:
        require_file(path)
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except FAULTS as error:
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(
            f"The features {path} are damaged ({why}): remove the file and extract it again."
        ) from error
    if not isinstance(features, np.ndarray):
        raise UserError(f"{path} holds several arrays and not features: {TABLE}.")
    if features.ndim != 2 or features.dtype.kind != "f":
        content = f"{features.dtype} {features.shape}"
        raise UserError(f"{path} holds {content} and not features: {TABLE}.")
    if dim is not None and features.shape[1] != dim:
        raise UserError(
            f"The features {path} are {features.shape[1]} wide and those of this store {dim}: "
            "remove the file, or name another store."
        )
    return features


def write_features(path: Path, features: np.ndarray) -> None:
    """Write T x D features as float16, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: np.save(file, features.astype(np.float16)))


def read_card(root: Path) -> dict[str, Any] | None:
    """The content of `store.json`; None if there is no such file, a UserError if it is damaged."""
    path = root / CARD
    if not path.exists():
        return None
    try:
        card = read_json_mapping(path, "card")
        dim, seconds_per_row = card["dim"], card.get("seconds_per_row", 1)
        if not isinstance(dim, int) or dim < 1 or seconds_per_row != 1:
            raise ValueError(f"dim {dim}, seconds_per_row {seconds_per_row}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} describes no feature store ({error}): name another folder."
        ) from error
    return card


def find_card(path: Path) -> dict[str, Any] | None:
    """The card of the store that a file belongs to; None for published features."""
    for folder in path.parents:
        if (folder / CARD).exists():
            return read_card(folder)
    return None


def find_origin(data: Manifest) -> Origin:
    """The origin of the first features that can be read.

    Others are not looked at here: the loader counts and lists those that are unreadable.
    """
    for row in data.rows:
        path = data.root / row.features
        try:
            width = read_features(path).shape[1] if row.features else None
        except UserError:
            continue
        if width is not None:
            card = find_card(path) or {}
            return Origin(width, card.get("hash"))
    return Origin(None, None)


def make_card(dim: int, name: str, fingerprint: str, spec: ClipSpec) -> dict[str, Any]:
    """The content of `store.json`. `fingerprint`: hash of all that the features depend on."""
    return {
        "dim": dim,
        "encoder": name,
        "hash": fingerprint,
        "clip": vars(spec).copy(),
        "seconds_per_row": 1,
    }


def open_for_writing(root: Path, card: dict[str, Any]) -> Store:
    """The store at `root`, created if there is none. The caller holds its lock.

    Raises a UserError if the folder holds features that were made in another way.
    """
    old = read_card(root)
    if old is None and (foreign := next(list_features(root), None)):
        raise UserError(
            f"--out {root} holds {foreign.name} but no {CARD}: name a new folder, or one that "
            "extract made."
        )
    differences = []
    for key, value in card.items():
        if old and old.get(key) != value:
            differences.append(f"{key} ({old.get(key)} there, {value} now)")
    if differences:
        raise UserError(
            f"--out {root} holds features of another encoder or clip, with other "
            f"{', '.join(differences)}: name another folder, or remove this one."
        )
    root.mkdir(parents=True, exist_ok=True)
    remove_leftovers(root)
    write_json_whole(root / CARD, card, end="\n", indent=1)
    return Store(root)


def list_features(root: Path) -> Iterator[Path]:
    """The .npy files below a folder, unsorted, because a store may hold a million."""
    for directory, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.endswith(".npy") and not name.startswith("."):
                yield Path(directory) / name
