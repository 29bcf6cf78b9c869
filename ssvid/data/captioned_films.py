"""script -> a film of one shape, and sentences about it.

This is the only file that knows what a motion does. Where the shape is, how large it is and how it
is turned are drawn uniformly, and each motion goes on from there; at the end of the range of place
or size it begins anew at the other end. So at every single frame they are uniform whatever the
motion is, and a single frame tells nothing of it. No part of a shape leaves the picture.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ssvid.data import synthetic as drawing
from ssvid.data.narration.synthetic_narrator import COLOURS, SHAPES, between
from ssvid.randomness import uniform

RADIUS = 0.09, 0.18  # of a shape: from, to; fraction of the picture
# How far the centre stays from the edges, as a fraction of the picture: the corner of the largest
# square is 0.219 from its centre.
MARGIN = 0.22
TRAVEL = 0.5, 0.7  # of the range of place or of size, in one act: from, to
ORBIT = 0.2  # radius, as a fraction of the range of place
ROUNDS = 1.5  # of an orbit, for a travel of 1
SPINS = 2.0  # symmetries of the shape, for a travel of 1
# The uniforms of a film; the first five are x, y, size, angle and travel.
THING, PHASES, GROUND, WORDS = 5, slice(6, 8), slice(8, 23), slice(23, 43)
DRAWS = 43
QUARTERS = "top left", "top right", "bottom left", "bottom right"


class Motion(NamedTuple):
    """The way of each change: -1, 0 or 1."""

    x: int = 0  # to the right
    y: int = 0  # down
    spin: int = 0  # clockwise about its centre
    size: int = 0
    orbit: int = 0  # clockwise about a point beside it


MOTIONS = {
    "moves left": Motion(x=-1),
    "moves right": Motion(x=1),
    "moves up": Motion(y=-1),
    "moves down": Motion(y=1),
    "circles clockwise": Motion(orbit=1),
    "circles anticlockwise": Motion(orbit=-1),
    "spins clockwise": Motion(spin=1),
    "spins anticlockwise": Motion(spin=-1),
    "grows": Motion(size=1),
    "shrinks": Motion(size=-1),
}
# Sentences of what moves, of what its first frame shows, and of a still.
FULL = (
    "a {colour} {shape} at the {place} {acts}",
    "the {colour} {shape} at the {place} {acts}",
    "at the {place} a {colour} {shape} {acts}",
    "a video of a {colour} {shape} at the {place} that {acts}",
    "a {shape} at the {place} {acts}, and it is {colour}",
)
FIRST_FRAME = (
    "a {colour} {shape} that begins at the {place}",
    "a {colour} {shape}, at the {place} at first",
    "at first a {colour} {shape} is at the {place}",
)
STILL = (
    "a {colour} {shape} at the {place}",
    "the {colour} {shape} at the {place}",
    "at the {place} there is a {colour} {shape}",
    "a picture of a {colour} {shape} at the {place}",
    "a {shape} at the {place}, and it is {colour}",
)
# Where it does two things, the first is {0}.
ORDERS = "first {0}, then {1}", "{0} and then {1}", "{0} before it {1}", "{1} after it {0}"


class Script(NamedTuple):
    """What a film shows, and the uniforms from which all else is drawn."""

    colour: str
    shape: str
    motions: tuple[str, ...]  # in the order in which they are shown; none: a still
    u: np.ndarray  # DRAWS: x, y, size, angle, travel, thing, a phase of each act, ground, words

    @property
    def thing(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def quarter(self) -> str:
        """The part of the picture in which the centre is at the first frame."""
        x, y = self.u[:2]
        return QUARTERS[2 * int(y >= 0.5) + int(x >= 0.5)]


def draw_numbers(first: int, films: int, seed: int) -> np.ndarray:
    """The uniforms of films from the index `first` on, `films DRAWS`."""
    return uniform(seed, "captioned", 0, torch.arange(first, first + films), DRAWS).numpy()


def write_script(
    u: np.ndarray, things: Sequence[tuple[str, str]], motions: tuple[str, ...]
) -> Script:
    """The script of a film of one of these things (colour and shape). `u`: DRAWS."""
    return Script(*things[int(u[THING] * len(things))], motions, u)


def name_order(motions: Sequence[str]) -> str:
    """`moves left then grows`: the label of one motion or of two."""
    return " then ".join(motions)


def list_forms(acts: int, appearance_only: bool) -> tuple[tuple[str, str], ...]:
    """Each form of a sentence: its words, and those of the order of what happens."""
    if acts and not appearance_only:
        return tuple(itertools.product(FULL, ORDERS if acts > 1 else ("{0}",)))
    return tuple(itertools.product(FIRST_FRAME if acts else STILL, ("",)))


def write_sentences(script: Script, forms: Sequence[tuple[str, str]], n: int) -> list[str]:
    """n sentences about a film, each in another of the forms. There are at least n of these."""
    parts = {"colour": script.colour, "shape": script.shape, "place": script.quarter}
    sentences = []
    for i in script.u[WORDS][: len(forms)].argsort(kind="stable")[:n].tolist():
        words, acts = forms[i]
        sentences.append(words.format(**parts, acts=acts.format(*script.motions)))
    return sentences


def trace_film(script: Script, frames: int) -> np.ndarray:
    """x, y, turn and size at each frame, `4 T`: x, y and size as fractions of their ranges.

    The turn is in symmetries of the shape.
    """
    u = script.u
    now, acts = np.array([u[0], u[1], 0.0, u[2]])[:, None], len(script.motions)
    if not acts:
        return now.repeat(frames, 1)
    bounds = [round(frames * act / acts) for act in range(acts + 1)]
    paths = []
    for act, name in enumerate(script.motions):
        length = bounds[act + 1] - bounds[act]
        travel = between(TRAVEL, u[4]) * np.arange(length + 1) / length
        path = now + _move(MOTIONS[name], travel, u[PHASES][act])
        paths.append(path[:, :-1])
        now = path[:, -1:]  # where the next act begins
    x, y, turn, size = np.concatenate(paths, 1)
    return np.stack([x % 1, y % 1, turn, size % 1])


def _move(motion: Motion, travel: np.ndarray, phase: float) -> np.ndarray:
    """The changes of x, y, turn and size since the start of an act, `4 T`.

    `phase`: where on its circle an orbit begins, in turns.
    """
    first = 2 * math.pi * phase
    angle = first + 2 * math.pi * ROUNDS * motion.orbit * travel
    return np.stack(
        [
            motion.x * travel + ORBIT * (np.cos(angle) - math.cos(first)),
            motion.y * travel + ORBIT * (np.sin(angle) - math.sin(first)),
            SPINS * motion.spin * travel,
            motion.size * travel,
        ]
    )


def draw_film(script: Script, frames: int, size: int) -> np.ndarray:
    """uint8 `T H W 3`."""
    x, y, turn, large = trace_film(script, frames)
    symmetry, outline = drawing.SHAPES[SHAPES.index(script.shape)]
    radius = (RADIUS[0] + (RADIUS[1] - RADIUS[0]) * large).astype(np.float32)[:, None, None]
    return drawing.paint(
        drawing.draw_background(size, script.u[GROUND]),
        outline,
        drawing.hue_to_rgb(COLOURS[script.colour], 0.8, 1.0),
        MARGIN + (1 - 2 * MARGIN) * x,
        MARGIN + (1 - 2 * MARGIN) * y,
        2 * math.pi * (script.u[3] + turn / symmetry),
        radius,
    )
