"""a folder of videos -> an index of its windows, which is built once and asked often.

    net, joint = open_networks("runs/xclip", None, UNCHANGED, torch.device("cpu"))
    index = build_index(Reader(net, joint), Path("runs/search"), videos, Pace(4.0, 4.0))

`build_index` reads what is new or changed, and goes on where an earlier one stopped. A file that
has the same size and time of change counts as unchanged.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float16, Int
from torch import Tensor

from benchmarks.features.text_side import hash_joint
from benchmarks.labelling.labeller import read_vectors
from benchmarks.labelling.reading import join_blocks
from benchmarks.searching.ledger import VERSION, Block, Entry, Json, Ledger, read_index_card
from benchmarks.searching.windows import Film, Pace, open_film, read_windows
from ssvid.data.quarantine import NAME as BAD_FILES
from ssvid.data.quarantine import Quarantine
from ssvid.encoder import Encoder
from ssvid.errors import DecodeError, UserError
from ssvid.files import remove_leftovers
from ssvid.log import log
from ssvid.progress import progress_bar
from ssvid.text.joint import TOKENS, ClipVectors, JointSpace
from ssvid.weights.encoders import hash_encoder

KEY = "key"  # the array whose products with the vectors of sentences are taken
WINDOW_S = 4.0  # of a new index


@dataclass(frozen=True)
class Reader:
    """The networks that read windows."""

    net: Encoder
    joint: JointSpace
    batch_size: int = 32  # windows through the encoder at once

    @cached_property
    def hashes(self) -> tuple[str, str]:
        """Of the encoder, its clip included, and of its text side."""
        return hash_encoder(self.net), hash_joint(self.joint)

    @property
    def compares_again(self) -> bool:
        """Whether the best windows are ordered anew by `compare`, from vectors of the index."""
        return not self.joint.is_product and not self.joint.can_match

    @torch.inference_mode()
    def read(self, film: Film, pace: Pace, rows: np.ndarray) -> Iterator[ClipVectors]:
        """What the text side keeps of these windows of a video, in batches."""
        device = next(self.net.parameters()).device
        clips = read_windows(film, self.net.spec, pace, rows)
        for block in join_blocks(clips, self.batch_size):
            yield read_vectors(self.net, self.joint, block.to(device))

    def read_rows(self, film: Film, pace: Pace) -> Iterator[Block]:
        """The rows of an index: the keys, and what `compare` looks at if it orders anew."""
        for vectors in self.read(film, pace, np.arange(film.windows)):
            rows = {KEY: self.joint.compute_keys(vectors)}
            if self.compares_again:
                rows |= {name: x for name, x in vectors.items() if name != TOKENS}
            yield rows


class Window(NamedTuple):
    """A row of an index."""

    video: str
    number: int  # in the video
    begin_s: float
    end_s: float


@dataclass(frozen=True)
class Index:
    """The windows of the videos that are there now."""

    pace: Pace
    entries: list[Entry]  # by the row where they begin
    paths: Mapping[str, Path]  # of every video, in the order of the folder
    arrays: Mapping[str, Tensor]  # float16, on the disk

    @property
    def keys(self) -> Float16[Tensor, "R E"]:
        return self.arrays[KEY]

    @cached_property
    def ranks(self) -> Int[Tensor, " R"]:
        """The place of each row in the order of videos and times. -1: its video is not there."""
        ranks = torch.full((len(self.keys),), -1)
        entry_of = {entry.video: entry for entry in self.entries}
        count = 0
        for video in self.paths:
            if entry := entry_of.get(video):
                places = torch.arange(count, count + entry.rows)
                ranks[entry.first : entry.first + entry.rows] = places
                count += entry.rows
        return ranks

    def __len__(self) -> int:
        """How many windows can be found."""
        return sum(entry.rows for entry in self.entries)

    @cached_property
    def _firsts(self) -> np.ndarray:
        return np.array([entry.first for entry in self.entries])

    def find_entry(self, row: int) -> Entry:
        """The video of a row that is there."""
        return self.entries[int(np.searchsorted(self._firsts, row, side="right")) - 1]

    def locate(self, row: int) -> Window:
        """The window of a row whose video is there."""
        entry = self.find_entry(row)
        number = row - entry.first
        begin = number * self.pace.step_s
        end = min(begin + self.pace.window_s, entry.length_s)
        return Window(entry.video, number, begin, max(begin, end))


@dataclass(frozen=True)
class Built:
    """An index, and what was done to build it."""

    index: Index
    counts: Json
    bad: dict[str, str]  # video -> why it cannot be read


def choose_pace(folder: Path, window: float | None, step: float | None) -> Pace:
    """As the user asks; otherwise that of the index in the folder, or that of a new one."""
    card = read_index_card(folder) or {}
    try:
        earlier = Pace(float(card["window"]), float(card["step"]))
    except (KeyError, TypeError, ValueError):
        earlier = Pace(WINDOW_S, WINDOW_S)
        card = {}
    if window is None:
        window = earlier.window_s
    if step is None:
        step = earlier.step_s if card else window
    return Pace(window, step)


def describe_index(reader: Reader, pace: Pace) -> Json:
    """What the vectors of an index depend on, but for the videos."""
    encoder, text = reader.hashes
    return {
        "version": VERSION,
        "name": reader.net.name,
        "encoder": encoder,
        "text": text,
        "clip": vars(reader.net.spec).copy(),
        "window": pace.window_s,
        "step": pace.step_s,
    }


def check_same_index(folder: Path, card: Json) -> None:
    """Raise a UserError if the folder holds an index of another encoder or of other windows."""
    earlier = read_index_card(folder)
    if earlier is None:
        return
    sides = {"encoder": "another encoder", "text": "another text side"}
    for side, phrase in sides.items():
        if earlier.get(side) != card[side]:
            raise UserError(
                f"The index {folder} is that of {phrase}: {earlier.get(side)} there, "
                f"{card[side]} now. Name another folder with --out, or take the encoder "
                f"{earlier.get('name')} of the index."
            )
    for name in ("version", "clip", "window", "step"):
        if earlier.get(name) != card[name]:
            raise UserError(
                f"The index {folder} has {name} {earlier.get(name)}, and now it is {card[name]}: "
                "name another folder with --out, or remove this one."
            )


def build_index(
    reader: Reader, folder: Path, videos: Mapping[str, Path], pace: Pace, bar: bool = True
) -> Built:
    """Read the videos that the index lacks, and open it. The caller holds the lock of the folder.

    A video that cannot be read is listed, and tried again the next time. Raises a UserError if the
    folder holds an index of another encoder.
    """
    card = describe_index(reader, pace)
    check_same_index(folder, card)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    ledger = Ledger(folder, card)
    if ledger.lost:
        log.warning(f"{ledger.lost} entries of the index {folder} are damaged: they are made anew.")
    ledger.start_writing()
    (folder / BAD_FILES).unlink(missing_ok=True)
    bad = Quarantine(folder, len(videos), 1.0)
    counts = {"videos": len(videos), "read": 0, "kept": 0}
    stamps: dict[str, str] = {}
    names = progress_bar(len(videos), "video", iterable=videos, desc="index", disable=not bar)
    for name in names:
        try:
            stamps[name] = stamp_file(videos[name])
            earlier = ledger.entries.get(name)
            if earlier is not None and earlier.stamp == stamps[name]:
                counts["kept"] += 1
                continue
            film = open_film(videos[name], pace)
            ledger.add(name, stamps[name], film.length_s, reader.read_rows(film, pace))
            counts["read"] += 1
        except DecodeError as error:
            stamps.pop(name, None)
            bad.add(name, error.time, str(error))
    if bad.bad:
        first = next(iter(bad.bad.values()))
        log.warning(f"left out {len(bad)} of {len(videos)} videos: {first} (all in {bad.file}).")
    index = open_rows(ledger, videos, stamps, pace)
    counts |= {"bad": len(bad), "gone": len(ledger.entries.keys() - videos.keys())}
    return Built(index, {**counts, "windows": len(index)}, bad.bad)


def open_rows(
    ledger: Ledger, videos: Mapping[str, Path], stamps: Mapping[str, str], pace: Pace
) -> Index:
    """The rows of the videos that are there, as they are there."""
    entries = []
    for entry in ledger.entries.values():
        if stamps.get(entry.video) == entry.stamp:
            entries.append(entry)
    entries.sort(key=lambda entry: entry.first)
    arrays = {name: ledger.map_rows(name) for name in ledger.shapes}
    return Index(pace, entries, videos, arrays)


def stamp_file(path: Path) -> str:
    """Size and time of change of a file. A DecodeError if it cannot be opened."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise DecodeError(path, "the file cannot be opened") from error
    return f"{status.st_size} {status.st_mtime_ns}"
