"""Transcripts in json -> rows.

Reads HowTo100M's json of many videos, and one video in any of the forms of `json_rows`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssvid.data.narration.json_rows import Values, parse_entry
from ssvid.data.narration.skipped import LeftOut
from ssvid.data.narration.spoken_rows import WANTED, SpokenRow
from ssvid.errors import UserError


def read_json(file: Path, text: str, video: str, listing: LeftOut) -> Iterator[SpokenRow]:
    """A row for each sentence. `video`: the id where the file holds one video.

    A video of another form is added to `listing`. Raises a UserError if all are.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not json ({error}): {WANTED}.") from error
    single = parse_entry(content)
    if single is not None:
        return _make_rows({video: single})
    rows_of_video: dict[str, list[Values]] = {}
    unreadable = []
    for name, entry in content.items() if isinstance(content, dict) else ():
        rows = parse_entry(entry)
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


def _describe(content: Any) -> str:
    """The form of a json that cannot be read, for the error."""
    value = next(iter(content.values()), None) if isinstance(content, dict) else None
    if isinstance(value, list) and value and isinstance(value[0], list) and len(value[0]) == 4:
        return "rows of [alignable, start, end, sentence] (HTM-Align's: take --data htm_align)"
    if isinstance(value, dict):
        return f"videos with {', '.join(map(str, value)) or 'nothing'}"
    inner = f" of {type(value).__name__}s" if value is not None else ""
    return f"a json {type(content).__name__}{inner}"
