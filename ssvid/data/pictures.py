"""folder of pictures -> their names in order of time, and their pixels.

This is the only file that opens the pictures of a folder. A folder of pictures is a clip, and each
picture is one of its frames.
"""

import os
import re
import warnings
from decimal import Decimal
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ssvid.errors import DecodeError, describe_error

SUFFIXES = frozenset((".jpg", ".jpeg", ".png"))
NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def is_picture(name: str) -> bool:
    """Whether a file name has the suffix of a picture and is not hidden, as `._1.jpg` is."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def list_pictures(path: str | Path) -> tuple[str, ...]:
    """Names of the pictures in a folder, in the order of the numbers in their names.

    Raises a DecodeError if the folder cannot be listed or the names do not give one order. The list
    is cached until the folder changes.
    """
    try:
        return _list_pictures(str(path), os.stat(path).st_mtime_ns)
    except OSError as error:
        raise DecodeError(path, describe_error(error)) from error


@lru_cache(maxsize=16384)
def _list_pictures(path: str, mtime: int) -> tuple[str, ...]:
    return _sort_by_number(path, sorted(filter(is_picture, os.listdir(path))))


def _sort_by_number(path: str, names: list[str]) -> tuple[str, ...]:
    """The names in order of time.

    All names are alike but for their numbers, and the numbers of a name rise together. Otherwise
    the folder holds several series of pictures, which no order joins, and a DecodeError names two
    pictures of it.
    """
    if len(names) < 2:
        return tuple(names)
    pictures: list[tuple[tuple[Decimal, ...], str]] = []
    first_of_series: dict[str, str] = {}  # text around the numbers -> the first such name
    for name in names:
        stem = os.path.splitext(name)[0]
        first_of_series.setdefault(NUMBER.sub("#", stem), name)
        pictures.append((tuple(map(Decimal, NUMBER.findall(stem))), name))
    if len(first_of_series) > 1:
        first, second = list(first_of_series.values())[:2]
        raise DecodeError(
            path,
            f"pictures of several series lie in one folder, as {first} and {second}: keep each "
            "series in a folder of its own, with names that differ in their numbers alone",
        )
    pictures.sort()
    for (numbers, name), (next_numbers, next_name) in zip(pictures, pictures[1:], strict=False):
        if numbers == next_numbers:
            raise DecodeError(
                path, f"{name} and {next_name} have the same number: keep one series in the folder"
            )
        if any(low > high for low, high in zip(numbers, next_numbers, strict=True)):
            raise DecodeError(
                path,
                f"the numbers of {name} and {next_name} do not rise together, so they may be of "
                "two series: keep each series in a folder of its own",
            )
    return tuple(name for _, name in pictures)


def read_pictures(path: str | Path, needed: np.ndarray) -> list[np.ndarray]:
    """RGB uint8 `H W C` of the pictures with these indices. A DecodeError names a damaged one."""
    names, pictures = list_pictures(path), []
    for i in needed:
        try:
            pictures.append(_read_picture(os.path.join(path, names[i])))
        except Exception as error:  # Pillow raises errors of many kinds for damaged files
            raise DecodeError(path, f"{names[i]}: {describe_error(error)}") from error
    return pictures


def _read_picture(file: str) -> np.ndarray:
    """RGB uint8 `H W C`. Of 16 bits the upper 8 are taken, as Pillow does for pictures in colour.

    A picture with more pixels than Pillow's `MAX_IMAGE_PIXELS` (89 million) is refused: a few
    kilobytes may unpack to gigabytes.
    """
    if not os.path.isfile(file):
        raise ValueError("it is not a regular file")  # to open a pipe would wait for ever
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file) as picture:
            if picture.mode == "F":
                raise ValueError("its pixels are floating-point numbers: save them in 8 or 16 bits")
            if not picture.mode.startswith("I"):
                return np.asarray(picture.convert("RGB"))
            gray = np.asarray(picture)
    if gray.min() < 0 or gray.max() >= 2**16:
        raise ValueError("its pixels have more than 16 bits: save them in 8 or 16 bits")
    return np.repeat((gray >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
