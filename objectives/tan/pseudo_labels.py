"""Similarities of a teacher -> the seconds of each sentence: the pseudo-labels of TAN's
co-training.

Also: which sentences can be aligned at all. Nothing here has a gradient. Details that look odd are
those of the published code.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

How = Literal["keep", "keep-joint", "i", "u"]
AGREE = 0.5  # IoU from which the windows of both branches agree
SURE = 0.3  # quantile that the mean similarity of a window must reach, for i and u
PADDING = -6e4  # replaces the similarity of padding


class Pick(NamedTuple):
    """The best window of each sentence by one branch."""

    prob: Float[Tensor, "B T N"]  # over time
    box: Bool[Tensor, "B T N"]  # the seconds of the window
    score: Float[Tensor, "B N"]  # mean probability in the box
    height: Float[Tensor, "B N"]  # mean similarity in the box


class Agreement(NamedTuple):
    """The targets of co-training, and how far the branches agree."""

    targets: Bool[Tensor, "B T N"]
    iou: Float[Tensor, "B N"]
    agree: Bool[Tensor, "B N"]
    sure: Bool[Tensor, "B N"]  # they agree, and both similarities are high


def mark_spans(
    spans: Float[Tensor, "B N 2"], text_padding_mask: Bool[Tensor, "B N"], seconds: int
) -> Bool[Tensor, "B seconds N"]:
    """The seconds in which each sentence is spoken: those with start <= t < end."""
    t = torch.arange(seconds, device=spans.device)[None, :, None]
    start, end = spans[:, None].unbind(-1)  # B 1 N
    return (start <= t) & (t < end) & ~text_padding_mask[:, None]


@torch.no_grad()
def pick(
    logits: Float[Tensor, "B T N"],
    spoken: Bool[Tensor, "B T N"],
    video_padding_mask: Bool[Tensor, "B T"],
    text_padding_mask: Bool[Tensor, "B N"],
    temperature: float,
) -> Pick:
    """Of all windows as long as the sentence, the one with the highest mean probability.

    The temperature acts twice: in `logits`, and on the softmax over sentences before the one over
    time.
    """
    seconds = logits.shape[1]
    logits = logits.masked_fill(
        video_padding_mask[:, :, None] | text_padding_mask[:, None], PADDING
    )
    prob = (logits.softmax(2) / temperature).softmax(1)
    length = spoken.sum(1).clamp(min=1).masked_fill(text_padding_mask, 0)  # B N
    t = torch.arange(seconds, device=logits.device)
    # The outermost seconds are never labelled, so that windows do not drift there.
    inner = (t > 0) & (t < seconds - 1)
    end = t[:, None] + length[:, None]  # B T N: the second after a window that begins at t
    fits = (end <= seconds) & (length > 0)[:, None]
    count = _sum_windows(inner[None, :, None].double(), end).clamp(min=1)
    mean = _sum_windows(prob * inner[:, None], end) / count
    # In float32: sums of equal numbers are then equal, and the first of them is the maximum.
    score, first = mean.masked_fill(~fits, 0.0).float().max(1)
    box = (t[:, None] >= first[:, None]) & (t[:, None] < (first + length)[:, None]) & inner[:, None]
    height = (logits * box).sum(1) / box.sum(1).clamp(min=1)
    return Pick(prob, box, score, height)


def _sum_windows(x: Float[Tensor, "_ T _"], end: Tensor) -> Tensor:
    """The sum of x over the window from each t to its `end`, which is not included."""
    total = torch.nn.functional.pad(x.double().cumsum(1), (0, 0, 1, 0))  # b T+1 n
    total = total.expand(end.shape[0], -1, end.shape[2])
    return total.gather(1, end.clamp(max=x.shape[1])) - total[:, :-1]


@torch.no_grad()
def combine(
    joint: Pick,
    dual: Pick,
    spoken: Bool[Tensor, "B T N"],
    text_padding_mask: Bool[Tensor, "B N"],
    how: How,
) -> Agreement:
    """The targets of co-training from the windows of both branches.

    keep: the narration's seconds; where both branches agree, the union of their windows.
    keep-joint: the same with the window of the joint branch instead of the union.
    i, u: the intersection or the union where the branches agree and are sure, otherwise none.
    """
    both, either = joint.box & dual.box, joint.box | dual.box
    iou = both.sum(1) / either.sum(1).clamp(min=1)
    agree = iou >= AGREE
    sure = agree & _high(joint.height, text_padding_mask) & _high(dual.height, text_padding_mask)
    if how in ("keep", "keep-joint"):
        target = torch.where(agree[:, None], either if how == "keep" else joint.box, spoken)
    else:
        target = (both if how == "i" else either) & sure[:, None]
    target = target & (target.cumsum(2) == 1)  # a second belongs to the first sentence that has it
    # A sentence without any second gets those of the narration.
    target = torch.where(target.any(1, keepdim=True), target, spoken)
    return Agreement(target, iou, agree, sure)


def _high(
    height: Float[Tensor, "B N"], text_padding_mask: Bool[Tensor, "B N"]
) -> Bool[Tensor, "B N"]:
    return height >= height[~text_padding_mask].quantile(SURE)


class Alignable(NamedTuple):
    """Which sentences can be aligned. All windows' sentences are in one row."""

    metric: Float[Tensor, " S"]  # low: probably alignable
    selected: Bool[Tensor, " S"]  # the sentences that the NCE uses
    label: Bool[Tensor, " S"]
    label_valid: Bool[Tensor, " S"]  # whether the label counts


@torch.no_grad()
def label_alignable(
    joint: Float[Tensor, " S"],
    dual: Float[Tensor, " S"],
    span_fractions: Float[Tensor, "S 2"],
    threshold: float,
    trim: float,
) -> Alignable:
    """Label sentences by the highest similarity in their own window, in both branches.

    Selected is the fraction `threshold` of the batch with the largest sum of both. A label is
    positive above both medians and negative below both. It is always negative in the first and last
    `trim` of the video, where people greet and say thanks.
    """
    metric = -(_standard(dual) + _standard(joint))
    middles = dual.quantile(0.5), joint.quantile(0.5)
    top = (dual > middles[0]) & (joint > middles[1])
    low = (dual < middles[0]) & (joint < middles[1])
    centre = span_fractions.mean(1)
    outer = (centre < trim) | (centre > 1 - trim)
    return Alignable(metric, metric <= metric.quantile(threshold), top & ~outer, top | low | outer)


def _standard(x: Float[Tensor, " S"]) -> Float[Tensor, " S"]:
    """Standard scores; 0 for equal values or a single one, where the published code gives nan."""
    spread = x.std() if len(x) > 1 else x.new_zeros(())
    return torch.where(spread > 0, (x - x.mean()) / spread, torch.zeros_like(x))
