"""Similarities -> for each clip a sentence that is alike but another's, and the reverse (ALBEF,
arXiv:2107.07651, and BLIP).
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Choice = Literal["drawn", "hardest"]


class HardNegatives(NamedTuple):
    row: Int[Tensor, " b"]  # among all candidates
    exists: Bool[Tensor, " b"]  # False: every candidate belongs to the query


@torch.no_grad()
def choose_negatives(
    similarity: Float[Tensor, "b B"],
    belongs: Bool[Tensor, "b B"],
    uniforms: Float[Tensor, " b"],
    choice: Choice,
) -> HardNegatives:
    """One candidate for each query, with the probability of a softmax over those of others.

    `similarity`: over the temperature. `uniforms`: in [0, 1), one for each query. `hardest`: the
    most similar candidate instead.
    """
    exists = ~belongs.all(1)
    logits = similarity.double().masked_fill(belongs, -torch.inf)
    if choice == "hardest":
        return HardNegatives(logits.argmax(1), exists)
    # A query without negatives has NaN here; its choice is not used.
    shares = logits.softmax(1).nan_to_num()
    edges = shares.cumsum(1)
    # A candidate without a share has the edge of the one before it, so it is never chosen.
    aims = uniforms[:, None] * edges[:, -1:]
    row = torch.searchsorted(edges, aims, right=True)[:, 0]
    return HardNegatives(row.clamp(max=len(belongs[0]) - 1), exists)
