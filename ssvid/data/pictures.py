"""folder of pictures -> their names in order of time, and their pixels; a picture -> its pixels.

This is the only file that opens pictures. A folder of pictures is a clip, and each picture is one
of its frames. A picture that a list names by itself is a still: a clip of one frame.
"""

import os
import warnings
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ssvid.data.container import as_decode_error, check_side
from ssvid.data.picture_names import sort_by_number
from ssvid.errors import DecodeError, describe_error

SUFFIXES = frozenset((".jpg", ".jpeg", ".png"))  # of frames
STILL_SUFFIXES = SUFFIXES | {".webp", ".bmp"}
STILL_S = 1.0  # how long a still is shown, in seconds; so it has a second 0 as videos have


def is_picture(name: str) -> bool:
    """Whether a file name has the suffix of a picture and is not hidden, as `._1.jpg` is."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def is_still(path: str | Path) -> bool:
    """Whether the name of a file is that of a picture, which is then a clip of one frame."""
    name = os.path.basename(path)
    return os.path.splitext(name)[1].lower() in STILL_SUFFIXES and not name.startswith(".")


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
    return sort_by_number(path, sorted(filter(is_picture, os.listdir(path))))


def read_pictures(path: str | Path, needed: np.ndarray) -> list[np.ndarray]:
    """RGB uint8 `H W C` of the pictures with these indices. A DecodeError names a damaged one."""
    names, pictures = list_pictures(path), []
    for i in needed:
        try:
            picture = _read_picture(os.path.join(path, names[i]))
            check_side(names[i], picture.shape[1], picture.shape[0])
            pictures.append(picture)
        except DecodeError as error:
            raise DecodeError(path, str(error)) from error
        except Exception as error:  # Pillow raises errors of many kinds for damaged files
            raise DecodeError(path, f"{names[i]}: {describe_error(error)}") from error
    return pictures


def read_still(path: str | Path) -> np.ndarray:
    """RGB uint8 `H W C` of a picture, of an animated one the first. Damage is a DecodeError."""
    with as_decode_error(path):
        picture = _read_picture(str(path))
        check_side(path, picture.shape[1], picture.shape[0])
        return picture


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
            _turn_as_shown(picture)
            if not picture.mode.startswith("I"):
                return np.asarray(picture.convert("RGB"))
            gray = np.asarray(picture)
    if gray.min() < 0 or gray.max() >= 2**16:
        raise ValueError("its pixels have more than 16 bits: save them in 8 or 16 bits")
    return np.repeat((gray >> 8).astype(np.uint8)[:, :, None], 3, axis=2)


def _turn_as_shown(picture: Image.Image) -> None:
    """Turn and mirror the pixels as the orientation of the EXIF block says, which cameras write.

    An EXIF block that is damaged states no orientation: viewers pass over it, and so do we.
    """
    picture.load()  # damage of the pixels is an error, so it must not be met below
    with warnings.catch_warnings(), suppress(Exception):  # Pillow raises errors of many kinds
        warnings.simplefilter("ignore")
        ImageOps.exif_transpose(picture, in_place=True)
