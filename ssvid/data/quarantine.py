"""The bad files of a run.

Each is counted once and written to `quarantine.jsonl` at once. The run stops if there are too many.
"""

import json
from pathlib import Path

from ssvid.errors import RunError
from ssvid.files import read_json_lines
from ssvid.log import log
from ssvid.shapes import Batch

NAME = "quarantine.jsonl"
LISTED = 5  # bad files that the error names


class Quarantine:
    """Path -> reason of each bad file, also of those that an earlier part of the run has listed.

    `out`: folder of the list; None: no list is written. `rows`: files of the run. `max_bad`: the
    share of them that may be bad.
    """

    def __init__(self, out: str | Path | None, rows: int, max_bad: float = 0.01) -> None:
        self.file = None if out is None else Path(out) / NAME
        self.rows, self.max_bad = rows, max_bad
        self.bad: dict[str, str] = {}
        if self.file is not None:
            entries, damaged = read_json_lines(self.file, "list of bad files")
            n_damaged = len(damaged)
            for entry in entries:
                if isinstance(entry.get("path"), str):
                    self.bad[entry["path"]] = str(entry.get("why"))
                else:
                    n_damaged += 1
            if n_damaged:
                log.warning(
                    f"{n_damaged} lines of {self.file} are damaged. They are passed over: a bad "
                    "file that they named will be met again."
                )

    def __len__(self) -> int:
        return len(self.bad)

    def add(self, path: str | Path, time: float | None, why: str) -> None:
        """Count and list a file, unless it is known. `time`: seconds into the video."""
        if str(path) in self.bad:
            return
        self.bad[str(path)] = why
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            torn = self.file.exists() and self.file.read_bytes()[-1:] not in (b"", b"\n")
            line = json.dumps({"path": str(path), "time": time, "why": why})
            with self.file.open("a") as file:
                file.write("\n" * torn + line + "\n")

    def take(self, batch: Batch) -> None:
        """Add the bad files that the loader met while it made this batch."""
        for bad in batch["bad_files"]:
            self.add(*bad)
        if batch["bad_files"]:
            self.check()

    def check(self) -> None:
        """Raise a RunError if there are too many bad files.

        One bad file is always allowed: in a small set it would be more than any share.
        """
        if len(self.bad) <= 1 or len(self.bad) <= self.max_bad * self.rows:
            return
        names = ", ".join(f"{path} ({why})" for path, why in list(self.bad.items())[:LISTED])
        unlisted = f" and {len(self.bad) - LISTED} more" if len(self.bad) > LISTED else ""
        file = "" if self.file is None else f" (all are listed in {self.file})"
        raise RunError(
            f"{len(self.bad)} bad files of {self.rows} are more than --max_bad {self.max_bad:g} "
            f"allows: {names}{unlisted}{file}. Repair or remove them, or raise --max_bad."
        )
