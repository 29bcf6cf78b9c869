"""What a mixture says of the data sets that it is made of.

The rows of a mixture are in its manifest. The records here say which data set each row comes from,
how often clips of it are drawn, and which clip is cut from its videos.
"""

from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ssvid.errors import UserError
from ssvid.shapes import Views

Order = Literal["alternate", "mix"]
SPACINGS = {"fps": None, "stride": None, "whole": False}


class Part(NamedTuple):
    """One data set of a mixture."""

    name: str
    weight: float  # of its clips or batches, relative to those of the other parts
    root: Path
    prefix: str  # what stands before its own paths in the rows of the mixture: `web/`, or nothing
    cleanliness: str  # a word of the user: clean, noisy, generated
    clip: dict[str, Any]  # fields of a ClipSpec that differ from those of the objective

    def change(self, views: Views) -> Views:
        """The views with the part's own clip. A UserError names the part if there is no such one.

        One way to space the frames replaces the others.
        """
        if not self.clip:
            return views
        if not views.clips:
            raise UserError(
                f"The part {self.name} of the mixture has a clip of its own, but the objective "
                "learns from stored features and cuts no clip: leave out its clip."
            )
        change = {**SPACINGS, **self.clip} if SPACINGS.keys() & self.clip.keys() else self.clip
        try:
            return replace(views, clips=tuple(replace(spec, **change) for spec in views.clips))
        except UserError as error:
            raise UserError(f"The part {self.name} of the mixture: {error}") from error


class Mixture(NamedTuple):
    """The parts of a mixture, in order, and how their clips alternate."""

    parts: tuple[Part, ...]
    order: Order

    @property
    def names(self) -> list[str]:
        return [part.name for part in self.parts]

    def change_views(self, views: Views) -> dict[str, Views]:
        """The views of each part by its name.

        Raises a UserError if clips of different shapes would stand in one batch.
        """
        views_of: dict[str, Views] = {}
        part_of_shape: dict[str, str] = {}  # shape -> the first part whose clips have it
        for part in self.parts:
            views_of[part.name] = part.change(views)
            for spec in views_of[part.name].clips:
                shape = f"{spec.frames} frames of {spec.size} pixels"
                part_of_shape.setdefault(shape, part.name)
        if self.order == "mix" and len(part_of_shape) > 1:
            (shape, name), (other_shape, other) = list(part_of_shape.items())[:2]
            raise UserError(
                f"The order mix puts clips of all parts into one batch, but clips of {name} have "
                f"{shape} and those of {other} {other_shape}: give them one clip, or take "
                "--data.order alternate."
            )
        return views_of

    def describe(self) -> str:
        """How the parts take turns, and the share of the draws that each has."""
        total, shares = sum(map(attrgetter("weight"), self.parts)), []
        for part in self.parts:
            shares.append(f"{part.name} {part.weight / total:.0%}")
        what = (
            "each batch is of one part"
            if self.order == "alternate"
            else "the part of each clip is drawn"
        )
        return f"{what} ({', '.join(shares)})"
