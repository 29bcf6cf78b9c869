"""A row of a transcript -> a sentence, or the reason why it cannot be used."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ssvid.data.lists import parse_number
from ssvid.data.narration import subtitles
from ssvid.data.narration.sentences import Sentence

Length = Callable[[str], float | None]  # video id -> seconds; None: unknown

# Reasons. They are written to files.
EMPTY, UNTIMED, NEGATIVE = "empty sentence", "missing time", "negative time"
BACKWARDS, OUTSIDE = "end not after start", "begins past the video's end"
NAMELESS = "no video id"

WANTED = "a transcript is a .vtt, .srt, .json, .csv or .txt file"  # the end of error sentences


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
    if start is None or end is None:
        return UNTIMED
    if start < 0 or end < 0:
        return NEGATIVE
    if end <= start:
        return BACKWARDS
    if length is not None and start >= length:
        return OUTSIDE
    return start, end, text if breaks else " ".join(text.split())


def parse_seconds(value: Any) -> float | None:
    """Seconds of a number, or of a text such as `1:02:03.5`; None for anything else."""
    seconds = parse_number(value)
    return subtitles.parse_clock(value) if seconds is None and isinstance(value, str) else seconds
