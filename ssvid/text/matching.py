"""How alike are a clip and a sentence, in two stages: BLIP (arXiv:2201.12086), LiteVL (2210.11929).

First cosines of two vectors, as everywhere; then, for the best of these, a text encoder that looks
at the tokens of the clip and says whether the two match.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from ssvid.errors import UserError
from ssvid.nn.bert import Context, Shared
from ssvid.nn.text_pooling import TextPooling
from ssvid.shapes import Features, Pooled
from ssvid.text.blip import BlipText
from ssvid.text.joint import TOKENS, VIDEO, ClipVectors, JointSpace

# Of the contrast, or that of the tokens themselves, which are then as wide on both sides. The paper
# was not to be had, so this is inferred.
GuideSpace = Literal["shared", "hidden"]
FrameTokens = Float[Tensor, "B T N D"]  # the tokens of each frame, its class token first


def join_frame_tokens(features: Features) -> FrameTokens:
    """All tokens that a grounded text looks at. Nets without class tokens have patches alone."""
    patches = rearrange(features.tokens, "B (T N) D -> B T N D", T=features.grid.t)
    if features.cls is None:
        return patches
    return torch.cat([features.cls[:, :, None], patches], 2)


def check_guide_space(guide_space: GuideSpace, pooling: TextPooling, tower: BlipText) -> None:
    """Raise a UserError where patches and hidden states have other widths and are compared."""
    width = tower.bert.context_dim
    if guide_space == "hidden" and pooling.variant != "original" and width != tower.width:
        raise UserError(
            f"Patches {width} wide and words {tower.width} wide cannot be compared as they are: "
            "give both the same width (--objective.options '{width: ...}'), or "
            "--objective.text_pooling original."
        )


class MatchingSpace(JointSpace):
    """`head` maps a clip into the space of sentences; `matcher` says no or yes to a grounded pair.

    `temperature`: a learnt divisor of the cosines. `has_cls`: whether the first token of a frame is
    its class token, which text-dependent pooling leaves out of its means. `guide_space`: where this
    pooling compares patches and sentences.
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
        guide_space: GuideSpace = "shared",
    ) -> None:
        super().__init__()
        check_guide_space(guide_space, pooling, tower)
        self.guide_space = guide_space
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
        logits = self.judge(ids, self.guide(ids, texts), clips[TOKENS])
        cosines = (F.normalize(clips[VIDEO], dim=1) * texts).sum(1)
        return logits[:, 1] + cosines

    def guide(self, ids: Int[Tensor, "P W"], texts: Float[Tensor, "P E"]) -> Float[Tensor, "P G"]:
        """The unit vectors of sentences that say which patches weigh more."""
        if self.guide_space == "shared":
            return texts
        return F.normalize(self.tower.bert(ids)[:, 0], dim=1)

    def judge(
        self,
        ids: Int[Tensor, "P W"],
        guides: Float[Tensor, "P G"],
        tokens: Float[Tensor, "C T N D"],
        clip_of_pair: Int[Tensor, " P"] | None = None,
        shared: Shared | None = None,
    ) -> Float[Tensor, "P 2"]:
        """Logits of no and yes for pairs. `guides`: of the sentences `ids`; `shared`: see there."""
        context = self.make_context(guides, tokens, clip_of_pair, shared)
        return self.matcher(self.tower.ground(ids, context)[:, 0])

    def make_context(
        self,
        guides: Float[Tensor, "P G"],
        tokens: Float[Tensor, "C T N D"],
        clip_of_pair: Int[Tensor, " P"] | None = None,
        shared: Shared | None = None,
    ) -> Context:
        """What the sentence of each pair looks at."""
        patches = tokens[:, :, int(self.has_cls) :]
        project = self.head if self.guide_space == "shared" else nn.Identity()
        further = self.pooling.weigh_means(patches, guides, clip_of_pair, project)
        return Context(tokens.flatten(1, 2), clip_of_pair, shared, further)
