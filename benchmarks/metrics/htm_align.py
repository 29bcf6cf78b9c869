"""annotated videos, a model of windows -> Recall@1 and ROC-AUC of HTM-Align, as its authors' code has them.

Han, Xie, Zisserman 2022 (arXiv:2204.02968). A sentence is alignable or not; an alignable one is found where the second
of its highest similarity lies in its true times. Both numbers are over the sentences of all videos together.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from benchmarks.metrics.moving_windows import WindowSums, htm_align_windows
from ssvid.data.datasets.htm_align import Spoken
from ssvid.errors import UserError
from ssvid.nn.timeline import Aligned

STAGE = 2  # of the joint encoder, from 0: whose alignability is read (of one pass over the whole video the last)
NOWHERE = -6e4  # similarity where nothing was computed, or exactly 0
Method = Literal["overlap-seq", "global"]


Model = Callable[
    [str, int, int, list[int]], Aligned
]  # video, first second, seconds, rows of its sentences


class Stitched(NamedTuple):
    """Of a whole video."""

    similarity: Float[Tensor, "K T"]  # 0 where no window asked
    alignability: Float[Tensor, " K"]
    calls: list[
        tuple[int, int, int, int]
    ]  # windows: first second, seconds, first and last sentence


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
        raise UserError(
            f"{len(missing)} annotated videos have no features, such as {missing[0]}: leave them out."
        )
    videos = sorted(video for video, said in annotation.items() if said)
    stitched = {
        video: stitch(video, annotation[video], lengths[video], model, method, head)
        for video in videos
    }
    found = {video: hits(annotation[video], stitched[video].similarity) for video in videos}
    none = torch.zeros(0)
    labels = torch.tensor(
        [bool(one[0]) for video in videos for one in annotation[video]], dtype=torch.bool
    )
    right = torch.cat([none, *(found[video] for video in videos)])[labels]
    scores = torch.cat([none, *(one.alignability for one in stitched.values())])
    return {
        "recall": right.double().mean().item() if len(right) else None,
        "auc": auc(scores, labels),
        "found": found,
        **{
            key: {video: getattr(one, key) for video, one in stitched.items()}
            for key in Stitched._fields
        },
    }


def stitch(
    video: str, said: Sequence[Spoken], length: int, model: Model, method: Method, head: bool
) -> Stitched:
    """One pass over all of it, or the average over its windows. Nothing is masked."""
    if method == "global":
        got = model(video, 0, length, list(range(len(said))))
        similarity = got.joint[-1]  # of the joint encoder alone
        score = alignable(got, -1) if head else similarity.amax(1)
        return Stitched(similarity, score, [(0, length, 0, len(said) - 1)])
    windows = list(htm_align_windows(said, length))
    calls = [(window.start, window.seconds, window.rows[0], window.rows[-1]) for window in windows]
    sums: WindowSums | None = None
    for window in windows:
        got = model(video, window.start, window.seconds, list(window.rows))
        sums = sums or WindowSums(len(said), length, got.joint)
        sums.add(window, got.joint[-1], got.dual[-1], alignable(got, STAGE) if head else None)
    if sums is None:
        return Stitched(torch.zeros(len(said), length), torch.zeros(len(said)), calls)
    similarity = (sums.similarity / sums.times.clamp(min=1)).mean(0)
    score = sums.alignability / sums.asked.clamp(min=1) if head else similarity.amax(1)
    return Stitched(similarity, score, calls)


def alignable(got: Aligned, stage: int) -> Float[Tensor, " K"]:
    if got.alignable is None:
        raise UserError("This aligner has no alignability head: score it with `head: false`.")
    if len(got.alignable) <= stage:
        raise UserError(
            f"Alignability is read off stage {stage + 1} of the joint encoder, and this aligner has "
            f"{len(got.alignable)}: score it with `head: false`."
        )
    return got.alignable[stage]


def hits(said: Sequence[Spoken], similarity: Float[Tensor, "K T"]) -> Bool[Tensor, " K"]:
    """Whether the second of each sentence's highest similarity lies in its times, both ends included."""
    best = similarity.masked_fill(similarity == 0, NOWHERE).argmax(1)
    return within(said, best.tolist())


def given_times(said: Sequence[Spoken], spans: Sequence[tuple[float, float]]) -> Bool[Tensor, " K"]:
    """The same of the narration's own times: whether the second of their middle lies in the true ones."""
    return within(said, [math.floor((start + end) / 2) for start, end in spans])


def within(said: Sequence[Spoken], seconds: Sequence[int]) -> Bool[Tensor, " K"]:
    inside = [
        math.floor(start) <= at <= math.ceil(end)
        for (_, start, end, _), at in zip(said, seconds, strict=True)
    ]
    return torch.tensor(inside, dtype=torch.bool)


def auc(scores: Float[Tensor, " K"], labels: Bool[Tensor, " K"]) -> float | None:
    """Area under the ROC curve: how often an alignable sentence scores above one that is not, ties by half."""
    true, false = scores[labels].double(), scores[~labels].double().sort().values
    if not len(true) or not len(false):
        return None
    below, upto = torch.searchsorted(false, true), torch.searchsorted(false, true, right=True)
    return ((below + upto).double().mean() / (2 * len(false))).item()
