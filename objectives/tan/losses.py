"""Similarities of seconds and sentences -> TAN's losses: two-way NCE and the alignability of a
sentence.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from objectives.tan.pseudo_labels import Alignable

NEGATIVE = -6e4  # replaces the similarity of a pair that is not a positive


class Logits(NamedTuple):
    """Cosines over the temperature: all seconds R of all windows by all spoken sentences S."""

    dual: Float[Tensor, "E R S"]
    joint: Float[Tensor, "L R S"]


def own_window_logits(
    logits: Float[Tensor, "L R S"], spoken: Bool[Tensor, "B N"]
) -> Float[Tensor, "S L T"]:
    """The logits of each sentence with the seconds of its own window. `spoken`: not padding."""
    window, _ = spoken.nonzero(as_tuple=True)
    windows = logits.unflatten(1, (len(spoken), -1))  # L B T S
    return windows[:, window, :, torch.arange(len(window), device=window.device)]


def two_way_nce(
    logits: Float[Tensor, "L R S"],
    targets: Bool[Tensor, "B T N"],
    spoken: Bool[Tensor, "B N"],
    selected: Bool[Tensor, "B N"],
) -> Float[Tensor, ""]:
    """MIL-NCE in both directions: each second against all sentences, each sentence against all
    seconds.

    `selected`: the sentences that the loss uses. Seconds and sentences without a positive are left
    out; in the published code a sentence without a second ends the run once sentences are selected.
    Positives lie in a window's own block, so only this block is summed for the numerators.
    """
    B, T, N = targets.shape
    positives = logits.new_full((B, N, len(logits), T), NEGATIVE)
    positives[spoken] = own_window_logits(logits, spoken)
    positives = positives.masked_fill(~targets.mT[:, :, None], NEGATIVE)
    numerators = positives.logsumexp(1).transpose(0, 1).flatten(1)  # L R
    seconds = logits.logsumexp(2) - numerators  # L R
    sentences = logits.logsumexp(1) - positives.logsumexp(3)[spoken].T  # L S
    has_sentence = (targets & selected[:, None]).any(2).flatten()  # R
    has_second = (targets.any(1) & selected)[spoken]  # S
    return (masked_mean(seconds, has_sentence) + masked_mean(sentences, has_second)) / 2


def masked_mean(x: Float[Tensor, "L n"], mask: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """The mean over the columns of the mask. Returns 0 if the mask is empty."""
    return (x * mask).sum() / (len(x) * mask.sum()).clamp(min=1)


def alignability_loss(
    head: Float[Tensor, " S"], alignable: Alignable
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Binary cross-entropy of the alignability head, and its accuracy. Both classes weigh the same.

    Without a positive label there is no such weight; the loss is then 0, where the published code
    gives nan or inf.
    """
    label, n = alignable.label.to(head), alignable.label_valid.sum().clamp(min=1)
    share = label.sum() / n
    weight = torch.where(share > 0, 1 / share.clamp(min=1e-6) - 1, torch.zeros_like(share))
    bce = F.binary_cross_entropy_with_logits(head, label, pos_weight=weight, reduction="none")
    correct = ((head.detach() > 0) == alignable.label) & alignable.label_valid
    loss = (bce * alignable.label_valid).sum() / n * (share > 0)
    return loss, (correct.sum() / n).detach()
