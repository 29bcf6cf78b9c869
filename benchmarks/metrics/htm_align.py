"""annotated videos, a model of windows -> Recall@1 and ROC-AUC of HTM-Align, as its authors' code has them.

Han, Xie, Zisserman 2022 (arXiv:2204.02968). A sentence is alignable or not; an alignable one is found where the second
of its highest similarity lies in its true times. Both numbers are over the sentences of all videos together.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssvid.data.datasets.htm_align import Spoken
from ssvid.errors import UserError
from ssvid.nn.timeline import Aligned

WINDOW, STEP, REST = 64, 16, 32  # seconds: of a window, from one to the next, and too few for another one
BEFORE, AFTER = 64, 128  # seconds around a window's start: sentences there that are not alignable bound those asked
EDGE = 4  # windows at either end, which are asked all sentences up to that end
STAGE = 2  # of the joint encoder, from 0: whose alignability is read (of one pass over the whole video the last)
NOWHERE = -6e4  # similarity where nothing was computed, or exactly 0
Method = Literal["overlap-seq", "global"]


Model = Callable[[str, int, int, list[int]], Aligned]  # video, first second, seconds, rows of its sentences


class Stitched(NamedTuple):
    """Of a whole video."""

    similarity: Float[Tensor, "K T"]  # 0 where no window asked
    alignability: Float[Tensor, " K"]
    calls: list[tuple[int, int, int, int]]  # windows: first second, seconds, first and last sentence


def evaluate(
    annotation: Mapping[str, Sequence[Spoken]],
    lengths: Mapping[str, int],  # of each video its seconds, which are as many features
    model: Model,
    *,
    method: Method = "overlap-seq",
    head: bool,  # alignability by the head; else by the highest similarity
) -> dict[str, Any]:
    """`recall`, `auc` (shares; None where there is nothing to find, or nothing to tell apart) and of each video the
    `similarity`, the `alignability`, whether each sentence is `found` and the `calls` that were made.
    """
    if missing := sorted(annotation.keys() - lengths.keys()):
        raise UserError(f"{len(missing)} annotated videos have no features, such as {missing[0]}: leave them out.")
    videos = sorted(video for video, said in annotation.items() if said)
    stitched = {video: stitch(video, annotation[video], lengths[video], model, method, head) for video in videos}
    found = {video: hits(annotation[video], stitched[video].similarity) for video in videos}
    none = torch.zeros(0)
    labels = torch.tensor([bool(one[0]) for video in videos for one in annotation[video]], dtype=torch.bool)
    right = torch.cat([none, *(found[video] for video in videos)])[labels]
    scores = torch.cat([none, *(one.alignability for one in stitched.values())])
    return {
        "recall": right.double().mean().item() if len(right) else None,
        "auc": auc(scores, labels),
        "found": found,
        **{key: {video: getattr(one, key) for video, one in stitched.items()} for key in Stitched._fields},
    }


def stitch(video: str, said: Sequence[Spoken], length: int, model: Model, method: Method, head: bool) -> Stitched:
    """One pass over all of it, or the average over its windows. Nothing is masked."""
    if method == "global":
        got = model(video, 0, length, list(range(len(said))))
        similarity = got.joint[-1]  # of the joint encoder alone
        score = alignable(got, -1) if head else similarity.amax(1)
        return Stitched(similarity, score, [(0, length, 0, len(said) - 1)])
    total: Tensor | None = None
    calls = list(windows(said, length))
    times, asked = torch.zeros(len(said), length), torch.zeros(len(said))
    for start, seconds, first, last in calls:
        rows, cut = slice(first, last + 1), slice(start, start + seconds)
        got = model(video, start, seconds, list(range(first, last + 1)))
        if total is None:
            total, score = got.joint.new_zeros(2, len(said), length), got.joint.new_zeros(len(said))
        total[0, rows, cut] += got.joint[-1]
        total[1, rows, cut] += got.dual[-1]
        times[rows, cut] += 1
        asked[rows] += 1
        if head:
            score[rows] += alignable(got, STAGE)
    if total is None:
        return Stitched(torch.zeros(len(said), length), torch.zeros(len(said)), calls)
    similarity = (total / times.clamp(min=1)).mean(0)
    return Stitched(similarity, score / asked.clamp(min=1) if head else similarity.amax(1), calls)


def alignable(got: Aligned, stage: int) -> Float[Tensor, " K"]:
    if got.alignable is None:
        raise UserError("This aligner has no alignability head: score it with `head: false`.")
    if len(got.alignable) <= stage:
        raise UserError(
            f"Alignability is read off stage {stage + 1} of the joint encoder, and this aligner has "
            f"{len(got.alignable)}: score it with `head: false`."
        )
    return got.alignable[stage]


def windows(said: Sequence[Spoken], length: int) -> Iterator[tuple[int, int, int, int]]:
    """First second, seconds, first and last sentence. A video too short for any has one.

    The sentences are those from the first to the last that is not alignable and spoken near: their times are known
    from the narration alone, so that no true time is given away. Without one a window is left out, at an end as well.
    """
    starts = range(0, max(1, length - REST), STEP)
    for number, start in enumerate(starts):
        near = [
            row
            for row, (true, begin, end, _) in enumerate(said)
            if not true and start - BEFORE <= (begin + end) / 2 <= start + AFTER
        ]
        if near:
            at_start, at_end = number < EDGE, EDGE <= number and number >= len(starts) - EDGE
            first, last = 0 if at_start else near[0], len(said) - 1 if at_end else near[-1]
            yield start, min(WINDOW, length - start), first, last


def hits(said: Sequence[Spoken], similarity: Float[Tensor, "K T"]) -> Bool[Tensor, " K"]:
    """Whether the second of each sentence's highest similarity lies in its times, both ends included."""
    best = similarity.masked_fill(similarity == 0, NOWHERE).argmax(1)
    return within(said, best.tolist())


def given_times(said: Sequence[Spoken], spans: Sequence[tuple[float, float]]) -> Bool[Tensor, " K"]:
    """The same of the narration's own times: whether the second of their middle lies in the true ones."""
    return within(said, [math.floor((start + end) / 2) for start, end in spans])


def within(said: Sequence[Spoken], seconds: Sequence[int]) -> Bool[Tensor, " K"]:
    inside = [math.floor(start) <= at <= math.ceil(end) for (_, start, end, _), at in zip(said, seconds, strict=True)]
    return torch.tensor(inside, dtype=torch.bool)


def auc(scores: Float[Tensor, " K"], labels: Bool[Tensor, " K"]) -> float | None:
    """Area under the ROC curve: how often an alignable sentence scores above one that is not, ties by half."""
    true, false = scores[labels].double(), scores[~labels].double().sort().values
    if not len(true) or not len(false):
        return None
    below, upto = torch.searchsorted(false, true), torch.searchsorted(false, true, right=True)
    return ((below + upto).double().mean() / (2 * len(false))).item()
