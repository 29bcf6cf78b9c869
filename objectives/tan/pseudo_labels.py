"""Similarities of a teacher -> which seconds each sentence is about: the pseudo-labels of TAN's co-training.

Also which sentences can be aligned at all. Nothing here has a gradient. Facts that look odd are the published code's.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

How = Literal["keep", "keep-joint", "i", "u"]
AGREE = 0.5  # IoU of the two windows
SURE = 0.3  # quantile that a window's mean similarity must reach, for i and u
HIDDEN = -6e4  # in place of the similarity of what only fills up


class Picked(NamedTuple):
    """The best window of each sentence, by one branch."""

    prob: Float[Tensor, "B T N"]  # over time
    box: Bool[Tensor, "B T N"]
    score: Float[Tensor, "B N"]  # mean probability in the box
    height: Float[Tensor, "B N"]  # mean similarity in the box


class Agreed(NamedTuple):
    target: Bool[Tensor, "B T N"]
    iou: Float[Tensor, "B N"]
    agree: Bool[Tensor, "B N"]
    sure: Bool[Tensor, "B N"]  # agree, and both are high


def spoken(
    spans: Float[Tensor, "B N 2"], text_padding_mask: Bool[Tensor, "B N"], seconds: int
) -> Bool[Tensor, "B seconds N"]:
    """By the narration's own times: second t belongs to a sentence when start <= t < end."""
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
) -> Picked:
    """Of all windows as long as the sentence took to say, the one with the highest mean probability.

    The temperature acts twice: in `logits`, and on the softmax over sentences before that over time.
    """
    seconds = logits.shape[1]
    logits = logits.masked_fill(video_padding_mask[:, :, None] | text_padding_mask[:, None], HIDDEN)
    prob = (logits.softmax(2) / temperature).softmax(1)
    length = spoken.sum(1).clamp(min=1).masked_fill(text_padding_mask, 0)  # B N
    t = torch.arange(seconds, device=logits.device)
    inner = (t > 0) & (
        t < seconds - 1
    )  # the outermost seconds are never labelled, that windows do not flee there
    last = t[:, None] + length[:, None]  # B T N: behind a window that begins at t
    fits = (last <= seconds) & (length > 0)[:, None]
    count = _within(inner[None, :, None].double(), last).clamp(min=1)
    mean = _within(prob * inner[:, None], last) / count
    # In float32: sums of equal numbers are then equal, and the first of them is the maximum.
    score, first = mean.masked_fill(~fits, 0.0).float().max(1)
    box = (t[:, None] >= first[:, None]) & (t[:, None] < (first + length)[:, None]) & inner[:, None]
    height = (logits * box).sum(1) / box.sum(1).clamp(min=1)
    return Picked(prob, box, score, height)


def _within(x: Float[Tensor, "_ T _"], last: Tensor) -> Tensor:
    """The sum of x from each t up to `last` of it, without that."""
    total = torch.nn.functional.pad(x.double().cumsum(1), (0, 0, 1, 0))  # b T+1 n
    total = total.expand(last.shape[0], -1, last.shape[2])
    return total.gather(1, last.clamp(max=x.shape[1])) - total[:, :-1]


@torch.no_grad()
def agree(
    joint: Picked,
    dual: Picked,
    spoken: Bool[Tensor, "B T N"],
    text_padding_mask: Bool[Tensor, "B N"],
    how: How,
) -> Agreed:
    """keep: the narration's own seconds, and where both branches agree those of either; keep-joint: of the joint one.

    i, u: those of both, or of either, where they agree and are sure; else none.
    """
    both, either = joint.box & dual.box, joint.box | dual.box
    iou = both.sum(1) / either.sum(1).clamp(min=1)
    agreed = iou >= AGREE
    sure = agreed & _high(joint.height, text_padding_mask) & _high(dual.height, text_padding_mask)
    if how in ("keep", "keep-joint"):
        target = torch.where(agreed[:, None], either if how == "keep" else joint.box, spoken)
    else:
        target = (both if how == "i" else either) & sure[:, None]
    target = target & (target.cumsum(2) == 1)  # a second belongs to the first sentence that has it
    target = torch.where(
        target.any(1, keepdim=True), target, spoken
    )  # left with none: its own again
    return Agreed(target, iou, agreed, sure)


def _high(
    height: Float[Tensor, "B N"], text_padding_mask: Bool[Tensor, "B N"]
) -> Bool[Tensor, "B N"]:
    return height >= height[~text_padding_mask].quantile(SURE)


class Alignable(NamedTuple):
    """Of each sentence, in a flat row over all windows."""

    metric: Float[Tensor, " S"]  # the lower, the likelier
    kept: Bool[Tensor, " S"]
    label: Bool[Tensor, " S"]
    told: Bool[Tensor, " S"]  # whether the label counts


@torch.no_grad()
def alignable(
    joint: Float[Tensor, " S"],
    dual: Float[Tensor, " S"],
    span_fractions: Float[Tensor, "S 2"],
    threshold: float,
    trim: float,
) -> Alignable:
    """From the highest own similarity of each sentence in either branch. `places`: where it is said, of the video.

    Kept: `threshold` of the batch, by the sum of the two. Label: above both medians, or below both; never within
    the first or last `trim` of the video, where people greet and thank.
    """
    metric = -(_standard(dual) + _standard(joint))
    middles = dual.quantile(0.5), joint.quantile(0.5)
    top = (dual > middles[0]) & (joint > middles[1])
    low = (dual < middles[0]) & (joint < middles[1])
    centre = span_fractions.mean(1)
    outer = (centre < trim) | (centre > 1 - trim)
    return Alignable(metric, metric <= metric.quantile(threshold), top & ~outer, top | low | outer)


def _standard(x: Float[Tensor, " S"]) -> Float[Tensor, " S"]:
    """All alike, or a single one (published: not a number): none stands out."""
    spread = x.std() if len(x) > 1 else x.new_zeros(())
    return torch.where(spread > 0, (x - x.mean()) / spread, torch.zeros_like(x))
