"""Lines of a list -> clips: the path of each, and its label if it has one.

Two numbers after a path have several meanings. Where they are not clear, the list is refused by the
name of its form, so that no number is taken for a class that is none.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ssvid.data import files
from ssvid.data.labels import NUMBER, NUMBERS, split_numbers
from ssvid.errors import UserError


class Entry(NamedTuple):
    """One clip of a list."""

    names: tuple[str, ...]  # names that its file may have
    label: str | None
    video: str = ""  # the film it is cut from


class Line(NamedTuple):
    """One line of a list, cut in two."""

    number: int  # in the file, from 1
    path: str
    label: str  # what follows the path: it may be several numbers, or be in quotes


COMMENT = re.compile(r"#+(\s.*)?")
TEXT_IN_QUOTES = '"((?:[^"]|"")*)"'  # a quote inside is written twice
TAIL = r"(?P<tail>(?:[\t,; ].*)?)"
# Layouts of a line, tried in turn.
LAYOUTS = (
    # "my class/one two.mp4" 0, as pandas writes a path with a space
    re.compile(rf"(?P<path>{TEXT_IN_QUOTES}){TAIL}"),
    # my class/one, two.mp4 0: the suffix of a video ends the path
    re.compile(
        rf"(?P<path>.*(?:{'|'.join(map(re.escape, sorted(files.VIDEO_SUFFIXES)))})){TAIL}", re.I
    ),
    # my class/12 64 0: numbers after a folder of frames
    re.compile(rf"(?P<path>.+?)(?P<tail>[\t,; ]+{NUMBERS})"),
)
MARKS = "\t,; "  # separators, in this order: the first one that all lines of no layout have
FORMS = (
    "`path`, `path label`, `path 0 -1` (VideoMAEv2) and, of folders of frames, `path frames label` "
    "(mmaction2) are read"
)


def clean_lines(text: str) -> list[tuple[int, str]]:
    """The lines of a list with their numbers, without blank lines and comments (`# ...`)."""
    lines = enumerate(map(str.strip, re.split("\r\n|\r|\n", text)), start=1)
    return [(i, line) for i, line in lines if line and not COMMENT.fullmatch(line)]


def read_lines(file: Path, lines: list[tuple[int, str]]) -> Iterator[Entry]:
    """The clips of lines of path and label. A UserError names a form that is not read."""
    parsed = _split_lines(file, lines)
    if parsed and all(map(_has_number_and_words, parsed)):
        raise UserError(
            f"{file}: a number and words follow each path, as {parsed[0].label} in line "
            f"{parsed[0].number}. Quote labels that begin with a number. {FORMS}."
        )
    _check_numbers(file, [line for line in parsed if not files.is_video(line.path)])
    for line in parsed:
        yield Entry((line.path,), _read_label(file, line))


def _split_lines(file: Path, lines: list[tuple[int, str]]) -> list[Line]:
    parsed, others = [], []
    for number, text in lines:
        matches = [layout.fullmatch(text) for layout in LAYOUTS]
        match = next(filter(None, matches), None)
        if match is None:
            others.append((number, text))
        else:
            parsed.append(_make_line(file, number, match["path"], match["tail"]))
    marks = set(MARKS).intersection(*(set(text) for _, text in others))
    mark = min(marks, key=MARKS.index, default=None)
    for number, text in others:
        path, tail = text, ""
        if mark == " ":  # a path may hold spaces, so that the label is the last word, or in quotes
            match = re.fullmatch(rf"(?P<path>.+?)(?P<tail> (?:{TEXT_IN_QUOTES}|[^ ]*))", text)
            path, tail = match.group("path", "tail") if match else (text, "")
        elif mark is not None:
            path, tail = text.split(mark, 1)
            tail = mark + tail
        parsed.append(_make_line(file, number, path, tail))
    return sorted(parsed)


def _make_line(file: Path, number: int, path: str, tail: str) -> Line:
    """`tail`: what follows the path, with the separator before it."""
    label = tail.strip(MARKS)
    has_more_fields = tail[:1] in ("\t", ",", ";") and tail[0] in label
    if has_more_fields and not split_numbers(label) and _unquote(label) == label:
        raise UserError(
            f"{file}, line {number} has more than two fields: quote a label that holds the "
            "separator, or name the columns in the first line, as in path,label,split."
        )
    return Line(number, _unquote(path.strip()), label)


def _unquote(text: str) -> str:
    match = re.fullmatch(TEXT_IN_QUOTES, text)
    return match[1].replace('""', '"') if match else text


def _has_number_and_words(line: Line) -> bool:
    """`64 run`: a class, or mmaction2's number of frames and a class in words."""
    return not split_numbers(line.label) and bool(re.match(rf"{NUMBER}[\t ,;]", line.label))


def _check_numbers(file: Path, lines: list[Line]) -> None:
    """Refuse numbers after folders of frames whose meaning is not clear.

    Of two numbers the first is the number of frames, as in mmaction2's lists. VideoMAEv2's lists
    hold the first frame there, which is 0 or always 1, and the number of frames after it.
    """
    counts: dict[int, Line] = {}
    starts = set()
    for line in lines:
        numbers = split_numbers(line.label)
        counts.setdefault(len(numbers), line)
        if len(numbers) == 2 and numbers[1] != "-1":
            starts.add(numbers[0])
    if 1 in counts and 2 in counts:
        raise UserError(
            f"{file}: one number follows the path in line {counts[1].number}, and two in line "
            f"{counts[2].number}: write all lines alike. {FORMS}."
        )
    if "0" in starts or starts == {"1"}:
        raise UserError(
            f"{file}, line {counts[2].number}: this looks like `path start frames` (VideoMAEv2's "
            f"folders of frames), which names no label. Write the paths alone. {FORMS}."
        )


def _read_label(file: Path, line: Line) -> str | None:
    numbers = split_numbers(line.label)
    if len(numbers) < 2:
        return _unquote(line.label) or None
    is_video = files.is_video(line.path)
    if len(numbers) == 2 and not is_video:
        return numbers[1]  # frames, label
    if numbers == ["0", "-1"]:
        return None  # the film from its first frame to its last
    what = "a video" if is_video else "the number of frames"
    raise UserError(
        f"{file}, line {line.number}: {line.label} after {what} is several labels, or another form "
        f"of list. {FORMS}."
    )
