"""Bad files of a run: counted once each, written down at once, and a stop when they are too many."""

import json
from pathlib import Path

from ssvid.errors import RunError
from ssvid.shapes import Batch

NAME = "quarantine.jsonl"
NAMED = 5  # files that the refusal lists by name


class Quarantine:
    def __init__(self, out: str | Path | None, rows: int, max_bad: float = 0.01) -> None:
        self.file = None if out is None else Path(out) / NAME
        self.rows, self.max_bad = rows, max_bad
        self.bad: dict[str, str] = {}
        if self.file is not None and self.file.exists():
            for line in self.file.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the last line of a killed run; its file will be found again
                self.bad[entry["path"]] = entry["why"]

    def __len__(self) -> int:
        return len(self.bad)

    def add(self, path: str | Path, time: float | None, why: str) -> None:
        if str(path) in self.bad:
            return
        self.bad[str(path)] = why
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            torn = self.file.exists() and self.file.read_bytes()[-1:] not in (b"", b"\n")
            with self.file.open("a") as file:
                file.write(
                    "\n" * torn + json.dumps({"path": str(path), "time": time, "why": why}) + "\n"
                )

    def take(self, batch: Batch) -> None:
        """What the loader met on its way to this batch."""
        for bad in batch["bad_files"]:
            self.add(*bad)
        if batch["bad_files"]:
            self.check()

    def check(self) -> None:
        """One bad file is always allowed: in a small set it would be more than any share."""
        if len(self.bad) <= 1 or len(self.bad) <= self.max_bad * self.rows:
            return
        names = ", ".join(f"{path} ({why})" for path, why in list(self.bad.items())[:NAMED])
        more = f" and {len(self.bad) - NAMED} more" if len(self.bad) > NAMED else ""
        where = "" if self.file is None else f" (all in {self.file})"
        raise RunError(
            f"{len(self.bad)} bad files of {self.rows} are more than --max_bad {self.max_bad:g} allows: "
            f"{names}{more}{where}. Mend or drop them, or raise --max_bad."
        )
