"""What was left out, and why: counted by reason, said in one line, listed in a file. For rows of lists, not for files
that cannot be decoded (those are quarantined)."""

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ssvid.files import write_text_whole
from ssvid.log import log_once


class Item(NamedTuple):
    where: str
    why: str
    what: str


class LeftOut:
    def __init__(self) -> None:
        self.items: list[Item] = []
        self.notes: dict[
            str, list[str]
        ] = {}  # what is worth a line though nothing is left out -> where

    @property
    def count(self) -> int:
        return len(self.items)

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(item.why for item in self.items).most_common())

    def add(self, where: str | Path, why: str, what: str = "") -> None:
        self.items.append(Item(str(where), why, what))

    def note(self, what: str, where: str | Path) -> None:
        self.notes.setdefault(what, []).append(str(where))

    def counted(self) -> str:
        return ", ".join(f"{n} x {why}" for why, n in self.counts.items())

    def say(self, source: str | Path) -> None:
        """One line of counts with the first of them, and one for each kind of note."""
        for what, places in self.notes.items():
            log_once(f"{source}: {len(places)} files are {what}, first {places[0]}.")
        if self.items:
            first = self.items[0]
            about = f" ({first.what})" if first.what else ""
            log_once(
                f"{source}: {self.count} left out: {self.counted()}; first {first.where}: {first.why}{about}."
            )

    def write(self, path: Path) -> None:
        """One JSON object a line; no file where nothing was left out."""
        lines = "".join(
            json.dumps(item._asdict(), ensure_ascii=False) + "\n" for item in self.items
        )
        path.unlink(missing_ok=True)
        if lines:
            write_text_whole(path, lines)
