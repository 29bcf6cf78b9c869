"""Transcripts in json -> rows.

Reads HowTo100M's json of many videos, the same of one video, and a list of {start, end, text}.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssvid.data.narration.read_csv import KEYS
from ssvid.data.narration.skipped import LeftOut
from ssvid.data.narration.spoken_rows import WANTED, SpokenRow
from ssvid.errors import UserError

Values = tuple[Any, Any, Any]  # start, end, text


def read_json(file: Path, text: str, video: str, listing: LeftOut) -> Iterator[SpokenRow]:
    """A row for each sentence. `video`: the id where the file holds one video.

    A video of another form is added to `listing`. Raises a UserError if all are.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not json ({error}): {WANTED}.") from error
    single = _parse_entry(content)
    if single is not None:
        return _make_rows({video: single})
    rows_of_video: dict[str, list[Values]] = {}
    unreadable = []
    for name, entry in content.items() if isinstance(content, dict) else ():
        rows = _parse_entry(entry)
        if rows is None:
            unreadable.append(name)
        else:
            rows_of_video[name] = rows
    if not rows_of_video:
        raise UserError(
            f"{file} holds {_describe(content)}: it needs {{video id: {{text: [], start: [], "
            "end: []}}."
        )
    for name in unreadable:
        details = f"{name}: text, start and end are not lists of one length"
        listing.add(file, "video of another form", details)
    return _make_rows(rows_of_video)


def _make_rows(rows_of_video: dict[str, list[Values]]) -> Iterator[SpokenRow]:
    for name, rows in rows_of_video.items():
        for row in rows:
            yield SpokenRow(name, *row)


def _parse_entry(entry: Any) -> list[Values] | None:
    """The rows of one video; None if it has another form.

    An entry is a dict of lists of start, end and text, or a list of dicts of them.
    """
    if isinstance(entry, dict) and isinstance(entry.get("segments"), list):
        entry = entry["segments"]  # the form of speech recognition
    if isinstance(entry, dict):
        columns = [entry.get(key) for key in KEYS]
        lists = [column for column in columns if isinstance(column, list)]
        if len(lists) < len(KEYS) or len(set(map(len, lists))) > 1:
            return None
        return list(zip(*lists, strict=True))
    if not isinstance(entry, list) or not entry or not all(map(_has_text, entry)):
        return None
    return [(row.get("start"), row.get("end"), row["text"]) for row in entry]


def _has_text(row: Any) -> bool:
    return isinstance(row, dict) and "text" in row


def _describe(content: Any) -> str:
    """The form of a json that cannot be read, for the error."""
    value = next(iter(content.values()), None) if isinstance(content, dict) else None
    if isinstance(value, list) and value and isinstance(value[0], list) and len(value[0]) == 4:
        return "rows of [alignable, start, end, sentence] (HTM-Align's: take --data htm_align)"
    if isinstance(value, dict):
        return f"videos with {', '.join(map(str, value)) or 'nothing'}"
    inner = f" of {type(value).__name__}s" if value is not None else ""
    return f"a json {type(content).__name__}{inner}"
