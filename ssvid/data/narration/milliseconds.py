"""Rows of a transcript -> the same rows in seconds, where their times are milliseconds.

Whisper's tables (.csv, .tsv) hold milliseconds, and nothing in them says so.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from statistics import median

from ssvid.data.lists import parse_number
from ssvid.data.narration.skipped import LeftOut
from ssvid.data.narration.spoken_rows import Length, SpokenRow

SAMPLE = 1000  # rows that are looked at: a file may hold millions
# Nobody speaks more than ten words a second, and hardly an annotation has a word in 100 seconds. So
# times that give a word 100 or more are milliseconds.
TIME_OF_WORD = 100.0
# A transcript in seconds ends at most a little after its video, where it was made of a longer cut.
TIMES_TOO_LONG = 1.5


def convert_to_seconds(
    rows: Iterable[SpokenRow], file: Path, listing: LeftOut, length: Length | None
) -> Iterator[SpokenRow]:
    """The rows, divided by 1000 where their times are milliseconds. A note in `listing` says so.

    Times are milliseconds if they are whole numbers, leave too much time for a word, and run past
    the end of the video where its length is known.
    """
    remaining = iter(rows)
    sample = list(islice(remaining, SAMPLE))
    whole_rows = chain(sample, remaining)
    spans = list(filter(None, map(_read_span, sample)))
    if not spans or median(map(_divide_by_words, spans)) < TIME_OF_WORD:
        return whole_rows
    seconds = length(sample[0].video) if length else None
    if seconds is not None and max(spans)[0] <= TIMES_TOO_LONG * seconds:
        return whole_rows
    if not all(map(_has_whole_times, sample)):
        listing.note("so slow that a word lasts 100 seconds or more: check their times", file)
        return whole_rows
    listing.note("in milliseconds and divided by 1000", file)
    return map(_divide, whole_rows)


def _read_span(row: SpokenRow) -> tuple[float, float, int] | None:
    """End, duration and number of words of a row; None if it has no times."""
    start, end = parse_number(row.start), parse_number(row.end)
    if start is None or end is None or not isinstance(row.text, str) or not row.text.strip():
        return None
    return end, end - start, len(row.text.split())


def _divide_by_words(span: tuple[float, float, int]) -> float:
    _, duration, words = span
    return duration / words


def _has_whole_times(row: SpokenRow) -> bool:
    """Whether its times are whole numbers. A missing time contradicts nothing."""
    return all((parse_number(value) or 0.0).is_integer() for value in (row.start, row.end))


def _divide(row: SpokenRow) -> SpokenRow:
    start, end = parse_number(row.start), parse_number(row.end)
    return row._replace(
        start=row.start if start is None else start / 1000,
        end=row.end if end is None else end / 1000,
    )
