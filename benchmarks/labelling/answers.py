"""logits of clips and labels -> what is answered of a video, and of each of its seconds.

Probabilities say which label fits best among those that were given. They do not say that any of
them fits. So an answer may also be "unsure" (the best two are close), or, with a threshold,
"none of these" (even the best is less alike than the threshold).
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ssvid.errors import UserError

TOP = 20  # labels of a video that are written
NONE = "none of these"
LEAST_VIDEOS = 20  # of a calibration

Verdict = Literal["sure", "unsure", "none"]
Json = dict[str, Any]


class Scored(NamedTuple):
    """A label of a video."""

    label: str
    probability: float  # mean over clips of the softmax over all labels
    similarity: float  # mean over clips; a cosine, where the text side has cosines
    logit: float  # the similarity times the factor of training


class Measured(NamedTuple):
    """What the networks say of one video."""

    top: list[Scored]  # the best label first, TOP at most
    margin: float  # mean logit of the best label, less the largest of the others
    best_similarity: float  # the largest mean similarity of all labels

    @classmethod
    def from_json(cls, content: Json) -> "Measured":
        """Raises KeyError or TypeError where the content is not whole."""
        top = [Scored(**line) for line in content["top"]]
        return cls(top, float(content["margin"]), float(content["best_similarity"]))


class Threshold(NamedTuple):
    """Below it a video is answered `none of these`."""

    value: float  # of the best similarity of a video
    sentence: str  # where it comes from


def measure_video(
    logits: Float[Tensor, "n S"], labels: Sequence[str], factor: float = 1.0
) -> Measured:
    """Labels ranked by their mean probability over the clips. Equal ones keep the user's order.

    `factor`: a logit is it times a similarity.
    """
    exact = logits.double()
    probabilities, mean_logits = exact.softmax(1).mean(0), exact.mean(0)
    order = probabilities.argsort(descending=True, stable=True)[:TOP].tolist()
    top = []
    for i in order:
        logit = float(mean_logits[i])
        top.append(Scored(labels[i], float(probabilities[i]), logit / factor, logit))
    others = mean_logits.clone()
    others[order[0]] = -torch.inf
    margin = float(mean_logits[order[0]] - others.max())
    return Measured(top, margin, float(mean_logits.max()) / factor)


def decide(measured: Measured, margin: float, threshold: float | None) -> Verdict:
    """`none` goes before `unsure`."""
    if threshold is not None and measured.best_similarity <= threshold:
        return "none"
    return "unsure" if measured.margin < margin else "sure"


def phrase_answer(verdict: Verdict, label: str) -> str:
    """The answer in words: the label, with a mark where it is unsure, or none of these."""
    return {"sure": label, "unsure": f"unsure: {label}", "none": NONE}[verdict]


def choose_threshold(
    best_similarities: Sequence[float], false_alarms: float, folder: str
) -> Threshold:
    """The (1 - false_alarms) quantile of the best similarities of videos that show no label.

    It is one of these values: at most that share of them lies above it. Raises a UserError where
    the videos are too few for it.
    """
    n = len(best_similarities)
    if n < LEAST_VIDEOS:
        raise UserError(
            f"--calibrate {folder} has {n} videos that can be read: a threshold needs "
            f"{LEAST_VIDEOS} or more that show none of the labels."
        )
    rank = max(1, math.ceil((1 - false_alarms) * n - 1e-9))
    value = sorted(best_similarities)[rank - 1]
    above = sum(similarity > value for similarity in best_similarities)
    sentence = (
        f"The threshold {value:.4g} comes from {folder}: at this threshold {above} of its {n} "
        f"videos ({100 * above / n:.3g} %) would get a label, although they show none of them. "
        f"Of new videos of that kind expect {100 * (above + 1) / (n + 1):.3g} %."
    )
    return Threshold(value, sentence)


class Segment(NamedTuple):
    """Seconds in a row with the same answer."""

    start: int  # second of the video
    end: int  # the second after the last
    answer: str


class Timeline(NamedTuple):
    """The labels of each second of a video."""

    labels: list[str]  # those that are likeliest in any second, TOP at most
    probabilities: Float[Tensor, "t Q"]  # softmax over all labels, of the labels above
    answers: list[str]  # of each second


def measure_seconds(logits: Float[Tensor, "t S"], labels: Sequence[str], margin: float) -> Timeline:
    """The labels by their largest probability in any second. No threshold is applied: that of
    whole videos says nothing of a single second.
    """
    probabilities = logits.double().softmax(1)
    order = probabilities.amax(0).argsort(descending=True, stable=True)[:TOP]
    best_two = logits.double().topk(2, dim=1)
    answers = []
    for values, index in zip(best_two.values.tolist(), best_two.indices.tolist(), strict=True):
        verdict: Verdict = "unsure" if values[0] - values[1] < margin else "sure"
        answers.append(phrase_answer(verdict, labels[index[0]]))
    return Timeline([labels[i] for i in order.tolist()], probabilities[:, order], answers)


def join_seconds(answers: Sequence[str]) -> list[Segment]:
    segments: list[Segment] = []
    for second, answer in enumerate(answers):
        if segments and segments[-1].answer == answer:
            segments[-1] = segments[-1]._replace(end=second + 1)
        else:
            segments.append(Segment(second, second + 1, answer))
    return segments
