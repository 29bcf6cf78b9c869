"""Faults a person can mend: each becomes one sentence and an exit code, never a traceback (see cli.run)."""

import os
import signal
from pathlib import Path


class UserError(Exception):
    """A mistake in what the user gave. The text says what, where and what to do."""

    exit_code = 2


class RunError(UserError):
    """A run that cannot go on (diverged, disk full) although nothing was typed wrongly."""

    exit_code = 3


class PeerLost(RunError):
    """Another process of the run ended, hangs or never came. Its own last words say why."""


FAULTS = "SSVID_FAULTS"  # the folder in which the processes of a sweep's cell note the class of their error


def note_fault(error: BaseException) -> None:
    """Note the class of an error for the keeper of the cell, if one started this process: rankN.fault."""
    if folder := os.environ.get(FAULTS):
        rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
        Path(folder, f"rank{rank}.fault").write_text(type(error).__name__)


class Stopped(RunError):
    """A signal was heeded: no fault, and nothing is lost. EX_TEMPFAIL: who started the command starts it again."""

    exit_code = 75

    def __init__(self, number: int, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} at step {step}: the checkpoint is written; the same command "
            "goes on."
        )


def positive(**flags: int | float | None) -> None:
    """Refuse flags that must be more than 0; None was not given."""
    for name, value in flags.items():
        if value is not None and not value > 0:
            raise UserError(f"--{name} {value}: it must be more than 0.")


def within(low: int | float, high: int | float, **flags: int | float | None) -> None:
    """Refuse flags outside [low, high]; None was not given."""
    for name, value in flags.items():
        if value is not None and not low <= value <= high:
            raise UserError(f"--{name} {value}: it must lie between {low:g} and {high:g}.")


class DecodeError(Exception):
    """One file that cannot give the frames asked for. The loader replaces and counts it."""

    def __init__(self, path: str | Path, why: str, time: float | None = None) -> None:
        super().__init__(path, why, time)  # all three, so that it survives pickling from a worker
        self.path, self.why, self.time = str(path), why, time

    def __str__(self) -> str:
        at = "" if self.time is None else f" at {self.time:.3f} s"
        return f"{self.path}{at}: {self.why}"
