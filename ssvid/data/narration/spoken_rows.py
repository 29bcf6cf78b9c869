"""A row of a transcript -> a sentence, or the reason why it cannot be used."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ssvid.data.lists import parse_number
from ssvid.data.narration import subtitles
from ssvid.data.narration.sentences import Sentence

Length = Callable[[str], float | None]  # video id -> seconds; None: unknown

# Reasons. They are written to files.
EMPTY, NEGATIVE = "empty sentence", "negative time"
NO_START, NO_END, UNREADABLE = "missing start", "missing end", "time that cannot be read"
BACKWARDS, OUTSIDE = "end not after start", "begins past the video's end"
NAMELESS = "no video id"

UNTIL_END = "end of the video"  # the end of a sentence that its file leaves open
OPEN_S = 30.0  # Whisper hears windows of 30 s, so no sentence that it leaves open lasts longer

# The end of error sentences.
WANTED = "a transcript is a .vtt, .srt, .json, .json3, .csv, .tsv or .txt file"


class SpokenRow(NamedTuple):
    """A row with the values that its file has."""

    video: str
    start: Any
    end: Any
    text: Any


def check_row(row: SpokenRow, length: float | None = None, breaks: bool = False) -> Sentence | str:
    """The sentence, or the reason why it cannot be used.

    `length`: of the video in seconds, where it is known. `breaks`: keep line breaks in the text.
    """
    if not row.video:
        return NAMELESS
    text = row.text.strip() if isinstance(row.text, str) else ""
    if not text:
        return EMPTY
    start, end = parse_seconds(row.start), parse_seconds(row.end)
    if row.end is UNTIL_END and start is not None and length is not None:
        end = min(length, start + OPEN_S)
    if start is None or end is None:
        return _explain_time(row)
    if start < 0 or end < 0:
        return NEGATIVE
    if end <= start:
        return BACKWARDS
    if length is not None and start >= length:
        return OUTSIDE
    return start, end, text if breaks else " ".join(text.split())


def _explain_time(row: SpokenRow) -> str:
    """Which of the two times of a row is missing or cannot be read."""
    value, reason = row.end, NO_END
    if parse_seconds(row.start) is None:
        value, reason = row.start, NO_START
    is_there = isinstance(value, str) and bool(value.strip()) and value is not UNTIL_END
    return UNREADABLE if is_there else reason


def parse_seconds(value: Any) -> float | None:
    """Seconds of a number, or of a text such as `1:02:03.5`; None for anything else."""
    seconds = parse_number(value)
    return subtitles.parse_clock(value) if seconds is None and isinstance(value, str) else seconds
