"""Vectors of clips and sentences -> BLIP's contrast with soft targets (arXiv:2201.12086).

A vector is compared with the momentum vectors of the batch and of earlier steps. The target of each
row is a mixture of its positives and of what the momentum nets find alike.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssvid.nn.queue import Queue, gather_all

Negatives = str  # all: of all processes | process: of the process alone, as published


class Keys(NamedTuple):
    """Momentum vectors of clips and of sentences: of the batch, then of the queues."""

    video: Float[Tensor, "n E"]
    texts: Float[Tensor, "n E"]
    names: Int[Tensor, " n"]  # the same number for what belongs together; EMPTY: to nothing


def list_keys(
    video: Float[Tensor, "b E"],
    texts: Float[Tensor, "b E"],
    names: Int[Tensor, " b"],
    video_queue: Queue,
    text_queue: Queue,
    across: bool,
) -> Keys:
    """The keys of this step. `across`: those of all processes, in order of rank."""
    if across:
        video, texts, names = gather_all(video), gather_all(texts), gather_all(names)
    return Keys(
        torch.cat([video, video_queue.keys.to(video)]),
        torch.cat([texts, text_queue.keys.to(texts)]),
        torch.cat([names, video_queue.get_buffer("names")]),
    )


def contrast_softly(
    queries: Float[Tensor, "b E"],
    momentum_queries: Float[Tensor, "b E"],
    keys: Float[Tensor, "n E"],
    positives: Bool[Tensor, "b n"],
    temperature: Float[Tensor, ""],
    alpha: float | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """The cross-entropy of queries over keys, with soft targets.

    `alpha`: the share of the momentum nets in a target; the rest is spread evenly over positives.
    """
    with torch.no_grad():
        alike = (momentum_queries @ keys.T / temperature).softmax(1)
        even = positives / positives.sum(1, keepdim=True)
        targets = alpha * alike + (1 - alpha) * even
    log_shares = (queries @ keys.T / temperature).log_softmax(1)
    return -(log_shares * targets).sum(1).mean()
