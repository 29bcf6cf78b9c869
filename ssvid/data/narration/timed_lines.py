"""Lines that begin with their times (.txt) -> rows, as whisper prints and YouTube shows them."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from ssvid.data.narration.spoken_rows import UNTIL_END, SpokenRow, parse_seconds
from ssvid.errors import UserError

CLOCK = r"(?:\d+:)?\d{1,3}:\d{2}(?:[.,]\d+)?"
NUMBER = rf"(?:{CLOCK}|\d+(?:\.\d+)?)"
ARROW = r"\s*(?:-+>|[-\u2013\u2014])\s*"
# `[00:00.000 --> 00:07.960] text`, `[0.03s - 2.5s] text`, `(0:05) text`. WhisperX prints a word
# before the bracket.
IN_BRACKETS = re.compile(
    rf"(?:\w+:\s*)?[\[(]\s*(?:(?P<start>{NUMBER})s?{ARROW}(?P<end>{NUMBER})s?|(?P<only>{CLOCK}))"
    r"\s*[\])]\s*(?:[-:]\s)?(?P<text>.*)"
)
# `0:05`, `0:05 text`, `0:05 - text`, `0:05 --> 0:07 text`
BARE = re.compile(
    rf"(?P<start>{CLOCK})(?:{ARROW}(?P<end>{CLOCK}))?(?:(?:\s*[-:\u2013]|)\s+(?P<text>.*))?"
)


class Line(NamedTuple):
    """A line that is not empty, cut in two."""

    number: int  # in the file, from 1
    text: str
    start: str = ""  # empty: the line does not begin with a time
    end: str = ""  # empty: it is not stated
    is_sure: bool = False  # the time cannot be the first word of a sentence, as it can in `7:30 pm`


def read_timed_lines(file: Path, text: str, video: str) -> list[SpokenRow]:
    """A row for each time, with the text up to the next time; no rows if the lines have no times.

    A sentence whose end is not stated lasts until a later one begins. A UserError is raised if text
    stands above the first time, because nobody can tell when it is spoken.
    """
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            lines.append(_parse_line(number, line.strip()))
    starts = [line for line in lines if line.start]
    is_sure = any(line.is_sure for line in starts)
    if not is_sure and (len(starts) < 2 or len(starts) < len(lines) / 2):
        return []  # no times, or a few sentences that begin with a time of day
    if not lines[0].start:
        raise UserError(
            f"{file}, line {starts[0].number} begins with a time ({starts[0].start}) and line "
            f"{lines[0].number} does not: remove the lines above the first time, or the times."
        )
    return _make_rows(video, lines)


def begins_with_time(text: str) -> bool:
    first = text.strip().partition("\n")[0]
    return bool(_parse_line(1, first.strip()).start)


def _parse_line(number: int, line: str) -> Line:
    if match := IN_BRACKETS.fullmatch(line):
        start = match["start"] or match["only"]
        return Line(number, match["text"], start, match["end"] or "", is_sure=True)
    if match := BARE.fullmatch(line):
        text, end = match["text"] or "", match["end"] or ""
        return Line(number, text, match["start"], end, is_sure=bool(end) or not text)
    return Line(number, line)


def _make_rows(video: str, lines: list[Line]) -> list[SpokenRow]:
    rows: list[SpokenRow] = []
    later_start: Any = UNTIL_END
    following: list[str] = []  # texts of the lines after a time, the last one first
    for line in reversed(lines):
        following.append(line.text)
        if not line.start:
            continue
        previous = rows[-1].start if rows else line.start
        if parse_seconds(previous) != parse_seconds(line.start):
            later_start = previous
        text = " ".join(reversed(following))
        rows.append(SpokenRow(video, line.start, line.end or later_start, text))
        following = []
    return rows[::-1]
