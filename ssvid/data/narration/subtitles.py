"""WebVTT and SRT text -> cues of start, end and lines.

This is the only file that knows rolling captions, which show a line again above the next one.
"""

import html
import re
from itertools import pairwise
from typing import NamedTuple

CLOCK = re.compile(r"(?P<sign>-?)(?:(?P<h>\d+):)?(?P<m>\d{1,2}):(?P<s>\d{1,2}(?:[.,]\d+)?)")
ARROW = "-->"
ASIDE = re.compile(r"(NOTE|STYLE|REGION)(\s|$)")  # blocks of WebVTT that are not spoken
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


def parse_clock(text: str) -> float | None:
    """Seconds of `1:02:03.5` or `02:03,500`; None for anything else."""
    match = CLOCK.fullmatch(text.strip())
    if match is None:
        return None
    value = int(match["h"] or 0) * 3600 + int(match["m"]) * 60 + float(match["s"].replace(",", "."))
    return -value if match["sign"] else value


def parse_cues(text: str) -> list[Cue]:
    """The cues in the file's order.

    What automatic captions show twice or three times is in one cue only.
    """
    lines = re.split(r"\r\n|\r|\n", text)
    starts = [i for i, line in enumerate(lines) if ARROW in line]
    cues = []
    for start, following in pairwise([*starts, len(lines)]):
        body = lines[start + 1 : following]
        if following < len(lines):
            body = _without_name(body)
        cues.append(Cue(*_parse_times(lines[start]), _spoken_lines(body)))
    return _unroll(cues) if _are_rolling(cues, text) else cues


def _parse_times(line: str) -> tuple[float | None, float | None]:
    """`START --> END`, after which settings of the position on the screen may follow."""
    start, _, end = line.partition(ARROW)
    words = end.split()
    return parse_clock(start), parse_clock(words[0]) if words else None


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
