"""WebVTT and SRT text -> cues of start, end and lines.

This is the only file that knows rolling captions, which show a line again above the next one.
"""

import html
import re
from itertools import pairwise
from typing import NamedTuple

# Three digits behind a last colon are milliseconds, as in `00:00:01:500`. Two would be frames.
CLOCK = re.compile(
    r"(?P<sign>-?)(?:(?P<h>\d+):)?(?P<m>\d{1,2}):(?P<s>\d{1,2})(?:[.,](?P<part>\d+)|:(?P<ms>\d{3}))?"
)
CLOCKLIKE = re.compile(r"-?\d[\d:.,]*")  # it should be a time, though perhaps it cannot be read
ARROW = "-->"
# Blocks of WebVTT that are not spoken. Segments of HLS that were joined have a head each.
ASIDE = re.compile(r"(NOTE|STYLE|REGION|WEBVTT)(\s|$)|X-TIMESTAMP-MAP=")
# HLS: the time LOCAL of the cues is the time MPEGTS of the stream, in ticks that wrap around.
TIME_MAP = re.compile(r"X-TIMESTAMP-MAP=(?=.*MPEGTS:(?P<ticks>\d+))(?=.*LOCAL:(?P<local>[\d:.]+))")
TICKS, WRAP = 90_000, 2**33  # in a second; of the counter
# <i>, <c.red>, <00:00:01.000>, {\an8}
TAG = re.compile(r"</?[A-Za-z][^<>]*>|<[\d:.]+>|</?>|\{\\[^{}]*\}")
STAMP = re.compile(r"<\d+:[\d:.]+>")  # the time of a word, which automatic captions have
NEAR = 0.05  # seconds: a line that stays on the screen is in the next cue too, at once
# In a file of rolling captions at least this share of the cues begins with the line before them.
SHARE = 0.5


class Cue(NamedTuple):
    """What is on the screen at a time."""

    start: float | None  # seconds; None: the line of its times cannot be read
    end: float | None
    lines: tuple[str, ...]  # without tags, none of them empty
    times: str = ""  # the line of its times, if it cannot be read


def parse_clock(text: str) -> float | None:
    """Seconds of `1:02:03.5` or `02:03,500`; None for anything else."""
    match = CLOCK.fullmatch(text.strip())
    if match is None:
        return None
    seconds = float(f"{match['s']}.{match['part'] or match['ms'] or 0}")
    value = int(match["h"] or 0) * 3600 + int(match["m"]) * 60 + seconds
    return -value if match["sign"] else value


def parse_cues(text: str) -> list[Cue]:
    """The cues in the file's order.

    What automatic captions show twice or three times is in one cue only.
    """
    lines = split_lines(text)
    starts = find_times(lines)
    shifts = _find_shifts(lines)
    cues = []
    for start, following in pairwise([*starts, len(lines)]):
        body = lines[start + 1 : following]
        if following < len(lines):
            body = _without_name(body)
        cues.append(_make_cue(lines[start], _spoken_lines(body), shifts[start]))
    if len(set(shifts)) > 1:
        cues = list(dict.fromkeys(cues))  # a cue on the border of two segments is in both
    return _unroll(cues) if _are_rolling(cues, text) else cues


def split_lines(text: str) -> list[str]:
    return re.split(r"\r\n|\r|\n", text.replace("\ufeff", ""))


def find_times(lines: list[str]) -> list[int]:
    """The lines `START --> END`. An arrow in what is said makes no such line."""
    times: list[int] = []
    for i, line in enumerate(lines):
        before = lines[i - 1].strip() if i else ""
        begins_cue = not before or before.isdigit()
        is_first_line_of_text = bool(times) and times[-1] == i - 1
        clocks = _count_clocks(line)
        if clocks and not is_first_line_of_text and (clocks == 2 or begins_cue):
            times.append(i)
    return times


def _count_clocks(line: str) -> int:
    """How many of the two sides of an arrow look like a time; 0 without an arrow."""
    start, arrow, end = line.partition(ARROW)
    sides = (start.strip(), "".join(end.split()[:1]))
    return sum(bool(CLOCKLIKE.fullmatch(side)) for side in sides) if arrow else 0


def _find_shifts(lines: list[str]) -> list[float]:
    """For each line, the seconds that the last time map before it adds to the times of cues.

    The first map's LOCAL is taken for second 0 of the video: players show the subtitles of the
    first segment with the first picture, whatever number the stream begins to count from.
    """
    shifts, shift, first_ticks = [], 0.0, None
    for line in lines:
        match = TIME_MAP.match(line.strip())
        local = parse_clock(match["local"]) if match else None
        if match and local is not None:
            ticks = int(match["ticks"])
            first_ticks = ticks if first_ticks is None else first_ticks
            shift = (ticks - first_ticks) % WRAP / TICKS - local
        shifts.append(shift)
    return shifts


def _make_cue(line: str, spoken: tuple[str, ...], shift: float) -> Cue:
    """The cue of `START --> END`, after which settings of the position may follow."""
    start_text, _, end_text = line.partition(ARROW)
    start, end = parse_clock(start_text), parse_clock("".join(end_text.split()[:1]))
    if start is None or end is None:
        return Cue(start, end, spoken, line)
    return Cue(start + shift, end + shift, spoken) if shift else Cue(start, end, spoken)


def _without_name(body: list[str]) -> list[str]:
    """The lines of a cue without the number or name of the next cue.

    That is the last line before the next times, if it is a number or stands after an empty line.
    """
    if len(body) > 1 and body[-1].strip() and (not body[-2].strip() or body[-1].strip().isdigit()):
        return body[:-1]
    return body


def _spoken_lines(body: list[str]) -> tuple[str, ...]:
    """Lines without tags and without blocks such as NOTE, which begin after an empty line."""
    spoken: list[str] = []
    aside = False
    for before, line in zip(["", *body], body, strict=False):
        begins = not before.strip() and spoken != [] and bool(ASIDE.match(line))
        aside = bool(line.strip()) and (aside or begins)
        clean = " ".join(html.unescape(TAG.sub("", line)).replace("\u200b", "").split())
        if clean and not aside:
            spoken.append(clean)
    return tuple(spoken)


def _are_rolling(cues: list[Cue], text: str) -> bool:
    """Whether each line is shown while it is spoken and again above the next one."""
    echoes = [pair for pair in pairwise(cues) if _count_repeats(*pair)]
    # `Yes.` said three times gives repeats too, but each cue has one line.
    several_lines = any(len(cue.lines) > 1 for _, cue in echoes)
    return bool(STAMP.search(text)) or (several_lines and len(echoes) >= SHARE * (len(cues) - 1))


def _count_repeats(before: Cue, cue: Cue) -> int:
    """How many first lines of a cue are the last lines of the cue before, still shown."""
    if before.end is None or cue.start is None or cue.start - before.end > NEAR:
        return 0
    most = min(len(before.lines), len(cue.lines))
    return next((n for n in range(most, 0, -1) if before.lines[-n:] == cue.lines[:n]), 0)


def _unroll(cues: list[Cue]) -> list[Cue]:
    """The cues without repeated lines. A cue that had only repeated lines is left out."""
    unrolled = cues[:1]
    for before, cue in pairwise(cues):
        lines = cue.lines[_count_repeats(before, cue) :]
        if lines or not cue.lines:
            unrolled.append(cue._replace(lines=lines))
    return unrolled
