"""What a json holds of one video -> start, end and text of its sentences, in seconds.

Each program that transcribes or downloads has a form of its own. Only this file knows them.
"""

from itertools import pairwise
from typing import Any

from ssvid.data.narration.spoken_rows import UNTIL_END, parse_seconds

Values = tuple[Any, Any, Any]  # start, end, text
# Where a program puts its list: Whisper segments, whisper.cpp transcription, Hugging Face chunks,
# youtube-transcript-api snippets, YouTube's json3 events.
LISTS = ("segments", "transcription", "chunks", "snippets", "events")
COLUMNS = ("start", "end", "text")


def parse_entry(entry: Any) -> list[Values] | None:
    """The rows of one video; None if it has a form that is not known here.

    An entry is a list of dicts with a row each, or a dict of lists of start, end and text.
    """
    if isinstance(entry, dict):
        for name in LISTS:
            if isinstance(entry.get(name), list):
                return _parse_list(entry[name])
        return _parse_columns(entry)
    if isinstance(entry, list) and len(entry) == 1 and isinstance(entry[0], list):
        entry = entry[0]  # youtube-transcript-api writes a list of transcripts, here of one
    return _parse_list(entry) if isinstance(entry, list) else None


def find_end(row: dict[str, Any]) -> Any:
    """The end of a row: as it is stated, else start + duration; None if neither is there."""
    end = row.get("end")
    if end is not None and end != "":
        return end
    start = parse_seconds(row.get("start"))
    duration = parse_seconds(row.get("duration"))
    return None if start is None or duration is None else start + duration


def _parse_columns(entry: dict[str, Any]) -> list[Values] | None:
    names = ("start", "duration", "text") if "end" not in entry else COLUMNS
    columns = []
    for name in names:
        if not isinstance(entry.get(name), list):
            return None
        columns.append(entry[name])
    if len(set(map(len, columns))) > 1:
        return None
    rows = []
    for values in zip(*columns, strict=True):
        row = dict(zip(names, values, strict=True))
        rows.append((row["start"], find_end(row), row["text"]))
    return rows


def _parse_list(rows: list[Any]) -> list[Values] | None:
    if not rows or not all(isinstance(row, dict) for row in rows):
        return None
    if any("tStartMs" in row for row in rows):
        return _parse_events(rows)
    if not all("text" in row for row in rows):
        return None
    return _close_open_ends([_parse_row(row) for row in rows])


def _parse_row(row: dict[str, Any]) -> Values:
    offsets, clocks, pair = row.get("offsets"), row.get("timestamps"), row.get("timestamp")
    if isinstance(offsets, dict):  # whisper.cpp: milliseconds
        return _to_seconds(offsets.get("from")), _to_seconds(offsets.get("to")), row["text"]
    if isinstance(clocks, dict):  # whisper.cpp: the same as `00:00:01,500`
        return clocks.get("from"), clocks.get("to"), row["text"]
    if isinstance(pair, list) and len(pair) == 2:  # Hugging Face
        start, end = pair
        return start, UNTIL_END if end is None else end, row["text"]
    return row.get("start"), find_end(row), row["text"]


def _close_open_ends(rows: list[Values]) -> list[Values]:
    """A chunk without an end lasts until the next one begins. Only the last one stays open."""
    closed = []
    for (start, end, text), (next_start, _, _) in pairwise(rows):
        closed.append((start, next_start if end is UNTIL_END else end, text))
    return [*closed, rows[-1]]


def _parse_events(events: list[dict[str, Any]]) -> list[Values]:
    """The events of YouTube's json3 that have words. Others open a window or break a line.

    Words of automatic captions have offsets. Such a caption stays on the screen while the next one
    is spoken, so it ends where the next one begins.
    """
    rows: list[Values] = []
    is_automatic = False
    for event in events:
        words, segments = "", event.get("segs")
        for segment in segments if isinstance(segments, list) else ():
            if isinstance(segment, dict):
                words += str(segment.get("utf8") or "")
                is_automatic |= "tOffsetMs" in segment
        if words.strip():
            start, duration = (
                _to_seconds(event.get("tStartMs")),
                _to_seconds(event.get("dDurationMs")),
            )
            end = None if start is None or duration is None else start + duration
            rows.append((start, end, words))
    if not is_automatic:
        return rows
    cut = []
    for (start, end, words), (next_start, _, _) in pairwise(rows):
        is_shown_longer = next_start is not None and (end is None or end > next_start)
        cut.append((start, next_start if is_shown_longer else end, words))
    return [*cut, *rows[-1:]]


def _to_seconds(milliseconds: Any) -> float | None:
    number = parse_seconds(milliseconds)
    return None if number is None else number / 1000
