"""A progress bar: alive on a terminal, a line now and then in a log file."""

import sys
from typing import Any

from tqdm import tqdm

LOG_S = 20.0  # seconds between two lines of a bar in a log file


def progress_bar(total: int, unit: str, *, refresh_s: float = 1.0, **options: Any) -> "tqdm[Any]":
    """`refresh_s`: seconds between two drawings on a terminal."""
    interval_s = refresh_s if sys.stderr.isatty() else LOG_S
    return tqdm(total=total, unit=unit, mininterval=interval_s, **options)
