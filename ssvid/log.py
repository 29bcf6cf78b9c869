"""The logger `ssvid`.

Commands show its messages on standard error; a library call shows nothing.
"""

import functools
import logging
import os
import sys

BOLD_RED, PLAIN = "\033[1;31m", "\033[0m"  # of a terminal

log = logging.getLogger("ssvid")
log.addHandler(logging.NullHandler())  # without a handler, logging would print warnings itself


class Screen(logging.Handler):
    """Writes messages to standard error, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        line, on_terminal = record.getMessage(), sys.stderr.isatty()
        if record.levelno >= logging.WARNING:
            line = f"{record.levelname.lower()}: {line}"
            if on_terminal and "NO_COLOR" not in os.environ:
                line = f"{BOLD_RED}{line}{PLAIN}"
        # Only a bar on a terminal is in the way. A process that never imported tqdm has none.
        if on_terminal and "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr)
        sys.stderr.flush()


def show_log() -> None:
    """Show messages and progress bars from now on. A second call changes nothing."""
    log.setLevel(logging.INFO)
    if not is_shown():
        log.addHandler(Screen())


def is_shown() -> bool:
    return any(isinstance(handler, Screen) for handler in log.handlers)


@functools.cache
def log_once(line: str, level: int = logging.INFO) -> None:
    """Log a line once per process, and only in the first process of a run.

    It is for facts about a data set, which a process may open several times.
    """
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        log.log(level, line)
