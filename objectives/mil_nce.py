"""MIL-NCE (Miech et al. 2020, arXiv:1912.06430): a clip fits one of the sentences spoken near it, nobody knows which,
and none of those spoken elsewhere. Plain products, no temperature: vectors tell by their length, too.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.errors import UserError, positive
from ssvid.nn.gather import gather_rows
from ssvid.nn.precise import full
from ssvid.nn.sources import enough
from ssvid.objective import Objective
from ssvid.registry import objectives
from ssvid.shapes import Bag, Batch, Loss, Views
from ssvid.text.joint import Joint, chosen_tower


@objectives.register("mil_nce")
class MilNCE(Objective):
    pooled_only = True
    # plain: the double one is never below log 2, which is the half of where two clips begin
    tiny_kwargs = {
        "dim": 8,
        "denominator": "plain",
        "options": {"buckets": 16, "width": 8, "hidden": 16, "length": 6},
    }

    def __init__(
        self,
        encoder: Encoder,
        *,
        dim: int = 512,  # of the space that clips and sentences share
        candidates: int = 4,  # sentences of a clip; the paper's best is 5
        tower: str = "words",  # words | bert | clip
        words: str
        | None = None,  # words: their list, or the dictionary of the published file; null: hashed
        text: str
        | None = None,  # bert, clip: the model's folder; words: a published file to take the tower from
        options: dict[str, Any]
        | None = None,  # more of the tower: length, buckets, hidden, frozen, ...
        denominator: Literal[
            "double", "plain"
        ] = "double",  # double: each positive counts twice, as published
        augment: str = "crop_flip",  # a recipe of ssvid.data.augment
    ) -> None:
        super().__init__()
        positive(dim=dim, candidates=candidates)
        if denominator not in ("double", "plain"):
            raise UserError(f"mil_nce has no denominator {denominator!r}: take double or plain.")
        self.encoder, self.candidates, self.augment = encoder, candidates, augment
        self.twice = denominator == "double"
        self.tower = chosen_tower(tower, words, text, options or {}, dim=dim)
        if self.tower.dim != dim:
            raise UserError(
                f"The text tower of {text} gives {self.tower.dim} numbers: --objective.dim {self.tower.dim}."
            )
        self.head = nn.Linear(encoder.dim, dim)

    @property
    def views(self) -> Views:
        net = self.encoder
        bag = Bag(sentences=self.candidates)
        return Views(clips=(net.spec,), augment=self.augment, text=bag, mean=net.mean, std=net.std)

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def joint_space(self) -> Joint:
        return Joint(self.tower, self.head, cosine=False)

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        enough(data, "mil_nce", batch_size)
        if batch_size < 2:
            raise UserError(
                "--batch_size 1: mil_nce tells a clip's sentences from those of the other clips."
            )

    def forward(self, batch: Batch) -> Loss:
        video = self.head(self.encoder(batch["clips"][:, 0]).pooled)  # B E
        said = in_bags(batch["sentences"])
        texts = self.tower([sentence for bag in said for sentence in bag])  # (B K) E
        # Every process has the loss of the whole batch, and a row's gradient is the sum of what all of them say. The
        # published code keeps each process's own share of it alone, so there more processes mean smaller gradients.
        video, texts = gather_rows(full(video)).rows, gather_rows(full(texts)).rows
        with torch.autocast(
            video.device.type, enabled=False
        ):  # products are large, and exponents sharp
            bags = rearrange(texts, "(B K) E -> B K E", B=len(video))
            loss, right = mil_nce(video, bags, self.twice), found(video.detach(), bags.detach())
        return Loss(loss, {"nce": loss.detach(), "top1": right})


def mil_nce(
    video: Float[Tensor, "B E"], texts: Float[Tensor, "B K E"], twice: bool = True
) -> Float[Tensor, ""]:
    """`twice`: a clip's own sentences count in both halves of what is told apart, so that at best it is log 2."""
    x = torch.einsum("ie,jke->ijk", video, texts)
    own = torch.eye(len(x), dtype=torch.bool, device=x.device)
    rivals = x.transpose(0, 1)  # of clip i's sentences: all clips j
    if not twice:
        rivals = rivals.masked_fill(own[..., None], -torch.inf)
    every = torch.cat([x, rivals], dim=1).flatten(1)  # B 2BK
    return (every.logsumexp(1) - x[own].logsumexp(1)).mean()


def found(video: Float[Tensor, "B E"], texts: Float[Tensor, "B K E"]) -> Float[Tensor, ""]:
    """The share of clips whose best sentence is one of their own."""
    best = torch.einsum("ie,jke->ijk", video, texts).amax(2).argmax(1)
    return (best == torch.arange(len(best), device=best.device)).float().mean()


def in_bags(sentences: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    if len({len(bag) for bag in sentences}) != 1 or not sentences[0]:
        raise UserError("mil_nce takes as many sentences of each clip, at least one.")
    return sentences
