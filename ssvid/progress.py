"""Progress bars: redrawn on a terminal, a line now and then in a log file."""

import sys
from typing import Any

from tqdm import tqdm

from ssvid.log import is_shown

LOG_S = 20.0  # seconds between two lines of a bar in a log file
LOG_LINE = (
    "{desc}{percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
)


class LogFile:
    """Standard error for a bar that is no terminal: each state of the bar is a line of its own.

    A bar redraws its line by a carriage return, and a file would hold all states in one line.
    """

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(
    total: int, unit: str, *, refresh_s: float = 1.0, disable: bool = False, **options: Any
) -> "tqdm[Any]":
    """A tqdm bar that is redrawn every `refresh_s` seconds on a terminal.

    A library call shows no bar, because it shows no log either. `options` go to tqdm.
    """
    if not sys.stderr.isatty():
        options |= {"file": LogFile(), "bar_format": LOG_LINE}
        refresh_s = LOG_S
    hidden = disable or not is_shown()
    return tqdm(total=total, unit=unit, mininterval=refresh_s, disable=hidden, **options)
