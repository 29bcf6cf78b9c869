"""decoded frame -> the picture that a player shows, in its shape, turned and mirrored.

Pixels may be wider than high, as on DVDs, and cameras write how they were held.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssvid.data.container import as_decode_error, check_side

MATRIX = "DISPLAYMATRIX"
# The two rows of a display matrix that say where the sides of the picture go.
SIDES = np.array([[0, 1], [3, 4]])


class Picture(NamedTuple):
    """A decoded frame, and how a player shows it. Only what is needed is converted to RGB."""

    frame: Any
    path: str | Path  # of its file
    aspect: float = 1.0  # how much wider than high a pixel is
    sides: np.ndarray | None = None  # as `turn_picture` takes them; None: it is upright

    def show(self) -> np.ndarray:
        """RGB uint8 `H W C`. Raises a DecodeError if that fails, or if a side is too small."""
        with as_decode_error(self.path):
            return self._convert()

    def _convert(self) -> np.ndarray:
        # With PyAV's default number of threads this costs four times the CPU time.
        options: dict[str, Any] = {"format": "rgb24", "threads": 1}
        width = round(self.frame.width * self.aspect)
        check_side(self.path, width, self.frame.height)
        if width != self.frame.width:
            size = {"width": width, "height": self.frame.height}
            options |= {**size, "interpolation": "BICUBIC"}
        picture = self.frame.to_ndarray(**options)
        return picture if self.sides is None else turn_picture(picture, self.sides)


def find_sides(frame: Any) -> np.ndarray | None:
    """Where the file says that the sides of its pictures go; None: nothing about it.

    It takes a while to ask, and all frames of a file have the same answer.
    """
    try:
        matrix = frame.side_data.get(MATRIX)
    except ValueError:  # there are other notes, such as EXIF, of a kind that PyAV cannot name
        angle = -np.deg2rad(frame.rotation)
        right = [np.cos(angle), np.sin(angle)]
        return np.array([right, [-right[1], right[0]]]) if angle else None
    return None if matrix is None else np.frombuffer(bytes(matrix), np.int32)[SIDES]


def turn_picture(picture: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """The picture, turned by a multiple of 90 degrees and mirrored.

    `sides`: row 0 is the direction (right, down) in which the picture's right goes, row 1 the one
    in which its lower side goes. An angle between is rounded to the nearest.
    """
    (right_x, right_y), (down_x, down_y) = sides.tolist()
    if abs(right_x) < abs(right_y):
        picture = picture.swapaxes(0, 1)
        (right_x, right_y), (down_x, down_y) = (down_x, down_y), (right_x, right_y)
    if right_x < 0:
        picture = picture[:, ::-1]
    return picture[::-1] if down_y < 0 else picture
