"""Faults a person can mend: each becomes one sentence and an exit code, never a traceback (see cli.run)."""

from pathlib import Path


class UserError(Exception):
    """A mistake in what the user gave. The text says what, where and what to do."""

    exit_code = 2


class RunError(UserError):
    """A run that cannot go on (diverged, disk full) although nothing was typed wrongly."""

    exit_code = 3


class DecodeError(Exception):
    """One file that cannot give the frames asked for. The loader replaces and counts it."""

    def __init__(self, path: str | Path, why: str, time: float | None = None) -> None:
        super().__init__(path, why, time)  # all three, so that it survives pickling from a worker
        self.path, self.why, self.time = str(path), why, time

    def __str__(self) -> str:
        at = "" if self.time is None else f" at {self.time:.3f} s"
        return f"{self.path}{at}: {self.why}"
