"""Errors that a user can mend. A command prints each as one sentence and ends with an exit code."""

import os
import signal
from pathlib import Path

# Environment variable: the folder in which processes of a sweep's cell note the class of an error.
FAULTS = "SSVID_FAULTS"
TOO_LARGE = (RuntimeError, MemoryError, OverflowError)  # what building a net too large raises


class UserError(Exception):
    """The input is wrong. The text says what is wrong, where, and what to do."""

    exit_code = 2


class RunError(UserError):
    """A run cannot go on (the loss diverged, the disk is full) although its input is right."""

    exit_code = 3


class PeerLost(RunError):
    """Another process of the run ended, hangs or never came. Its own output says why."""


class Stopped(RunError):
    """A signal stopped the run after it wrote a checkpoint. Nothing is lost.

    The exit code is EX_TEMPFAIL: whoever started the command may start it again.
    """

    exit_code = 75

    def __init__(self, number: int, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} at step {step}: the checkpoint is written; "
            "the same command goes on."
        )


class DecodeError(Exception):
    """A file cannot give the requested frames. The loader replaces and counts such files."""

    def __init__(self, path: str | Path, why: str, time: float | None = None) -> None:
        super().__init__(path, why, time)  # all three, so that it survives pickling in a worker
        self.path, self.why, self.time = str(path), why, time

    def __str__(self) -> str:
        where = self.path if self.time is None else f"{self.path} at {self.time:.3f} s"
        return f"{where}: {self.why}"


def describe_error(error: Exception) -> str:
    """The message of an error of PyAV, Pillow or the system; its class name if there is none."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()


def note_fault(error: BaseException) -> None:
    """Write the class of an error to rankN.fault, where the keeper of a sweep's cell reads it.

    Does nothing in a process that no keeper started.
    """
    if folder := os.environ.get(FAULTS):
        rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
        Path(folder, f"rank{rank}.fault").write_text(type(error).__name__)


def check_positive(**flags: int | float | None) -> None:
    """Raise a UserError for a flag that is not more than 0. None passes: it was not set."""
    for name, value in flags.items():
        if value is not None and not value > 0:
            raise UserError(f"--{name} {value}: it must be more than 0.")


def check_range(low: int | float, high: int | float, **flags: int | float | None) -> None:
    """Raise a UserError for a flag outside [low, high]. None passes: it was not set."""
    for name, value in flags.items():
        if value is not None and not low <= value <= high:
            raise UserError(f"--{name} {value}: it must lie between {low:g} and {high:g}.")
