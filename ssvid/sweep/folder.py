"""a sweep's folder <-> what stands in it. The only file that says where a cell's things lie and how they are written.

sweep.json            the cells, as they were submitted: a sweep file that is edited later changes none of them
submissions/NNNN.json what was handed to the cluster, and under which number
cells/HASH/           attempts.jsonl, logs, pretrain.yaml, run_HASH/, suite.yaml, bench/, and row.json or failed.json
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ssvid.errors import RunError, UserError
from ssvid.files import locked, write_json_whole, write_text_whole

Event = dict[str, Any]


class SweepFolder:
    def __init__(self, out: str | Path) -> None:
        self.path = Path(out)
        self.file = self.path / "sweep.json"

    def read(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.file.read_text()))
        except FileNotFoundError:
            raise UserError(f"{self.path} holds no sweep: name the --out of one.") from None
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{self.file} is damaged ({error}): submit the sweep again, which writes it anew; its cells are kept."
            ) from error

    def write(self, sweep: dict[str, Any]) -> None:
        store(self.file, sweep)

    def cell(self, name: str) -> "CellFolder":
        return CellFolder(self.path / "cells" / name)

    def record(self, **what: Any) -> Path:
        """A submission, written before the cluster is asked: a submit that is killed then leaves no unknown job."""
        number = 1 + max((int(one["number"]) for one in self.submissions()), default=0)
        file = self.path / "submissions" / f"{number:04d}.json"
        store(file, {"time": round(time.time()), "host": socket.gethostname(), **what})
        return file

    def submissions(self) -> list[dict[str, Any]]:
        """Oldest first."""
        found = []
        for file in sorted((self.path / "submissions").glob("*.json")):
            try:
                where = {"number": file.stem, "folder": str(self.path / "jobs" / file.stem)}
                found.append({**json.loads(file.read_text()), **where})
            except ValueError as error:
                raise UserError(
                    f"{file} is damaged, and what it started may still run: look into the queue, then delete the file."
                ) from error
        return found

    @contextmanager
    def submitting(self) -> Iterator[None]:
        """Hold the folder as the one who submits. A folder that is something else, or not to be written, is refused."""
        if self.path.is_file():
            raise UserError(f"--out {self.path} is a file; name a folder.")
        if self.path.is_dir() and not self.file.exists():
            strangers = sorted(p.name for p in self.path.iterdir() if p.name != "lock")
            if strangers:
                raise UserError(
                    f"--out {self.path} holds {strangers[0]!r} but no sweep; name a new or an empty folder."
                )
        try:
            with locked(self.path / "lock", wait=False, what=f"The sweep {self.path}"):
                yield
        except (PermissionError, FileNotFoundError, NotADirectoryError) as error:
            if error.filename is None or not str(error.filename).startswith(str(self.path)):
                raise
            raise UserError(
                f"--out {self.path} cannot be written ({error.strerror}); name another folder."
            ) from error


class CellFolder:
    def __init__(self, path: Path) -> None:
        self.path, self.hash = path, path.name
        self.run, self.bench, self.logs = path / f"run_{self.hash}", path / "bench", path / "logs"
        self.lock, self.attempts = path / "lock", path / "attempts.jsonl"
        self.row_file, self.failed_file = path / "row.json", path / "failed.json"
        self.metrics, self.report = self.run / "metrics.jsonl", self.bench / "report.html"

    @property
    def finished(self) -> bool:
        """A damaged row is none: the keeper writes it anew."""
        try:
            return bool(json.loads(self.row_file.read_text()))
        except (OSError, ValueError):
            return False

    @property
    def why(self) -> dict[str, Any]:
        """It has failed: what was written down then."""
        try:
            return dict(json.loads(self.failed_file.read_text()))
        except ValueError:
            return {"why": "its failed.json is damaged", "times": 0, "stage": "", "lines": []}

    @property
    def failed(self) -> bool:
        return self.failed_file.exists()

    def events(self) -> list[Event]:
        """What happened to the cell, oldest first. A line that a kill cut short is none."""
        found = []
        for line in self.attempts.read_bytes().splitlines() if self.attempts.exists() else []:
            try:
                found.append(dict(json.loads(line)))
            except ValueError:
                continue
        return found

    def add(self, event: str, **more: Any) -> None:
        """One whole line at the end, on disk at once; a line that a kill left open is ended first."""
        line = json.dumps({"event": event, "time": round(time.time(), 1), **more}) + "\n"
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.attempts, "ab+") as file:
                end = file.seek(0, os.SEEK_END)
                if end:
                    file.seek(end - 1)
                    line = "\n" * (file.read(1) != b"\n") + line
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(
                f"{self.attempts} could not be written: {error.strerror}. Free some space."
            ) from error

    def recipe(self, name: str, flags: dict[str, Any]) -> Path:
        file = self.path / f"{name}.yaml"
        write_text_whole(file, yaml.safe_dump(flags, sort_keys=False))
        return file

    def mark(self, stage: str) -> str:
        """How far the cell has come: what has changed since the last attempt was worth it."""
        if stage == "pretrain":
            return max((p.name for p in (self.run / "checkpoints").glob("step_*.pt")), default="")
        return str(len(list(self.bench.glob("*.json"))))


def store(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json_whole(file, content, indent=1)


def newest(metrics: Path, size: int = 8192) -> dict[str, Any]:
    """The last whole line with a loss; only the end of the file is read."""
    try:
        with open(metrics, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            row = dict(json.loads(line))
        except ValueError:
            continue
        if "loss" in row:
            return row
    return {}
