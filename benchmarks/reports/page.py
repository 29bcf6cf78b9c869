"""plain data -> one HTML file. Templates say how a page looks; Python prepares what it says.

Jinja2 escapes every text that a template shows. The style, the script and all pictures stand
inside the file, so a page loads nothing from elsewhere.
"""

import base64
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from benchmarks.reports.figure_style import SHARP_DPI, encode_png

TEMPLATES = Path(__file__).with_name("templates")
ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Picture(NamedTuple):
    url: str  # data:image/..., the picture itself
    alt: str
    width: int | None = None  # pixels of the page; None: as many as the picture has
    pixelated: bool = False  # an enlarged one stays sharp


class Table(NamedTuple):
    head: Sequence[str]  # empty: the table has no head
    rows: Sequence[Sequence[str]]
    main: bool = False  # the first row is bold


class Clip(NamedTuple):
    """A clip of a film strip, and what was said of it."""

    picture: Picture
    label: str
    answer: str = ""  # class that was answered; empty: none
    right: bool = True
    note: str = ""


class Film(NamedTuple):
    """A test clip and the train clips whose features are nearest."""

    clip: Clip
    neighbours: list[Clip]


def render_page(template: str, **content: Any) -> str:
    """`content`: what the template names. A name that is missing is an error."""
    return ENVIRONMENT.get_template(template).render(**content)


def make_picture(
    data: bytes,
    alt: str,
    kind: str = "png",
    width: int | None = None,
    pixelated: bool = False,
) -> Picture:
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Picture(url, alt, width, pixelated)


def draw_sharp(figure: Figure, alt: str) -> Picture:
    """Shown at half of its pixels, so that a zoom or a fine screen shows more."""
    png = encode_png(figure, SHARP_DPI)
    (width,) = struct.unpack(">I", png[16:20])  # of a PNG's header
    return make_picture(png, alt, width=width // 2)


def make_clip(clip: dict[str, Any]) -> Clip:
    """`clip`: as benchmarks/tasks/film_strips.py describes one."""
    picture = Picture(f"data:image/jpeg;base64,{clip['jpeg']}", clip["path"])
    answer = clip.get("predicted")
    if answer is None:
        return Clip(picture, clip["label"])
    return Clip(picture, clip["label"], answer, answer == clip["label"])


def make_film(query: dict[str, Any]) -> Film:
    neighbours = []
    for number, near in enumerate(query["near"], start=1):
        same = near["label"] == query["label"]
        note = f"neighbour {number}, cosine {near['cosine']:.2f}"
        neighbours.append(make_clip(near)._replace(right=same, note=note))
    return Film(make_clip(query), neighbours)
