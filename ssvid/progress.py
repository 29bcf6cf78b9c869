"""Progress bars: redrawn on a terminal, a line now and then in a log file."""

import sys
from typing import Any

from tqdm import tqdm

from ssvid.log import is_shown

LOG_S = 20.0  # seconds between two lines of a bar in a log file


def progress_bar(
    total: int, unit: str, *, refresh_s: float = 1.0, disable: bool = False, **options: Any
) -> "tqdm[Any]":
    """A tqdm bar that is redrawn every `refresh_s` seconds on a terminal.

    A library call shows no bar, because it shows no log either. `options` go to tqdm.
    """
    interval_s = refresh_s if sys.stderr.isatty() else LOG_S
    hidden = disable or not is_shown()
    return tqdm(total=total, unit=unit, mininterval=interval_s, disable=hidden, **options)
