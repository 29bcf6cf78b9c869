"""Vectors of clips and of their sentences -> the symmetric contrast of CLIP (arXiv:2103.00020).

Each process computes the rows of its own clips and sentences against those of all processes. It
holds the similarities of `chunk` rows at a time, so that memory is bounded in the global batch.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ssvid.nn.gather import gather_rows
from ssvid.nn.queue import gather_all


class Contrast(NamedTuple):
    loss: Float[Tensor, ""]
    top1: Float[Tensor, ""]  # share of clips whose most similar sentence is a positive


def contrast_pairs(
    video: Float[Tensor, "b E"],
    texts: Float[Tensor, "b E"],
    scale: Float[Tensor, ""],
    index: Int[Tensor, " b"],
    sentences: Int[Tensor, " b"] | None = None,
    chunk: int = 1024,
) -> Contrast:
    """The mean cross-entropy of clips over sentences and of sentences over clips.

    `index`: the video of each clip; other clips of one video are no negatives of each other.
    `sentences`: the same number for equal sentences, which are then positives; None: they are
    negatives, as published. With several processes this is the loss of the process's own rows, so
    its mean over processes is that of the whole batch.
    """
    all_video, all_texts = gather_rows(video), gather_rows(texts)
    videos = gather_all(index.to(video.device))
    groups = None if sentences is None else gather_all(sentences)
    total, hits = video.new_zeros(()), video.new_zeros(())
    for first in range(0, len(video), chunk):
        rows = slice(first, first + chunk)
        numbers = all_video.first + torch.arange(len(video), device=video.device)[rows]
        positives, ignored = compare_rows(numbers, videos, groups)
        for queries, others in ((video[rows], all_texts.rows), (texts[rows], all_video.rows)):
            if len(video) > chunk:  # the similarities are computed again in backward
                inputs = (queries, others, scale, positives, ignored)
                total = total + checkpoint(sum_losses, *inputs, use_reentrant=False)
            else:
                total = total + sum_losses(queries, others, scale, positives, ignored)
        with torch.no_grad():
            nearest = (video[rows] @ all_texts.rows.T).masked_fill(ignored, -torch.inf).argmax(1)
            hits += positives.gather(1, nearest[:, None]).sum()
    return Contrast(total / (2 * len(video)), hits / len(video))


def compare_rows(
    numbers: Int[Tensor, " c"], videos: Int[Tensor, " B"], groups: Int[Tensor, " B"] | None
) -> tuple[Bool[Tensor, "c B"], Bool[Tensor, "c B"]]:
    """Positives of the rows `numbers` of a batch, and what is neither positive nor negative."""
    is_same_row = numbers[:, None] == torch.arange(len(videos), device=videos.device)
    positives = is_same_row
    if groups is not None:
        positives = groups[numbers][:, None] == groups
    return positives, (videos[numbers][:, None] == videos) & ~positives


def sum_losses(
    rows: Float[Tensor, "c E"],
    others: Float[Tensor, "B E"],
    scale: Float[Tensor, ""],
    positives: Bool[Tensor, "c B"],
    ignored: Bool[Tensor, "c B"],
) -> Float[Tensor, ""]:
    """The cross-entropies of the rows over the others, whose positives have equal weights."""
    logits = (scale * rows @ others.T).masked_fill(ignored, -torch.inf)
    log_prob = torch.where(positives, logits.log_softmax(1), 0.0)
    return -(log_prob.sum(1) / positives.sum(1)).sum()
