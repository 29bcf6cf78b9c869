"""annotated videos, a model of windows -> Recall@1 and ROC-AUC of HTM-Align.

The numbers are computed as the authors' code does (Han, Xie, Zisserman 2022, arXiv:2204.02968). A
sentence is alignable or not. An alignable sentence counts as found if the second of its highest
similarity lies in its true times. Both numbers are over the sentences of all videos together.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from benchmarks.metrics.moving_windows import WindowSums, list_htm_align_windows
from ssvid.data.datasets.htm_align import Spoken
from ssvid.errors import UserError
from ssvid.nn.timeline import Aligned

# Stage of the joint encoder, from 0, whose alignability is read. One pass over the whole video
# reads the last stage.
STAGE = 2
NOWHERE = -6e4  # similarity where nothing was computed, or where it is exactly 0
Method = Literal["overlap-seq", "global"]

# Video, first second, seconds, numbers of its sentences -> their similarities.
Model = Callable[[str, int, int, list[int]], Aligned]


class Stitched(NamedTuple):
    """The answers for a whole video."""

    similarity: Float[Tensor, "K T"]  # 0 where no window held the sentence and the second
    alignability: Float[Tensor, " K"]
    calls: list[tuple[int, int, int, int]]  # windows: first second, seconds, first, last sentence


def evaluate(
    annotation: Mapping[str, Sequence[Spoken]],
    lengths: Mapping[str, int],  # of each video its seconds, which are as many features
    model: Model,
    *,
    method: Method = "overlap-seq",
    head: bool,  # True: alignability by the head; False: by the highest similarity
) -> dict[str, Any]:
    """`recall` and `auc` as shares, and per video what they come from.

    `recall` is None without an alignable sentence, `auc` is None where all sentences are alignable
    or none. Per video: `similarity`, `alignability`, `found` (whether each sentence was found) and
    `calls` of the model. Raises a UserError where a video has no features.
    """
    missing = sorted(annotation.keys() - lengths.keys())
    if missing:
        raise UserError(
            f"{len(missing)} annotated videos have no features, such as {missing[0]}: leave them "
            "out."
        )
    videos = sorted(video for video, sentences in annotation.items() if sentences)
    stitched: dict[str, Stitched] = {}
    hits: dict[str, Tensor] = {}
    scores, correct = [torch.zeros(0)], [torch.zeros(0)]
    is_alignable: list[bool] = []
    for video in videos:
        sentences = annotation[video]
        stitched[video] = stitch_windows(video, sentences, lengths[video], model, method, head)
        hits[video] = mark_hits(sentences, stitched[video].similarity)
        scores.append(stitched[video].alignability)
        correct.append(hits[video])
        is_alignable += [bool(sentence.alignable) for sentence in sentences]
    alignable = torch.tensor(is_alignable, dtype=torch.bool)
    correct_alignable = torch.cat(correct)[alignable]
    return {
        "recall": correct_alignable.double().mean().item() if len(correct_alignable) else None,
        "auc": compute_auc(torch.cat(scores), alignable),
        "found": hits,
        "similarity": {video: answers.similarity for video, answers in stitched.items()},
        "alignability": {video: answers.alignability for video, answers in stitched.items()},
        "calls": {video: answers.calls for video, answers in stitched.items()},
    }


def stitch_windows(
    video: str, sentences: Sequence[Spoken], length: int, model: Model, method: Method, head: bool
) -> Stitched:
    """One pass over the whole video, or the average over its windows. Nothing is masked."""
    if method == "global":
        aligned = model(video, 0, length, list(range(len(sentences))))
        similarity = aligned.joint[-1]  # of the joint encoder alone
        score = read_alignability(aligned, -1) if head else similarity.amax(1)
        return Stitched(similarity, score, [(0, length, 0, len(sentences) - 1)])
    calls = []
    sums: WindowSums | None = None
    for window in list_htm_align_windows(sentences, length):
        calls.append((window.start, window.seconds, window.rows[0], window.rows[-1]))
        aligned = model(video, window.start, window.seconds, list(window.rows))
        if sums is None:
            sums = WindowSums(len(sentences), length, aligned.joint)
        alignability = read_alignability(aligned, STAGE) if head else None
        sums.add(window, aligned.joint[-1], aligned.dual[-1], alignability)
    if sums is None:
        return Stitched(torch.zeros(len(sentences), length), torch.zeros(len(sentences)), calls)
    similarity = (sums.similarity / sums.pair_counts.clamp(min=1)).mean(0)
    if not head:
        return Stitched(similarity, similarity.amax(1), calls)
    return Stitched(similarity, sums.alignability / sums.sentence_counts.clamp(min=1), calls)


def read_alignability(aligned: Aligned, stage: int) -> Float[Tensor, " K"]:
    """The alignability logits of a stage. Raises a UserError where there is no head or stage."""
    if aligned.alignable is None:
        raise UserError("This aligner has no alignability head: score it with `head: false`.")
    if len(aligned.alignable) <= stage:
        raise UserError(
            f"Alignability is read from stage {stage + 1} of the joint encoder, and this aligner "
            f"has {len(aligned.alignable)}: score it with `head: false`."
        )
    return aligned.alignable[stage]


def mark_hits(sentences: Sequence[Spoken], similarity: Float[Tensor, "K T"]) -> Bool[Tensor, " K"]:
    """Whether the second of each sentence's highest similarity lies in its times, ends included."""
    best = similarity.masked_fill(similarity == 0, NOWHERE).argmax(1)
    return mark_inside(sentences, best.tolist())


def mark_time_hits(
    sentences: Sequence[Spoken], spans: Sequence[tuple[float, float]]
) -> Bool[Tensor, " K"]:
    """The same for the narration's own times: whether the second of their middle is a true one."""
    return mark_inside(sentences, [math.floor((start + end) / 2) for start, end in spans])


def mark_inside(sentences: Sequence[Spoken], seconds: Sequence[int]) -> Bool[Tensor, " K"]:
    inside = []
    for sentence, second in zip(sentences, seconds, strict=True):
        inside.append(math.floor(sentence.start) <= second <= math.ceil(sentence.end))
    return torch.tensor(inside, dtype=torch.bool)


def compute_auc(scores: Float[Tensor, " K"], alignable: Bool[Tensor, " K"]) -> float | None:
    """Area under the ROC curve: how often an alignable sentence scores above one that is not.

    Ties count half. None where all sentences are alignable or none is.
    """
    alignable_scores = scores[alignable].double()
    other_scores = scores[~alignable].double().sort().values
    if not len(alignable_scores) or not len(other_scores):
        return None
    # For each alignable sentence, how many of the others score below it, and how many at most as
    # high. The two numbers differ by the ties.
    below = torch.searchsorted(other_scores, alignable_scores)
    at_or_below = torch.searchsorted(other_scores, alignable_scores, right=True)
    return ((below + at_or_below).double().mean() / (2 * len(other_scores))).item()
