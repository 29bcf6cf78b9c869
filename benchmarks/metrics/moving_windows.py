"""A long narrated video -> overlapping windows with the sentences asked in each; and their answers, added up.

An aligner sees a window at a time. Two rules say which sentences it is asked there: that of
HTM-Align's evaluation, which knows which sentences cannot be aligned, and one for new videos,
of which nothing is known.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ssvid.data.datasets.htm_align import Spoken
from ssvid.data.narration.sentences import Sentence

HTM_WINDOW = 64  # seconds
BEFORE, AFTER = (
    64,
    128,
)  # seconds around a window's start: sentences there that are not alignable bound those asked
EDGE = 4  # windows at either end, which are asked all sentences up to that end


class Span(NamedTuple):
    start: int  # second
    seconds: int
    rows: Sequence[int]  # of the sentences that are asked


def window_starts(length: int, seconds: int) -> range:
    """A quarter of a window apart; less than half a window is too little for another one. A short video has one."""
    return range(0, max(1, length - seconds // 2), max(1, seconds // 4))


def htm_align_windows(sentences: Sequence[Spoken], length: int) -> Iterator[Span]:
    """From the first to the last sentence that is not alignable and spoken near: their times are known from the
    narration alone, so that no true time is given away. Without one a window is left out, at an end as well.
    """
    starts = window_starts(length, HTM_WINDOW)
    for number, start in enumerate(starts):
        near = [
            row
            for row, (true, begin, end, _) in enumerate(sentences)
            if not true and start - BEFORE <= (begin + end) / 2 <= start + AFTER
        ]
        if near:
            at_start, at_end = number < EDGE, number >= EDGE and number >= len(starts) - EDGE
            first, last = 0 if at_start else near[0], len(sentences) - 1 if at_end else near[-1]
            yield Span(start, min(HTM_WINDOW, length - start), range(first, last + 1))


def windows_near_speech(sentences: Sequence[Sentence], length: int, seconds: int) -> Iterator[Span]:
    """Of each window the sentences that begin or end at most a window away from it."""
    for start in window_starts(length, seconds):
        low, high = start - seconds, start + 2 * seconds
        rows = [k for k, (begin, end, _) in enumerate(sentences) if begin <= high and end >= low]
        if rows:
            yield Span(start, min(seconds, length - start), rows)


class WindowSums:
    """What the windows of one video answered, added up; the caller takes its average."""

    def __init__(self, sentences: int, length: int, like: Tensor) -> None:
        self.similarity = like.new_zeros(2, sentences, length)  # joint and dual branch
        self.alignability = like.new_zeros(sentences)
        self.times = torch.zeros(sentences, length)  # that a sentence was asked at a second
        self.asked = torch.zeros(sentences)  # windows in which a sentence was asked

    def add(
        self,
        window: Span,
        joint: Float[Tensor, "k t"],
        dual: Float[Tensor, "k t"],
        alignability: Float[Tensor, " k"] | None,
    ) -> None:
        rows, cut = list(window.rows), slice(window.start, window.start + window.seconds)
        self.similarity[0, rows, cut] += joint
        self.similarity[1, rows, cut] += dual
        self.times[rows, cut] += 1
        self.asked[rows] += 1
        if alignability is not None:
            self.alignability[rows] += alignability
