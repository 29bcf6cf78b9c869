"""How alike are a clip and a sentence? Features and sentences -> vectors -> similarities.

An objective on text learns such a space beside its encoder. All that compares clips with sentences
knows the interface JointSpace alone; ssvid.text.joint_files saves and loads every kind.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.errors import UserError
from ssvid.nn.prompts import VideoPrompts
from ssvid.shapes import Features, Grid, Pooled
from ssvid.text.tower import Tower

ClipVectors = dict[str, Tensor]  # what a space keeps of clips, by name; a row for each clip
VIDEO, CONTEXT, TOKENS = "joint", "context", "tokens"


class JointSpace(nn.Module, ABC):
    """Clips and sentences that can be compared.

    `read_clips` and `embed_texts` are done once for each clip and each sentence, and may be stored.
    `compare` takes every pair.
    """

    tower: Tower
    cosine: bool  # similarities are cosines, and not plain products
    # Layers of the encoder whose tokens `read_clips` needs.
    layers: tuple[int, ...] = ()
    # `read_clips` needs the tokens of the last layer, and not the pooled features alone.
    needs_tokens: bool = False
    # `compare` orders pairs as the products of `compute_keys` and `compute_queries` do. Elsewhere
    # these products order them nearly so, which finds candidates.
    is_product: bool = True
    # `match` is there: it orders candidates better than `compare`, by a pass for each pair. It
    # looks at the tokens that `read_clips` returns beside the vectors, as TOKENS.
    can_match: bool = False

    @abstractmethod
    def read_clips(self, features: Features) -> ClipVectors:
        """What is kept of each clip. The features come from `encoder(clip, layers=space.layers)`.

        Vectors of several clips of a video may be averaged before they are compared.
        """

    @abstractmethod
    def embed_texts(self, sentences: Sequence[str]) -> Float[Tensor, "S E"]:
        """A vector for each sentence."""

    @abstractmethod
    def average_texts(self, vectors: Float[Tensor, "P S E"]) -> Float[Tensor, "S E"]:
        """One vector for several wordings of each sentence."""

    @abstractmethod
    def compare(
        self, clips: Mapping[str, Tensor], texts: Float[Tensor, "S E"]
    ) -> Float[Tensor, "B S"]:
        """The similarity of each of B clips with each of S sentences.

        It is scaled as in training: a softmax over sentences gives the trained probabilities.
        """

    def match(self, clips: Mapping[str, Tensor], sentences: Sequence[str]) -> Float[Tensor, " P"]:
        """The score of each of P pairs: of clip i with sentence i.

        Scores of different pairs can be compared. NotImplementedError unless `can_match`.
        """
        raise NotImplementedError(f"a {type(self).__name__} has no second stage")

    def compute_keys(self, clips: Mapping[str, Tensor]) -> Float[Tensor, "B E"]:
        """The vectors of clips whose products with those of `compute_queries` find candidates."""
        return F.normalize(clips[VIDEO], dim=1) if self.cosine else clips[VIDEO]

    def compute_queries(self, texts: Float[Tensor, "S E"]) -> Float[Tensor, "S E"]:
        return F.normalize(texts, dim=1) if self.cosine else texts

    def read_pooled(self, pooled: Pooled) -> ClipVectors:
        """`read_clips` of stored features, which have no tokens.

        A UserError where the space needs tokens.
        """
        if self.layers or self.needs_tokens:
            raise UserError(
                "This text side looks at the tokens of a clip, and stored features are pooled: "
                "name the encoder and the videos instead, or take a text side that needs pooled "
                "features alone, such as CLIP's."
            )
        return self.read_clips(Features(pooled[:, None], pooled, Grid(1, 1, 1)))


class ProductSpace(JointSpace):
    """The similarity is the product of two vectors: of a clip's head and of a sentence's tower.

    `cosine`: the vectors have length 1. `scale`: the logarithm of a learnt factor.
    """

    scale: nn.Parameter | None

    def __init__(
        self, tower: Tower, head: nn.Module, *, cosine: bool, scale: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.tower, self.head, self.cosine = tower, head, cosine
        self.register_parameter("scale", scale)

    def read_clips(self, features: Features) -> ClipVectors:
        return {VIDEO: self.embed_videos(features.pooled)}

    def embed_videos(self, pooled: Pooled) -> Float[Tensor, "B E"]:
        return self._normalise(self.head(pooled))

    def embed_texts(self, sentences: Sequence[str]) -> Float[Tensor, "S E"]:
        return self._normalise(self.tower(sentences))

    def average_texts(self, vectors: Float[Tensor, "P S E"]) -> Float[Tensor, "S E"]:
        return self._normalise(vectors.mean(0))

    def compare(
        self, clips: Mapping[str, Tensor], texts: Float[Tensor, "S E"]
    ) -> Float[Tensor, "B S"]:
        # The average of vectors of length 1 is shorter than 1, so it is normalised again.
        similarity = self._normalise(clips[VIDEO]) @ texts.T
        return similarity if self.scale is None else self.scale.exp() * similarity

    def _normalise(self, x: Float[Tensor, "n E"]) -> Float[Tensor, "n E"]:
        return F.normalize(x, dim=1) if self.cosine else x


class PromptedSpace(JointSpace):
    """The clip changes every sentence before the cosine is taken (X-CLIP, arXiv:2208.02816).

    `layer`: of the encoder whose tokens change the sentences. `scale`: the logarithm of a factor.
    """

    cosine = True
    is_product = False

    def __init__(
        self, tower: Tower, prompts: VideoPrompts, *, layer: int, scale: nn.Parameter
    ) -> None:
        super().__init__()
        self.tower, self.prompts, self.scale = tower, prompts, scale
        self.layers = (layer,)

    def read_clips(self, features: Features) -> ClipVectors:
        context = self.prompts.summarise(features.layers[-1], features.grid.t)
        return {VIDEO: F.normalize(features.pooled, dim=1), CONTEXT: context}

    def embed_texts(self, sentences: Sequence[str]) -> Float[Tensor, "S E"]:
        return self.tower(sentences)

    def average_texts(self, vectors: Float[Tensor, "P S E"]) -> Float[Tensor, "S E"]:
        return vectors.mean(0)

    def compare(
        self, clips: Mapping[str, Tensor], texts: Float[Tensor, "S E"]
    ) -> Float[Tensor, "B S"]:
        context = clips[CONTEXT]
        changed = self.prompts(texts.expand(len(context), -1, -1), context)  # B S E
        video, changed = F.normalize(clips[VIDEO], dim=-1), F.normalize(changed, dim=-1)
        return self.scale.exp() * torch.einsum("be,bse->bs", video, changed)
