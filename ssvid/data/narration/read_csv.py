"""Transcripts in a table (.csv, .tsv) -> rows.

Reads columns start, end (or duration) and text, with video_id if there are several videos, and
HTM-AA's columns vid, timestamp and text.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from ssvid.data.narration.json_rows import find_end
from ssvid.data.narration.spoken_rows import SpokenRow, parse_seconds
from ssvid.errors import UserError

KEYS = ("start", "end", "text")
IDS = ("video_id", "vid", "video", "youtube_id")  # the first of these columns is the video id
# HTM-AA names one second. The clips of 3.2 s that hold it begin and end within this distance.
AROUND_S = 3.2
COLUMNS = "start, end and text (of several videos: video_id too), or vid, timestamp and text"


def read_table(file: Path, text: str, wanted: str) -> tuple[list[str], Iterator[dict[str, str]]]:
    """Columns and rows of a csv.

    The separator is the one of comma, semicolon and tab that the first line holds most. `wanted`:
    the columns that the UserError names if a row cannot be read.
    """
    head = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=head.count)
    # Whisper quotes nothing in its tables of tabs, so a quote there may be one of two in a text.
    is_unquoted = separator == "\t" and any(line.count('"') % 2 for line in text.splitlines())
    reader = csv.DictReader(
        io.StringIO(text.lstrip(), newline=""),
        delimiter=separator,
        quoting=csv.QUOTE_NONE if is_unquoted else csv.QUOTE_MINIMAL,
        escapechar="\\" if not is_unquoted and _has_escapes(file, text, separator) else None,
        restval="",
    )
    columns = [name.strip().lower() for name in reader.fieldnames or []]
    reader.fieldnames = columns

    def read_rows() -> Iterator[dict[str, str]]:
        try:
            yield from reader
        except csv.Error as error:
            where = f"{file}, line {reader.reader.line_num}"
            raise UserError(
                f"{where} cannot be read as a csv ({error}): it needs the columns {wanted}."
            ) from error

    return columns, read_rows()


def _has_escapes(file: Path, text: str, separator: str) -> bool:
    """Whether quotes inside quotes are written as whisper.cpp writes them, with a backslash.

    A backslash may also be the last letter of a text. So it escapes quotes only where the table
    makes no sense otherwise. Raises a UserError where it makes no sense in either way.
    """
    if '\\"' not in text or _find_fault(text, separator, None) is None:
        return False
    if fault := _find_fault(text, separator, "\\"):
        raise UserError(
            f"{file}, line {fault} cannot be read: write a quote inside quotes twice, or each with "
            "a backslash."
        )
    return True


def _find_fault(text: str, separator: str, escape: str | None) -> int | None:
    """The number of the first line of a table whose quotes are out of place; None without any."""
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=separator, escapechar=escape, strict=True)
    try:
        for _ in reader:
            pass
    except csv.Error:
        return reader.line_num
    return None


def read_csv(file: Path, text: str, video: str) -> Iterator[SpokenRow]:
    """A row for each line. `video`: the id where there is no column for it.

    Raises a UserError if a column is missing.
    """
    columns, rows = read_table(file, text, COLUMNS)
    id = next((name for name in IDS if name in columns), None)
    single_second = id is not None and "timestamp" in columns and "start" not in columns
    required = ("text",) if single_second else KEYS
    present = {*columns, "end"} if "duration" in columns else set(columns)
    missing = sorted(set(required) - present, key=KEYS.index)
    if missing:
        raise UserError(
            f"{file} has columns {', '.join(columns)[:80]} and no {' or '.join(missing)}: it needs "
            f"{COLUMNS}."
        )
    for row in rows:
        row_video = video if id is None else row[id].strip()
        # The key None: more fields than columns, because a comma is not quoted.
        sentence = None if None in row else row["text"]
        if single_second:
            start, end = _around(parse_seconds(row["timestamp"]))
            yield SpokenRow(row_video, start, end, sentence)
        else:
            yield SpokenRow(row_video, row["start"], find_end(row), sentence)


def _around(second: float | None) -> tuple[float | None, float | None]:
    """Start and end around a second. A negative second stays negative, so that it is refused."""
    if second is None:
        return None, None
    return second if second < 0 else max(0.0, second - AROUND_S), second + AROUND_S
