"""a video file -> its windows, which are parts of equal length, and the clip of each.

A window is what a search gives back. Its clip is what the encoder sees of it.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.labelling.reading import draw_strip, spread_over
from ssvid.data.decode import read, read_span, read_timestamps
from ssvid.data.manifest import Manifest
from ssvid.data.seconds import USUAL_S, OneClip, clips_from
from ssvid.shapes import ClipSpec, Row

ROUNDING = 1e-6  # of a step


class Pace(NamedTuple):
    """Window i of a video lasts from `i * step_s` to `i * step_s + window_s` of the video."""

    window_s: float
    step_s: float

    def count(self, length_s: float) -> int:
        """The windows of a video: so many that they reach its end, each begun within it."""
        covering = 1 + max(0, math.ceil((length_s - self.window_s) / self.step_s - ROUNDING))
        begun = math.ceil(length_s / self.step_s - ROUNDING)
        return max(1, min(covering, begun))

    @property
    def overlapping(self) -> int:
        """How many windows before one, and as many behind it, share a part of the video with it."""
        return max(0, math.ceil(self.window_s / self.step_s - ROUNDING) - 1)


class Film(NamedTuple):
    """A video file that can be read."""

    path: Path
    start_s: float  # of the frames' clock
    length_s: float
    windows: int


def open_film(path: Path, pace: Pace) -> Film:
    """Raises a DecodeError for a damaged file.

    A window in which a single frame is shown, for a usual time, does not count.
    """
    span = read_span(path)
    length = span.end - span.start
    return Film(path, span.start, length, pace.count(length - min(span.frame, USUAL_S)))


def read_windows(film: Film, spec: ClipSpec, pace: Pace, rows: np.ndarray) -> Iterator[OneClip]:
    """The clips of these windows of a video, whose numbers rise.

    A clip over the whole video is spread over the window: its frames come from the middles of equal
    parts. Another clip keeps its own spacing and lies in the middle of the window, beyond which it
    may reach. Past both ends of the video its first or last frame is repeated. Raises a DecodeError
    for a damaged file.
    """
    if spec.whole:
        spec, shift = spread_over(spec, pace.window_s)
    else:
        shift = (pace.window_s - measure_clip(film.path, spec)) / 2
    begins = film.start_s + rows * pace.step_s + shift
    video = Manifest.build([Row(film.path.name)], film.path.parent)
    yield from clips_from(video, 0, spec, begins)


def measure_clip(path: Path, spec: ClipSpec) -> float:
    """How long a clip of its own spacing is, in seconds."""
    if spec.fps is not None:
        return spec.frames / spec.fps
    stamps = read_timestamps(path)
    gap = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
    return spec.frames * (spec.stride or 1) * gap


def draw_moment(path: Path, seconds: float) -> bytes:
    """JPEG of the frame at so many seconds of a video. A DecodeError for a damaged file."""
    return draw_strip(read(path, [read_span(path).start + seconds]))
