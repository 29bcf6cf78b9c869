"""a sweep's folder <-> its contents.

This is the only file that knows where a cell's files lie and how they are written:

sweep.json            the cells as they were submitted; edits of the sweep file do not change them
submissions/NNNN.json the cells that one submission gave to the cluster, and its job number
cells/HASH/           attempts.jsonl, logs, pretrain.yaml, run_HASH/, suite.yaml, bench/, and
                      either row.json or failed.json
"""

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ssvid.errors import RunError, UserError
from ssvid.files import (
    locked,
    read_json_lines,
    read_json_mapping,
    write_json_whole,
    write_text_whole,
)

Event = dict[str, Any]


class SweepFolder:
    """The folder of one sweep."""

    def __init__(self, out: str | Path) -> None:
        self.path = Path(out)
        self.file = self.path / "sweep.json"

    def read(self) -> dict[str, Any]:
        """The content of sweep.json. UserError: the file is missing or damaged."""
        if not self.file.exists():
            raise UserError(f"{self.path} holds no sweep: name the --out folder of a sweep.")
        try:
            sweep = read_json_mapping(self.file, "sweep")
            for name, record in sweep["cells"].items():
                if not re.fullmatch(r"\w+", name):  # it names a folder, which is written to
                    raise ValueError(f"{name!r} is no name of a cell")
                if not isinstance(record, dict):
                    raise ValueError(f"the cell {name} has no settings")
            return sweep
        except (UserError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{self.file} is damaged ({error}): submit the sweep again. That writes the file "
                "anew and keeps the cells."
            ) from error

    def write(self, sweep: dict[str, Any]) -> None:
        """Write sweep.json."""
        write_json_file(self.file, sweep)

    def cell(self, name: str) -> "CellFolder":
        """The folder of the cell whose hash is `name`."""
        return CellFolder(self.path / "cells" / name)

    def record_submission(self, **fields: Any) -> Path:
        """Write the file of a new submission and return its path.

        It is written before the cluster is asked. If the command is killed in between, the jobs
        that the cluster may have accepted are still known by their name.
        """
        numbers = [int(submission["number"]) for submission in self.submissions()]
        file = self.path / "submissions" / f"{1 + max(numbers, default=0):04d}.json"
        write_json_file(file, {"time": round(time.time()), "host": socket.gethostname(), **fields})
        return file

    def submissions(self) -> list[dict[str, Any]]:
        """All submissions, oldest first. UserError: the file of one is damaged."""
        submissions = []
        for file in sorted((self.path / "submissions").glob("*.json")):
            try:
                paths = {"number": file.stem, "folder": str(self.path / "jobs" / file.stem)}
                submission = read_json_mapping(file, "submission")
                if not {"cluster", "cells"} <= submission.keys():
                    raise UserError("it names no cluster or no cells")
                submissions.append({**submission, **paths})
            except UserError as error:
                raise UserError(
                    f"{file} is damaged, and its jobs may still run: look for them in the "
                    "cluster's queue, then delete the file."
                ) from error
        return submissions

    @contextmanager
    def lock_submissions(self) -> Iterator[None]:
        """Hold the folder's lock, so that only one command submits at a time.

        UserError: the path is a file, a folder with other content, or not writable.
        Locked: another command is submitting.
        """
        if self.path.is_file():
            raise UserError(f"--out {self.path} is a file; name a folder.")
        if self.path.is_dir() and not self.file.exists():
            strangers = sorted(p.name for p in self.path.iterdir() if p.name != "lock")
            if strangers:
                raise UserError(
                    f"--out {self.path} holds {strangers[0]!r} but no sweep; name a new or an "
                    "empty folder."
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
    """The folder of one cell. Its name is the cell's hash."""

    def __init__(self, path: Path) -> None:
        self.path, self.hash = path, path.name
        self.run, self.bench, self.logs = path / f"run_{self.hash}", path / "bench", path / "logs"
        self.lock, self.attempts = path / "lock", path / "attempts.jsonl"
        self.row_file, self.failed_file = path / "row.json", path / "failed.json"
        self.metrics, self.report = self.run / "metrics.jsonl", self.bench / "report.html"

    @property
    def finished(self) -> bool:
        """Whether the cell has its row. A damaged row does not count: the keeper writes it anew."""
        try:
            return self.row_file.exists() and bool(read_json_mapping(self.row_file, "row"))
        except UserError:
            return False

    @property
    def failed(self) -> bool:
        """Whether the keeper has given the cell up."""
        return self.failed_file.exists()

    def read_failure(self) -> dict[str, Any]:
        """The content of failed.json: why the cell was given up."""
        unknown = {"why": "its failed.json is damaged", "times": 0, "stage": "", "lines": []}
        try:
            return {**unknown, **read_json_mapping(self.failed_file, "failure")}
        except UserError:
            return unknown

    def read_events(self) -> list[Event]:
        """All events of the cell, oldest first. Damaged lines are left out, as a kill cuts them."""
        rows, _ = read_json_lines(self.attempts, "list of attempts")
        return [row for row in rows if isinstance(row.get("event"), str)]

    def add_event(self, event: str, **fields: Any) -> None:
        """Append one line to attempts.jsonl and sync it to disk.

        If a kill left the last line open, that line is ended first. RunError: the disk is full or
        not writable.
        """
        line = json.dumps({"event": event, "time": round(time.time(), 1), **fields}) + "\n"
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

    def write_recipe(self, name: str, flags: dict[str, Any]) -> Path:
        """Write `flags` as the recipe NAME.yaml of the cell and return its path."""
        file = self.path / f"{name}.yaml"
        write_text_whole(file, yaml.safe_dump(flags, sort_keys=False))
        return file

    def read_mark(self, stage: str) -> str:
        """How far a stage has come: the newest checkpoint's name, or the number of result files.

        If the mark differs between two attempts, the later attempt made progress.
        """
        if stage == "pretrain":
            return max((p.name for p in (self.run / "checkpoints").glob("step_*.pt")), default="")
        return str(len(list(self.bench.glob("*.json"))))


def write_json_file(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all. Its folder is made where it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json_whole(file, content, indent=1)


def read_last_metrics(metrics: Path, size: int = 8192) -> dict[str, Any]:
    """The last complete line of metrics.jsonl that has a loss; {} if there is none.

    Only the last `size` bytes of the file are read.
    """
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
