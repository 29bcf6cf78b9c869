"""How alike are a clip and a sentence, where a pooler looks at all tokens of the clip (VideoPrism)?

Tokens -> blocks over the tokens of the whole clip -> attention pooler -> a vector of length 1.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.nn.capped import Run
from ssvid.nn.prism import AttentionPooler, PrismBlock
from ssvid.shapes import Features, Tokens
from ssvid.text.joint import VIDEO, ClipVectors, JointSpace
from ssvid.text.tower import Tower

EPS = 1e-12  # under the root of a length, as published


class PooledSpace(JointSpace):
    """Cosines of pooled tokens and sentences. `scale`: the logarithm of a factor, if there is one.

    `auxiliary`: blocks over the tokens of the whole clip, before the pooler; there may be none.
    """

    cosine = True
    needs_tokens = True
    scale: nn.Parameter | None

    def __init__(
        self,
        tower: Tower,
        pooler: AttentionPooler,
        auxiliary: nn.ModuleList,
        *,
        scale: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.tower, self.pooler, self.auxiliary = tower, pooler, auxiliary
        self.register_parameter("scale", scale)

    def read_clips(self, features: Features) -> ClipVectors:
        return {VIDEO: normalise(self.pool(features.tokens))}

    def refine(self, tokens: Tokens) -> Tokens:
        """The tokens after the blocks over the whole clip."""
        return refine_tokens(self.auxiliary, tokens)

    def pool(self, tokens: Tokens) -> Float[Tensor, "B E"]:
        """The vector of each clip, of any length."""
        return self.pooler(self.refine(tokens))[:, 0]

    def pool_frames(self, features: Features) -> Float[Tensor, "B T E"]:
        """A vector of each frame, of any length: the pooler looks at the tokens of one frame."""
        tokens = self.refine(features.tokens)
        frames = rearrange(tokens, "B (t n) D -> (B t) n D", t=features.grid.t)
        return rearrange(self.pooler(frames), "(B t) 1 E -> B t E", t=features.grid.t)

    def embed_texts(self, sentences: Sequence[str]) -> Float[Tensor, "S E"]:
        return normalise(self.tower(sentences))

    def average_texts(self, vectors: Float[Tensor, "P S E"]) -> Float[Tensor, "S E"]:
        return normalise(vectors.mean(0))

    def compare(
        self, clips: Mapping[str, Tensor], texts: Float[Tensor, "S E"]
    ) -> Float[Tensor, "B S"]:
        # The average of vectors of length 1 is shorter than 1.
        similarity = normalise(clips[VIDEO]) @ texts.T
        return similarity if self.scale is None else self.scale.exp() * similarity


def refine_tokens(blocks: nn.ModuleList, tokens: Tokens) -> Tokens:
    """The tokens after blocks in which every token of a clip attends to all others."""
    if not len(blocks):
        return tokens
    rows, run = tokens.flatten(0, 1), Run(*tokens.shape[:2])
    for block in cast("list[PrismBlock]", [*blocks]):
        rows = block(rows, [run])
    return rows.view(tokens.shape)


def make_auxiliary(count: int, dim: int, heads: int, hidden: int) -> nn.ModuleList:
    return nn.ModuleList(PrismBlock(dim, heads, hidden) for _ in range(count))


def normalise(x: Float[Tensor, "*n E"]) -> Float[Tensor, "*n E"]:
    """Vectors of length 1, by the published formula."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPS)
