"""names of pictures -> their order in time, by the numbers in them.

A folder of pictures holds one series. Two series that lie in one folder have no common order, so
they are refused by the names of two pictures.
"""

import os
import re
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple

from ssvid.errors import DecodeError

# A date with the time of day is one number: `2024-01-01 23.59.59`, `20240101_235959`.
DATE = r"(?:19|20)[0-9]{2}[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12][0-9]|3[01])"
TIME = r"(?:[01][0-9]|2[0-3])[-_.:h]?[0-5][0-9][-_.:m]?[0-5][0-9](?:[.,]?[0-9]{1,6})?"
DATE_AND_TIME = rf"(?<![0-9]){DATE}[-_. T]{{1,3}}{TIME}(?![0-9])"
NUMBER = re.compile(rf"{DATE_AND_TIME}|[0-9]+(?:[.,][0-9]+)?")
DIGITS = re.compile(r"[0-9]+")
WRAP_OF_CLOCK = 60  # minutes and seconds
FAR = 1.5  # where a number begins again, the step may be as many times its largest usual step

Value = tuple[Decimal, ...]  # of one number; several parts for a date and a time
Error = Callable[[str], DecodeError]


class Picture(NamedTuple):
    """A name, cut at its numbers."""

    values: tuple[Value, ...]
    name: str
    spellings: tuple[str, ...]  # of the numbers
    texts: tuple[str, ...]  # before each number


def sort_by_number(path: str, names: list[str]) -> tuple[str, ...]:
    """The names in order of time. `path`: their folder, which errors name.

    All names are alike but for their numbers. The leftmost number that differs decides. A number
    may begin again where one to its left rises only if both are parts of a time, as seconds and
    their thousandths are. Otherwise a DecodeError names two pictures that may be of two series.
    """
    if len(names) < 2:
        return tuple(names)
    pictures = list(map(_parse_name, names))
    first_of_series: dict[str, str] = {}  # text around the numbers -> the first such name
    for picture in pictures:
        stem = os.path.splitext(picture.name)[0]
        first_of_series.setdefault(NUMBER.sub("#", stem), picture.name)
    if len(first_of_series) > 1:
        first, second = list(first_of_series.values())[:2]
        raise DecodeError(
            path,
            f"pictures of several series lie in one folder, as {first} and {second}: keep each "
            "series in a folder of its own, with names that differ in their numbers alone",
        )
    pictures.sort()
    _check_steps(path, pictures)
    return tuple(picture.name for picture in pictures)


def _parse_name(name: str) -> Picture:
    stem = os.path.splitext(name)[0]
    spellings = tuple(NUMBER.findall(stem))
    return Picture(
        tuple(map(_read_value, spellings)), name, spellings, tuple(NUMBER.split(stem)[:-1])
    )


def _read_value(spelling: str) -> Value:
    """The value of a number. The digits of a date and a time are compared part by part."""
    if re.fullmatch(DATE_AND_TIME, spelling):
        return tuple(map(Decimal, DIGITS.findall(spelling)))
    return (Decimal(spelling.replace(",", ".")),)


def _check_steps(path: str, pictures: list[Picture]) -> None:
    """Raise a DecodeError if two neighbours of the sorted pictures may be of two series."""
    pairs = list(pairwise(pictures))
    steps: dict[int, Decimal] = {}  # index of a number -> its largest step, if none before it rises
    for low, high in pairs:
        if low.values == high.values:
            raise DecodeError(
                path,
                f"{low.name} and {high.name} have the same number: keep one series in the folder",
            )
        i = _find_first_change(low, high)
        if len(low.values[i]) == len(high.values[i]) == 1:
            steps[i] = max(steps.get(i, Decimal(1)), high.values[i][0] - low.values[i][0])
    wraps = _find_wraps(pictures)
    for low, high in pairs:
        first = _find_first_change(low, high)
        for i in range(first + 1, len(low.values)):
            if low.values[i] > high.values[i] and not (
                _is_part_of_time(low, first)
                and any(_begins_again(low, high, i, wrap, steps.get(i)) for wrap in wraps[i])
            ):
                raise DecodeError(
                    path,
                    f"the numbers of {low.name} and {high.name} do not rise together, so they may "
                    "be of two series: keep each series in a folder of its own, or name the "
                    "pictures of a single series by one number that rises, as in 000001.jpg",
                )


def _find_first_change(low: Picture, high: Picture) -> int:
    i = 0
    while low.values[i] == high.values[i]:
        i += 1
    return i


def _find_wraps(pictures: list[Picture]) -> list[list[int]]:
    """For each number of the names, the values at which it may begin again from 0.

    Only a number of fixed width does so: at 100 or 1000 by its width, or as minutes and seconds do.
    """
    wraps: list[list[int]] = []
    for spellings in zip(*(picture.spellings for picture in pictures), strict=True):
        widths = set(map(len, spellings))
        wraps.append([])
        if len(widths) == 1 and all(map(str.isdigit, spellings)) and widths != {1}:
            width = widths.pop()
            wraps[-1].append(10**width)
            if width == 2 and max(map(int, spellings)) < WRAP_OF_CLOCK:
                wraps[-1].append(WRAP_OF_CLOCK)
    return wraps


def _is_part_of_time(picture: Picture, i: int) -> bool:
    """Whether a number with what follows it can be a time, as it cannot in `cam1_000`.

    After a word there must be two numbers more, as in `frame_00_01_750`. The letters h, m and s
    are units where they follow a number.
    """
    text = picture.texts[i].strip("-_. ").lower()
    is_unit = i > 0 and text in ("h", "m", "min", "s", "sec")
    has_word = any(map(str.isalpha, text)) and not is_unit
    is_glued = has_word and picture.texts[i][-1].isalpha() and len(text) > 1
    return not is_glued and (not has_word or len(picture.values) > i + 2)


def _begins_again(low: Picture, high: Picture, i: int, wrap: int, step: Decimal | None) -> bool:
    """Whether a number that falls has run up to its wrap and has begun again.

    A count of all numbers from 0 to 99 or 999 is refused: it may be that of two clips.
    """
    step = Decimal(1) if step is None else step
    if wrap != WRAP_OF_CLOCK and step == 1:
        return False
    return float(wrap - low.values[i][0] + high.values[i][0]) <= FAR * float(step)
