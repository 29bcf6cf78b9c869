"""The look of every figure: its colours, the style sheet house.mplstyle, and how it becomes a PNG.

matplotlib reads a style when it makes a part of a figure, which may be as late as when the figure
is drawn. So both the function that builds a figure and `encode_png` work inside the style.
"""

import io
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure

INK, BLUE, GREY, PALE = "#1f2328", "#2f6fb2", "#9aa4ae", "#d5dbe1"
RED = "#b4543a"
COLOURS = (  # of encoders; the style sheet has the same cycle
    BLUE,
    "#c8641e",
    "#2a8c6a",
    "#8a5aa8",
    "#b0892a",
    "#c2477f",
    "#3d94ab",
    "#6e7781",
)
SHEET = Path(__file__).with_name("house.mplstyle")
DPI = 110
SHARP_DPI = 200  # two pixels of a picture for about one of the page: a zoom shows more

in_house_style = style.context(SHEET)  # a decorator of functions that build figures


@in_house_style
def encode_png(figure: Figure, dpi: int = DPI, tight: bool = True) -> bytes:
    """Figure -> PNG. `tight`: the white border is cut off; else the figure keeps its size."""
    with io.BytesIO() as file:
        box = "tight" if tight else None
        figure.savefig(file, format="png", dpi=dpi, bbox_inches=box, metadata={"Software": None})
        return file.getvalue()
