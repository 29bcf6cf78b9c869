"""vectors of windows <-> files: a card, a ledger with a line for each video, a file for each array.

The rows of a video are appended to every array as float16 and synced, and its line is written
then. So a kill leaves rows that no line names, and the next writer cuts them off. A line whose rows
are not in the files any more counts for nothing: its video is read again.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

import numpy as np
import torch
from torch import Tensor

from ssvid.errors import RunError, UserError
from ssvid.files import read_json_lines, read_json_mapping, write_json_whole, write_text_whole

VERSION = 1
CARD, LEDGER, SUFFIX = "index.json", "ledger.jsonl", ".f16"
WIDEST = 1 << 30  # numbers of a row
SAFE = "/ ()[]{}!@&+,;='"  # characters of a name that stand as they are
Json = dict[str, Any]
Shape = tuple[int, ...]
Block = Mapping[str, Tensor]  # rows of every array


class Entry(NamedTuple):
    """The windows of a video, which are rows of every array."""

    video: str
    stamp: str  # of the file that was read
    first: int
    rows: int
    length_s: float  # of the video


class Ledger:
    """The files of an index. `card`: what the vectors depend on.

    Only one process may write; it holds the lock of the folder.
    """

    def __init__(self, folder: Path, card: Json) -> None:
        """As the files say, if there are any; their card has been compared with this one."""
        self.folder, self.card = folder, card
        self.shapes: dict[str, Shape] = {}  # of a row of each array
        self.entries: dict[str, Entry] = {}  # of a video the last one
        self.end = 0  # rows of all lines, also of videos that were read again later
        self.lost = 0  # lines that are damaged, or whose rows are gone
        if (folder / CARD).exists():
            self.shapes = read_shapes(folder)
            self._read_lines()

    def _read_lines(self) -> None:
        lines, damaged = read_json_lines(self.folder / LEDGER, "ledger")
        rows, self.lost = self._count_rows(), len(damaged)
        for line in lines:
            entry = parse_entry(line)
            if entry is None or entry.first + entry.rows > rows:
                self.lost += 1
                continue
            self.entries[entry.video] = entry
            self.end = max(self.end, entry.first + entry.rows)

    def _count_rows(self) -> int:
        """The whole rows that every array has."""
        counts = []
        for name, shape in self.shapes.items():
            file = self._name_file(name)
            size = file.stat().st_size if file.is_file() else 0
            counts.append(size // count_bytes(shape))
        return min(counts, default=0)

    def _name_file(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"

    def start_writing(self) -> None:
        """Write the ledger anew, so that a line which a kill has cut is not continued."""
        lines = []
        for entry in sorted(self.entries.values(), key=lambda entry: entry.first):
            lines.append(format_entry(entry))
        if self.shapes:
            write_text_whole(self.folder / LEDGER, "".join(lines))

    def add(self, video: str, stamp: str, length_s: float, blocks: Iterable[Block]) -> Entry:
        """Append the rows of a video, block by block.

        After an error between blocks they count for nothing. Raises a UserError for a vector
        that is no number, and a RunError where the disk is full.
        """
        rows = 0
        for block in blocks:
            self._settle_shapes(block)
            try:
                for name, x in block.items():
                    self._write_rows(name, self.end + rows, to_half(x))
            except OSError as error:
                raise RunError(
                    f"{self.folder} could not be written: {error.strerror}. Free some space and "
                    "start again."
                ) from error
            rows += len(next(iter(block.values())))
        entry = Entry(video, stamp, self.end, rows, length_s)
        for name in self.shapes:
            sync_file(self._name_file(name))
        with open(self.folder / LEDGER, "a") as file:
            file.write(format_entry(entry))
            file.flush()
            os.fsync(file.fileno())
        self.entries[video] = entry
        self.end += rows
        return entry

    def _settle_shapes(self, block: Block) -> None:
        """Write the card before the first row."""
        shapes = {name: tuple(x.shape[1:]) for name, x in block.items()}
        if not self.shapes:
            content = {**self.card, "arrays": shapes}
            write_json_whole(self.folder / CARD, content, end="\n", indent=1)
            write_text_whole(self.folder / LEDGER, "")
            self.shapes = shapes
        if shapes != self.shapes:
            raise UserError(
                f"The index {self.folder} has rows of {self.shapes}, and this encoder gives "
                f"{shapes}: remove the folder, and it is built again."
            )

    def _write_rows(self, name: str, first: int, rows: np.ndarray) -> None:
        """Write from this row on, and cut off what is behind it."""
        file = self._name_file(name)
        with open(file, "r+b" if file.exists() else "wb") as opened:
            opened.seek(first * count_bytes(self.shapes[name]))
            opened.write(rows.tobytes())
            opened.truncate()

    def map_rows(self, name: str) -> Tensor:
        """All rows of an array, as float16 that is read from the disk where it is looked at."""
        shape = self.shapes[name]
        if not self.end:
            return torch.zeros(0, *shape, dtype=torch.float16)
        # Mode c: torch wants memory that may be written, and what is written stays in memory.
        file = self._name_file(name)
        return torch.from_numpy(np.memmap(file, np.float16, "c", shape=(self.end, *shape)))


def count_bytes(shape: Shape) -> int:
    return 2 * int(np.prod(shape))


def to_half(x: Tensor) -> np.ndarray:
    """The rows as float16. A UserError for NaN, infinity, and what float16 cannot hold."""
    half = x.half()
    if not half.isfinite().all():
        raise UserError(
            "The vectors of a window hold NaN, infinity or numbers beyond float16: the weights are "
            "damaged, or their training diverged."
        )
    return np.ascontiguousarray(half.cpu().numpy())


def sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def format_entry(entry: Entry) -> str:
    """A line. A name of a file that is no UTF-8 is there with the bytes that it has."""
    return json.dumps({**entry._asdict(), "video": quote(os.fsencode(entry.video), SAFE)}) + "\n"


def parse_entry(line: Json) -> Entry | None:
    """The entry of a line; None if the line is none."""
    if line.keys() != set(Entry._fields):
        return None
    entry = Entry(**line)
    texts, numbers = (entry.video, entry.stamp), (entry.first, entry.rows)
    is_entry = all(isinstance(text, str) for text in texts)
    is_entry &= all(type(number) is int for number in numbers)
    is_entry &= type(entry.length_s) in (int, float) and math.isfinite(entry.length_s)
    if not is_entry or entry.first < 0 or entry.rows < 1:
        return None
    return entry._replace(video=os.fsdecode(unquote_to_bytes(entry.video)))


def read_index_card(folder: Path) -> Json | None:
    """What the vectors of an index depend on; None if the folder holds no index."""
    if not (folder / CARD).exists():
        return None
    card = read_json_mapping(folder / CARD, "card of the index")
    card.pop("arrays", None)
    return card


def read_shapes(folder: Path) -> dict[str, Shape]:
    """The shape of a row of each array. A UserError where the card tells none."""
    shapes: dict[str, Shape] = {}
    content = read_json_mapping(folder / CARD, "card of the index").get("arrays")
    arrays: Json = content if isinstance(content, dict) else {}
    for name, shape in arrays.items():
        is_shape = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
        if name.isidentifier() and is_shape and 0 < np.prod(shape, dtype=float) < WIDEST:
            shapes[name] = tuple(shape)
    if not shapes or len(shapes) != len(arrays):
        raise UserError(
            f"The index {folder} is damaged: its card tells no arrays. Remove the folder, and it "
            "is built again."
        )
    return shapes
