"""Tokens of a clip, and what of them is like a sentence: LiteVL's pooling (arXiv:2210.11929).

It has no parameters. Frames and places that are like the sentence weigh more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ssvid.errors import check_positive

Variant = Literal["original", "spatial", "temporal", "both"]


@dataclass(frozen=True, kw_only=True)
class TextPooling:
    """How the tokens of a clip depend on a sentence. The abstract tells that they do.

    Everything but that is inferred.
    """

    # Beside the tokens themselves, the cross-attention sees `spatial`: the mean over places of each
    # frame; `temporal`: the mean over frames of each place; or both.
    variant: Variant = "original"
    temperature: float = 1.0  # of the softmax over frames and over places
    weights: Literal["sum", "mean"] = "sum"  # whether the sum or the mean of the weights is 1

    def __post_init__(self) -> None:
        check_positive(pooling_temperature=self.temperature)

    def weigh_means(
        self,
        patches: Float[Tensor, "C T N D"],
        guides: Float[Tensor, "P G"],
        clip_of_pair: Int[Tensor, " P"] | None,
        project: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "P M D"] | None:
        """The means that each pair of clip and sentence sees, each times its weight.

        `guides`: unit vectors of the sentences. `project` leads from patches to their space.
        """
        weighted = []
        for means in average_patches(patches, self.variant):
            places = F.normalize(project(means), dim=-1)
            if clip_of_pair is not None:
                means, places = means[clip_of_pair], places[clip_of_pair]
            likeness = torch.einsum("pmg,pg->pm", places, guides)
            weighted.append(self.weigh(likeness)[..., None] * means)
        return torch.cat(weighted, 1) if weighted else None

    def weigh(self, likeness: Float[Tensor, "P M"]) -> Float[Tensor, "P M"]:
        """The weights of means whose cosines with the sentence are given."""
        weights = (likeness / self.temperature).softmax(1)
        return weights * weights.shape[1] if self.weights == "mean" else weights


def average_patches(patches: Float[Tensor, "C T N D"], variant: Variant) -> list[Tensor]:
    """The means over places of each frame (C T D), and those over frames of each place (C N D)."""
    means = []
    if variant in ("spatial", "both"):
        means.append(patches.mean(2))
    if variant in ("temporal", "both"):
        means.append(patches.mean(1))
    return means
