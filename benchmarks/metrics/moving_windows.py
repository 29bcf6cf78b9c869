"""A long narrated video -> overlapping windows with sentences, and sums of what they answered.

An aligner sees one window at a time. Two rules choose the sentences of a window: the rule of
HTM-Align's evaluation, which knows which sentences cannot be aligned, and a rule for new videos, of
which nothing is known.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ssvid.data.datasets.htm_align import Spoken
from ssvid.data.narration.sentences import Sentence

HTM_WINDOW = 64  # seconds
# Seconds around a window's start. Sentences in this span that are not alignable bound the sentences
# of the window.
BEFORE, AFTER = 64, 128
EDGE = 4  # windows at either end, which get all sentences up to that end


class Span(NamedTuple):
    """A window with its sentences."""

    start: int  # second
    seconds: int
    rows: Sequence[int]  # numbers of the sentences


def list_window_starts(length: int, seconds: int) -> range:
    """Starts a quarter of a window apart. A short video has one window.

    No window starts where less than half of it would be left.
    """
    return range(0, max(1, length - seconds // 2), max(1, seconds // 4))


def list_htm_align_windows(sentences: Sequence[Spoken], length: int) -> Iterator[Span]:
    """The windows of HTM-Align's evaluation. `length`: of the video in seconds.

    A window gets the sentences from the first to the last sentence that is not alignable and is
    spoken near. The times of those come from the narration alone, so no true time is given away.
    A window without such a sentence is left out, also at an end of the video.
    """
    starts = list_window_starts(length, HTM_WINDOW)
    for number, start in enumerate(starts):
        near = []
        for row, sentence in enumerate(sentences):
            middle = (sentence.start + sentence.end) / 2
            if not sentence.alignable and start - BEFORE <= middle <= start + AFTER:
                near.append(row)
        if near:
            at_start, at_end = number < EDGE, number >= EDGE and number >= len(starts) - EDGE
            first, last = 0 if at_start else near[0], len(sentences) - 1 if at_end else near[-1]
            yield Span(start, min(HTM_WINDOW, length - start), range(first, last + 1))


def list_windows_near_speech(
    sentences: Sequence[Sentence], length: int, seconds: int
) -> Iterator[Span]:
    """Windows of `seconds` with the sentences that lie at most a window away from them."""
    for start in list_window_starts(length, seconds):
        low, high = start - seconds, start + 2 * seconds
        rows = [k for k, (begin, end, _) in enumerate(sentences) if begin <= high and end >= low]
        if rows:
            yield Span(start, min(seconds, length - start), rows)


class WindowSums:
    """The answers of all windows of one video, added up. The caller divides by the counts."""

    def __init__(self, sentences: int, length: int, template: Tensor) -> None:
        """`template`: a tensor of the type and device of the answers."""
        self.similarity = template.new_zeros(2, sentences, length)  # joint and dual branch
        self.alignability = template.new_zeros(sentences)
        # Windows that held a sentence and a second; windows that held a sentence.
        self.pair_counts = torch.zeros(sentences, length)
        self.sentence_counts = torch.zeros(sentences)

    def add(
        self,
        window: Span,
        joint: Float[Tensor, "k t"],
        dual: Float[Tensor, "k t"],
        alignability: Float[Tensor, " k"] | None,
    ) -> None:
        """Add the similarities of a window, and its alignability if there is a head."""
        rows, cut = list(window.rows), slice(window.start, window.start + window.seconds)
        self.similarity[0, rows, cut] += joint
        self.similarity[1, rows, cut] += dual
        self.pair_counts[rows, cut] += 1
        self.sentence_counts[rows] += 1
        if alignability is not None:
            self.alignability[rows] += alignability
