"""The folder of a run or of a sweep's cell -> the content of its files, as far as it can be read.

The run may be active, or may have been killed while it wrote. A damaged file never ends a report.
"""

import json
import math
from pathlib import Path
from typing import IO, Any

from ssvid.errors import UserError
from ssvid.files import check_plain, read_json_mapping, read_yaml_mapping
from ssvid.results.schema import Json

CHUNK = 4096  # bytes that are read at each position of a long log


def read_mapping(file: Path) -> Json:
    """The content of a JSON or YAML file; empty if there is no file or it is damaged."""
    try:
        return read_whole_mapping(file) or {}
    except UserError:
        return {}


def read_whole_mapping(file: Path) -> Json | None:
    """The content of a JSON or YAML file; None if there is no file.

    A UserError if it is damaged.
    """
    if not file.is_file():
        return None
    read = read_json_mapping if file.suffix == ".json" else read_yaml_mapping
    return read(file, "file")


def read_metrics(file: Path) -> tuple[list[Json], int]:
    """The rows of metrics.jsonl, and the number of lines that cannot be read."""
    rows: list[Json] = []
    lines = file.read_bytes().splitlines() if file.is_file() else []
    for line in lines:
        row = parse_row(line)
        if row is not None:
            rows.append(row)
    return rows, len(lines) - len(rows)


def read_losses(file: Path, most: int) -> list[tuple[int, float]]:
    """(step, loss) of a log. About `most` positions of a long log are read, its ends among them."""
    losses: dict[int, float] = {}
    for line in read_lines(file, most):
        row = parse_row(line)
        loss = row.get("loss") if row is not None else None
        if row is not None and isinstance(loss, int | float) and math.isfinite(loss):
            losses[row["step"]] = float(loss)  # a step that a restart repeated is there twice
    curve = sorted(losses.items())
    if len(curve) <= most:
        return curve
    return [curve[i * (len(curve) - 1) // (most - 1)] for i in range(most)]


def parse_row(line: bytes) -> Json | None:
    """One line of a log, with its step as an integer; None if the line is damaged."""
    try:
        row: Any = json.loads(line)
        check_plain(row)
        return {**row, "step": int(row["step"])}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def read_lines(file: Path, most: int) -> list[bytes]:
    try:
        size = file.stat().st_size
        with open(file, "rb") as log:
            if size <= most * CHUNK:
                return log.read().splitlines()
            lines: list[bytes] = []
            for i in range(most):
                lines += read_lines_at(log, i * (size - CHUNK) // (most - 1))
            return lines
    except OSError:
        return []


def read_lines_at(log: IO[bytes], position: int) -> list[bytes]:
    log.seek(position)
    return log.read(CHUNK).splitlines()  # a line that is cut is no JSON and is skipped later
