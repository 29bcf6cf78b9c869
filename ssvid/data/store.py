"""video id -> its stored features, one row for each second: the only file that knows what a feature store is.

A folder of `<video id>.npy` (T x D) and a `store.json` that says what made them. A folder of such .npy files alone, as
features are published, is one too.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.files import write_json_whole, write_whole
from ssvid.shapes import ClipSpec

CARD = "store.json"
FAULTS = (OSError, ValueError, EOFError, SyntaxError)  # what numpy raises for damaged files


class Origin(NamedTuple):
    """Of stored features."""

    width: int | None  # None: none can be read
    hash: (
        str | None
    )  # of the encoder that made them; None: published ones, of which nothing is said


class Store:
    """Features stay on disk: `read` maps a file into memory, and only the rows that are used are read."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else "does not exist"
            raise UserError(f"{self.root} {what}: a feature store is a folder of .npy files.")
        self.card = read_card(self.root)  # None: published features, of which nothing is said
        self.dim = int(self.card["dim"]) if self.card else self._first_width()

    def path(self, video_id: str) -> Path:
        return place(self.root, video_id, ".npy")

    def __contains__(self, video_id: str) -> bool:
        return self.path(video_id).is_file()

    def read(self, video_id: str) -> np.ndarray:
        """T x D, float16 as `ssvid.extract` writes them or as they were published."""
        path = self.path(video_id)
        if not path.is_file():
            raise UserError(
                f"There are no features of the video {video_id} in {self.root}: extract them with "
                "python -m ssvid.extract --per_second, or name the store that has them."
            )
        return read_features(path, self.dim)

    def _first_width(self) -> int:
        """Of the first file that can be read."""
        fault: UserError | None = None
        for path in stored(self.root):
            try:
                return int(read_features(path).shape[1])
            except UserError as error:
                fault = fault or error
        if fault is not None:
            raise fault
        raise UserError(
            f"{self.root} holds neither a {CARD} nor .npy files: name a folder of stored features."
        )


def place(root: Path, video_id: str, suffix: str) -> Path:
    """A video's file, below the root whatever the id is; `/` in it makes a folder."""
    names = [
        {"": "%2F", ".": "%2E", "..": "%2E%2E"}.get(part, part) for part in video_id.split("/")
    ]
    return root.joinpath(*names[:-1], f"{names[-1]}{suffix}")


def read_features(path: Path, dim: int | None = None) -> np.ndarray:
    """One file of a store, memory-mapped. `dim`: the width that it should have."""
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except FAULTS as error:
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(
            f"The features {path} are damaged ({why}): remove the file and extract it again."
        ) from error
    if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype.kind != "f":
        held = (
            f"{features.dtype} {features.shape}"
            if isinstance(features, np.ndarray)
            else "several arrays"
        )
        raise UserError(
            f"{path} holds {held} and not features: a table of seconds x width, of floats, is wanted."
        )
    if dim is not None and features.shape[1] != dim:
        raise UserError(
            f"The features {path} are {features.shape[1]} wide and those of this store {dim}: remove the file, or "
            "name another store."
        )
    return features


def write_features(path: Path, features: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: np.save(file, features.astype(np.float16)))


def read_card(root: Path) -> dict[str, Any] | None:
    """What `store.json` says; None where there is none."""
    path = root / CARD
    if not path.exists():
        return None
    try:
        card = dict(json.loads(path.read_text()))
        if (
            not isinstance(card["dim"], int)
            or card["dim"] < 1
            or card.get("seconds_per_row", 1) != 1
        ):
            raise ValueError(f"dim {card['dim']}, seconds_per_row {card.get('seconds_per_row', 1)}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} describes no feature store ({error}): name another folder."
        ) from error
    return card


def card_beside(path: Path) -> dict[str, Any] | None:
    """Of the store that a file lies in; None of published features."""
    return next((read_card(folder) for folder in path.parents if (folder / CARD).exists()), None)


def origin(data: Manifest) -> Origin:
    """Of the first file that can be read: the loader counts and lists the others."""
    for row in data.rows:
        path = data.root / row.features
        try:
            width = read_features(path).shape[1] if row.features else None
        except UserError:
            continue
        if width is not None:
            card = card_beside(path) or {}
            return Origin(width, card.get("hash"))
    return Origin(None, None)


def card_of(dim: int, name: str, fingerprint: str, spec: ClipSpec) -> dict[str, Any]:
    """`fingerprint`: the encoder's hash, of all that its features depend on."""
    return {
        "dim": dim,
        "encoder": name,
        "hash": fingerprint,
        "clip": vars(spec).copy(),
        "seconds_per_row": 1,
    }


def open_for_writing(root: Path, card: dict[str, Any]) -> Store:
    """The store at `root`, made where there is none yet; refused where it holds other features. Hold its lock."""
    old = read_card(root)
    if old is None and (stranger := next(stored(root), None)):
        raise UserError(
            f"--out {root} holds {stranger.name} but no {CARD}: name a new folder, or one that extract made."
        )
    differ = [
        f"{key} ({old.get(key)} there, {value} now)"
        for key, value in card.items()
        if old and old.get(key) != value
    ]
    if differ:
        raise UserError(
            f"--out {root} holds features of another encoder or clip, with other {', '.join(differ)}: name another "
            "folder, or remove this one."
        )
    root.mkdir(parents=True, exist_ok=True)
    for rest in root.rglob(".*.tmp"):
        rest.unlink()  # of a writer that was killed
    write_json_whole(root / CARD, card, end="\n", indent=1)
    return Store(root)


def stored(root: Path) -> Iterator[Path]:
    """The .npy files below a folder, in no order: a store may hold a million."""
    for here, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (
            Path(here) / name
            for name in names
            if name.endswith(".npy") and not name.startswith(".")
        )
