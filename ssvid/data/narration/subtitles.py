"""WebVTT and SRT text -> cues of start, end and lines. The only file that knows how captions roll over a screen."""

import html
import re
from itertools import pairwise
from typing import NamedTuple

CLOCK = re.compile(r"(?P<sign>-?)(?:(?P<h>\d+):)?(?P<m>\d{1,2}):(?P<s>\d{1,2}(?:[.,]\d+)?)")
ARROW = "-->"
ASIDE = re.compile(r"(NOTE|STYLE|REGION)(\s|$)")  # blocks of WebVTT that nobody says
TAG = re.compile(
    r"</?[A-Za-z][^<>]*>|<[\d:.]+>|</?>|\{\\[^{}]*\}"
)  # <i>, <c.red>, <00:00:01.000>, {\an8}
STAMP = re.compile(r"<\d+:[\d:.]+>")  # the time of a word, as automatic captions have it
NEAR = 0.05  # seconds: a line that stays on the screen is in the next cue too, at once
SHARE = 0.5  # of the cues begin with the line before them, in a file whose captions roll


class Cue(NamedTuple):
    start: float | None  # seconds; None: the line of its times cannot be read
    end: float | None
    lines: tuple[str, ...]  # without tags, none of them empty


def seconds(text: str) -> float | None:
    """`1:02:03.5`, `02:03,500`."""
    match = CLOCK.fullmatch(text.strip())
    if match is None:
        return None
    value = int(match["h"] or 0) * 3600 + int(match["m"]) * 60 + float(match["s"].replace(",", "."))
    return -value if match["sign"] else value


def cues(text: str) -> list[Cue]:
    """In the file's order; what automatic captions show twice or three times is in one cue only."""
    lines = re.split(r"\r\n|\r|\n", text)
    at = [i for i, line in enumerate(lines) if ARROW in line]
    found = []
    for i, following in pairwise([*at, len(lines)]):
        body = lines[i + 1 : following]
        found.append(
            Cue(*_times(lines[i]), _shown(body if following == len(lines) else _without_name(body)))
        )
    return _unrolled(found) if _rolls(found, text) else found


def _times(line: str) -> tuple[float | None, float | None]:
    """`START --> END`, and settings of its place on the screen behind."""
    start, _, rest = line.partition(ARROW)
    return seconds(start), seconds(rest.split()[0]) if rest.split() else None


def _without_name(body: list[str]) -> list[str]:
    """The last line before the next cue's times is that cue's number or name, where it stands apart or is a number."""
    if len(body) > 1 and body[-1].strip() and (not body[-2].strip() or body[-1].strip().isdigit()):
        return body[:-1]
    return body


def _shown(body: list[str]) -> tuple[str, ...]:
    kept: list[str] = []
    aside = False
    for before, line in zip(["", *body], body, strict=False):
        aside = bool(line.strip()) and (
            aside or (not before.strip() and kept != [] and bool(ASIDE.match(line)))
        )
        clean = " ".join(html.unescape(TAG.sub("", line)).replace("\u200b", "").split())
        if clean and not aside:
            kept.append(clean)
    return tuple(kept)


def _rolls(found: list[Cue], text: str) -> bool:
    """Captions that roll: each line is shown while it is spoken, and again above the next one."""
    echoes = [pair for pair in pairwise(found) if _echoed(*pair)]
    higher = any(len(cue.lines) > 1 for _, cue in echoes)  # `Yes.` said three times is no rolling
    return bool(STAMP.search(text)) or (higher and len(echoes) >= SHARE * (len(found) - 1))


def _echoed(before: Cue, cue: Cue) -> int:
    """How many of the first lines of a cue are the last ones of the cue before, still shown."""
    if before.end is None or cue.start is None or cue.start - before.end > NEAR:
        return 0
    most = min(len(before.lines), len(cue.lines))
    return next((k for k in range(most, 0, -1) if before.lines[-k:] == cue.lines[:k]), 0)


def _unrolled(found: list[Cue]) -> list[Cue]:
    fresh = [cue.lines[_echoed(before, cue) :] for before, cue in pairwise(found)]
    said = [cue._replace(lines=lines) for cue, lines in zip(found[1:], fresh, strict=True)]
    return [
        *found[:1],
        *(cue for cue, whole in zip(said, found[1:], strict=True) if cue.lines or not whole.lines),
    ]
