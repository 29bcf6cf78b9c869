"""Progress bars: redrawn on a terminal, a line now and then in a log file."""

import math
import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from ssvid.log import is_shown

LOG_S = 20.0  # seconds between two lines of a bar in a log file
LOG_LINE = "{l_bar} {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class LogBar(tqdm):  # type: ignore[type-arg]  # the class cannot be subscripted when it runs
    """A bar in a log file: a line every LOG_S seconds, and none of what takes less."""

    monitor_interval = 0  # tqdm's thread would write lines in between

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """Write whole lines: the carriage returns of a terminal make one endless line of a log."""

        def print_line(text: str) -> None:
            if text.strip():
                print(text, file=file, flush=True)

        return print_line

    def close(self) -> None:
        """Write the last state, if there was a line before it."""
        if not self.disable and self.last_print_t > self.start_t:
            self.display()
        self.delay = math.inf  # tqdm itself writes nothing more
        super().close()


def progress_bar(
    total: int, unit: str, *, refresh_s: float = 1.0, disable: bool = False, **options: Any
) -> "tqdm[Any]":
    """A tqdm bar that is redrawn every `refresh_s` seconds on a terminal.

    A library call shows no bar, because it shows no log either. `options` go to tqdm.
    """
    options |= {"total": total, "unit": unit, "disable": disable or not is_shown()}
    if sys.stderr.isatty():
        return tqdm(mininterval=refresh_s, **options)
    # With miniters 0 the clock is asked at every update, however unequal their times are.
    defaults = {"mininterval": LOG_S, "delay": LOG_S, "miniters": 0, "bar_format": LOG_LINE}
    return LogBar(**{**defaults, **options})
