"""The one logger of the house. A library call shows nothing; commands show what is logged, on standard error."""

import functools
import logging
import os
import sys

log = logging.getLogger("ssvid")
log.addHandler(logging.NullHandler())  # without any handler, logging itself would print warnings


class Screen(logging.Handler):
    """Lines on standard error, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if record.levelno >= logging.WARNING:
            line = f"{record.levelname.lower()}: {line}"
        if "tqdm" in sys.modules:  # what never imported it has no bar
            from tqdm import tqdm

            tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr)
        sys.stderr.flush()


def show_log() -> None:
    """Show what is logged from here on, and progress bars. Calling it again changes nothing."""
    log.setLevel(logging.INFO)
    if not is_shown():
        log.addHandler(Screen())


def is_shown() -> bool:
    return any(isinstance(handler, Screen) for handler in log.handlers)


@functools.cache
def log_once(line: str) -> None:
    """What is known of a data set, which a process may open several times. The first of several processes says it."""
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        log.info(line)
