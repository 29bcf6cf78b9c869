"""How alike are a clip and a sentence, in two stages: BLIP (arXiv:2201.12086), LiteVL (2210.11929).

First cosines of two vectors, as everywhere; then, for the best of these, a text encoder that looks
at the tokens of the clip and says whether the two match.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from ssvid.nn.bert import Context
from ssvid.nn.text_pooling import TextPooling, average_patches
from ssvid.shapes import Features, Pooled
from ssvid.text.blip import BlipText
from ssvid.text.joint import TOKENS, VIDEO, ClipVectors, JointSpace

FrameTokens = Float[Tensor, "B T N D"]  # the tokens of each frame, its class token first


def join_frame_tokens(features: Features) -> FrameTokens:
    """All tokens that a grounded text looks at. Nets without class tokens have patches alone."""
    patches = rearrange(features.tokens, "B (T N) D -> B T N D", T=features.grid.t)
    if features.cls is None:
        return patches
    return torch.cat([features.cls[:, :, None], patches], 2)


class MatchingSpace(JointSpace):
    """`head` maps a clip into the space of sentences; `matcher` says no or yes to a grounded pair.

    `temperature`: a learnt divisor of the cosines. `has_cls`: whether the first token of a frame is
    its class token, which text-dependent pooling leaves out of its means.
    """

    cosine = True
    needs_tokens = True
    can_match = True
    tower: BlipText

    def __init__(
        self,
        tower: BlipText,
        head: nn.Linear,
        matcher: nn.Linear,
        *,
        temperature: nn.Parameter,
        pooling: TextPooling,
        has_cls: bool,
    ) -> None:
        super().__init__()
        self.tower, self.head, self.matcher = tower, head, matcher
        self.temperature, self.pooling, self.has_cls = temperature, pooling, has_cls

    def read_clips(self, features: Features) -> ClipVectors:
        return {VIDEO: self.embed_videos(features.pooled), TOKENS: join_frame_tokens(features)}

    def embed_videos(self, pooled: Pooled) -> Float[Tensor, "B E"]:
        return F.normalize(self.head(pooled), dim=1)

    def embed_texts(self, sentences: Sequence[str]) -> Float[Tensor, "S E"]:
        return F.normalize(self.tower(sentences), dim=1)

    def average_texts(self, vectors: Float[Tensor, "P S E"]) -> Float[Tensor, "S E"]:
        return F.normalize(vectors.mean(0), dim=1)

    def compare(
        self, clips: Mapping[str, Tensor], texts: Float[Tensor, "S E"]
    ) -> Float[Tensor, "B S"]:
        return F.normalize(clips[VIDEO], dim=1) @ texts.T / self.temperature

    def match(self, clips: Mapping[str, Tensor], sentences: Sequence[str]) -> Float[Tensor, " P"]:
        """The logit of a match, plus the cosine, as published."""
        ids = self.tower.tokens(sentences).to(self.temperature.device)
        texts = F.normalize(self.tower.embed(ids), dim=1)
        logits = self.judge(ids, texts, clips[TOKENS])
        cosines = (F.normalize(clips[VIDEO], dim=1) * texts).sum(1)
        return logits[:, 1] + cosines

    def judge(
        self,
        ids: Int[Tensor, "P W"],
        texts: Float[Tensor, "P E"],
        tokens: Float[Tensor, "C T N D"],
        clip_of_pair: Int[Tensor, " P"] | None = None,
    ) -> Float[Tensor, "P 2"]:
        """Logits of no and yes for pairs. `texts`: the vectors of the sentences `ids`."""
        return self.matcher(self.ground(ids, texts, tokens, clip_of_pair)[:, 0])

    def ground(
        self,
        ids: Int[Tensor, "P W"],
        texts: Float[Tensor, "P E"],
        tokens: Float[Tensor, "C T N D"],
        clip_of_pair: Int[Tensor, " P"] | None = None,
    ) -> Float[Tensor, "P W D2"]:
        """The hidden states of sentences that look at a clip each."""
        further = self.weigh_means(texts, tokens, clip_of_pair)
        context = Context(tokens.flatten(1, 2), clip_of_pair, further)
        return self.tower.ground(ids, context)

    def weigh_means(
        self,
        texts: Float[Tensor, "P E"],
        tokens: Float[Tensor, "C T N D"],
        clip_of_pair: Int[Tensor, " P"] | None,
    ) -> Float[Tensor, "P M D"] | None:
        """Means of the clip's patches, weighted by their likeness with the sentence of each pair.

        Likeness is a cosine in the space that clips and sentences share (inferred).
        """
        weighted = []
        for means in average_patches(tokens[:, :, int(self.has_cls) :], self.pooling.variant):
            places = F.normalize(self.head(means), dim=-1)
            if clip_of_pair is not None:
                means, places = means[clip_of_pair], places[clip_of_pair]
            likeness = torch.einsum("pme,pe->pm", places, texts)
            weighted.append(self.pooling.weigh(means, likeness))
        return torch.cat(weighted, 1) if weighted else None
