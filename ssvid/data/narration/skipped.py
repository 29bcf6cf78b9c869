"""What was left out, and why: counted by reason, logged in one line and listed in a file.

This is for rows of lists. Video files that cannot be decoded are quarantined instead.
"""

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ssvid.files import write_text_whole
from ssvid.log import log_once


class Item(NamedTuple):
    """One line of the file: where it was, why it is left out, and the details."""

    where: str
    why: str
    what: str


def _json_line(item: Item) -> str:
    return json.dumps(item._asdict(), ensure_ascii=False) + "\n"


class LeftOut:
    """A list of what was left out."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        # A remark about files that are not left out -> those files.
        self.notes: dict[str, list[str]] = {}

    @property
    def count(self) -> int:
        return len(self.items)

    @property
    def counts(self) -> dict[str, int]:
        """Reason -> how often, the most frequent first."""
        return dict(Counter(item.why for item in self.items).most_common())

    def add(self, where: str | Path, why: str, what: str = "") -> None:
        self.items.append(Item(str(where), why, what))

    def note(self, remark: str, where: str | Path) -> None:
        self.notes.setdefault(remark, []).append(str(where))

    def describe(self) -> str:
        """The counts in words."""
        return ", ".join(f"{n} x {why}" for why, n in self.counts.items())

    def log(self, source: str | Path) -> None:
        """Log the counts with the first item in one line, and one line for each kind of note."""
        for remark, files in self.notes.items():
            log_once(f"{source}: {len(files)} files are {remark}, first {files[0]}.")
        if self.items:
            first = self.items[0]
            details = f" ({first.what})" if first.what else ""
            log_once(
                f"{source}: {self.count} left out: {self.describe()}; first {first.where}: "
                f"{first.why}{details}."
            )

    def write(self, path: Path) -> None:
        """Write one JSON object a line; no file if nothing was left out."""
        lines = list(map(_json_line, self.items))
        path.unlink(missing_ok=True)
        if lines:
            write_text_whole(path, "".join(lines))
