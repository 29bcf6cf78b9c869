"""MIL-NCE (Miech et al. 2020, arXiv:1912.06430): learn from narration that is only roughly aligned.

The positives of a clip are all sentences spoken near it, because it is unknown which one fits. All
other sentences are negatives. Similarities are plain products without a temperature, so the length
of a vector matters too.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.errors import UserError, check_positive
from ssvid.nn.gather import gather_rows
from ssvid.nn.precise import raise_precision
from ssvid.nn.sources import check_pairs, find_repeats
from ssvid.objective import Objective
from ssvid.registry import objectives
from ssvid.shapes import Bag, Batch, Loss, Views
from ssvid.text.joint import ProductSpace
from ssvid.text.joint_files import choose_tower


@objectives.register("mil_nce")
class MilNCE(Objective):
    """A clip encoder and a text tower in one space."""

    pooled_only = True
    # The double denominator cannot go below log 2, half of the first loss of two clips, so that a
    # test could not see it learn.
    tiny_kwargs = {
        "dim": 8,
        "denominator": "plain",
        "options": {"buckets": 16, "width": 8, "hidden": 16, "length": 6},
    }

    preset_flags = {
        "one_gpu": {  # as in the authors' training code
            "encoder": {"name": "s3dg", "stem": "plain", "frames": 16, "size": 224},
            "clip": {"fps": 5},
            "optimizer": "adam",
            "betas": [0.9, 0.999],
            "weight_decay": 0.0,
            "lr": 1e-3,
            "lr_batch": None,
            "epochs": 300,
        },
    }

    def __init__(
        self,
        encoder: Encoder,
        *,
        dim: int = 512,  # width of the space that clips and sentences share
        candidates: int = 4,  # sentences of a clip; 5 is best in the paper
        tower: str = "words",  # the text tower: words | bert | clip
        # words: a word list or the dictionary of a published file; null: words are hashed
        words: str | None = None,
        # bert, clip: the folder of the model; words: a published file whose tower to load
        text: str | None = None,
        # further arguments of the text tower: length, buckets, hidden, frozen, ...
        options: dict[str, Any] | None = None,
        # double: positives count twice in the denominator, as published
        denominator: Literal["double", "plain"] = "double",
        augment: str = "crop_flip",  # a recipe of ssvid.data.augment
    ) -> None:
        super().__init__()
        check_positive(dim=dim, candidates=candidates)
        if denominator not in ("double", "plain"):
            raise UserError(f"mil_nce has no denominator {denominator!r}: take double or plain.")
        self.encoder, self.candidates, self.augment = encoder, candidates, augment
        self.count_positives_twice = denominator == "double"
        self.tower = choose_tower(tower, words, text, options or {}, dim=dim)
        if self.tower.dim != dim:
            raise UserError(
                f"The text tower of {text} gives {self.tower.dim} numbers: --objective.dim "
                f"{self.tower.dim}."
            )
        self.head = nn.Linear(encoder.dim, dim)

    @property
    def views(self) -> Views:
        return self.encoder.make_views(self.augment, text=Bag(sentences=self.candidates))

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def joint_space(self) -> ProductSpace:
        return ProductSpace(self.tower, self.head, cosine=False)

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        """Raise a UserError if a clip would have no negatives, or its own sentences as negatives.

        So there are two films or more, a batch holds two clips or more, and no video twice.
        """
        check_pairs(data, "mil_nce", batch_size)

    def forward(self, batch: Batch) -> Loss:
        video = self.head(self.encoder(batch["clips"][:, 0]).pooled)  # B E
        texts = self.tower(flatten_bags(batch["sentences"]))  # (B K) E
        # Every process computes the loss of the whole batch, and the gradient of a row is the sum
        # of what all processes contribute. The published code keeps only each process's own share,
        # so there more processes mean smaller gradients.
        video, texts = (
            gather_rows(raise_precision(video)).rows,
            gather_rows(raise_precision(texts)).rows,
        )
        # The products are too large for the precision of bf16.
        with torch.autocast(video.device.type, enabled=False):
            bags = rearrange(texts, "(B K) E -> B K E", B=len(video))
            repeats = find_repeats(batch["index"].to(video.device))
            loss = mil_nce(video, bags, self.count_positives_twice, repeats)
            top1 = retrieval_top1(video.detach(), bags.detach())
        return Loss(loss, {"nce": loss.detach(), "top1": top1})


def mil_nce(
    video: Float[Tensor, "B E"],
    texts: Float[Tensor, "B K E"],
    count_positives_twice: bool = True,
    repeats: Bool[Tensor, "B B"] | None = None,
) -> Float[Tensor, ""]:
    """The MIL-NCE loss of B clips with K sentences each.

    `repeats`: pairs of clips of one video, which are no negatives of each other.
    The denominator sums over all sentences of a clip and over all clips of its sentences. The
    positives are in both sums. If they count twice, the loss cannot go below log 2.
    """
    x = torch.einsum("ie,jke->ijk", video, texts)
    if repeats is not None:
        x = x.masked_fill(repeats[..., None], -torch.inf)
    positives = torch.eye(len(x), dtype=torch.bool, device=x.device)
    clips_of_sentence = x.transpose(0, 1)  # for the sentences of clip i: all clips j
    if not count_positives_twice:
        clips_of_sentence = clips_of_sentence.masked_fill(positives[..., None], -torch.inf)
    denominator = torch.cat([x, clips_of_sentence], dim=1).flatten(1)  # B 2BK
    return (denominator.logsumexp(1) - x[positives].logsumexp(1)).mean()


def retrieval_top1(video: Float[Tensor, "B E"], texts: Float[Tensor, "B K E"]) -> Float[Tensor, ""]:
    """The fraction of clips whose best sentence is one of their own."""
    best = torch.einsum("ie,jke->ijk", video, texts).amax(2).argmax(1)
    return (best == torch.arange(len(best), device=best.device)).float().mean()


def flatten_bags(bags: Sequence[Sequence[str]]) -> list[str]:
    """The sentences of all clips in one list. A UserError if the clips have different numbers."""
    if len({len(bag) for bag in bags}) != 1 or not bags[0]:
        raise UserError("mil_nce needs the same number of sentences for each clip, at least one.")
    return list(itertools.chain.from_iterable(bags))
