"""decoded frame -> the picture that a player shows, in its shape, turned and mirrored.

Pixels may be wider than high, as on DVDs, and cameras write how they were held.
"""

from typing import Any

import numpy as np

MATRIX = "DISPLAYMATRIX"
# The two rows of a display matrix that say where the sides of the picture go.
SIDES = np.array([[0, 1], [3, 4]])


def show_frame(frame: Any, aspect: float = 1.0) -> np.ndarray:
    """RGB uint8 `H W C`. `aspect`: how much wider than high a pixel is."""
    # With PyAV's default number of threads this costs four times the CPU time.
    options: dict[str, Any] = {"format": "rgb24", "threads": 1}
    width = round(frame.width * aspect)
    if width != frame.width:
        options |= {"width": width, "height": frame.height, "interpolation": "BICUBIC"}
    picture = frame.to_ndarray(**options)
    matrix = frame.side_data.get(MATRIX)
    if matrix is None:
        return picture
    return turn_picture(picture, np.frombuffer(bytes(matrix), np.int32)[SIDES])


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
