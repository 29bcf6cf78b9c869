"""Tokens of a clip, and what of them is like a sentence: LiteVL's pooling (arXiv:2210.11929).

It has no parameters. Frames and places that are like the sentence weigh more.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
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
        check_positive(text_pooling_temperature=self.temperature)

    def weigh(
        self, means: Float[Tensor, "B M D"], likeness: Float[Tensor, "B M"]
    ) -> Float[Tensor, "B M D"]:
        """Means, each times its weight. `likeness`: their cosines with the sentence."""
        weights = (likeness / self.temperature).softmax(1)
        if self.weights == "mean":
            weights = weights * weights.shape[1]
        return weights[..., None] * means


def average_patches(patches: Float[Tensor, "B T N D"], variant: Variant) -> list[Tensor]:
    """The means over places of each frame (B T D), and those over frames of each place (B N D)."""
    means = []
    if variant in ("spatial", "both"):
        means.append(patches.mean(2))
    if variant in ("temporal", "both"):
        means.append(patches.mean(1))
    return means
