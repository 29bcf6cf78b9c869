"""CLIP (Radford et al. 2021, arXiv:2103.00020) on clips: find the sentence of each clip in a batch,
and the clip of each sentence.

A picture is a clip of one frame (`--data images`, `--clip.frames 1`), so the paper's own training
is a special case.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.errors import check_positive
from ssvid.nn.gather import gather_rows
from ssvid.nn.precise import raise_precision
from ssvid.nn.queue import gather_all
from ssvid.nn.sources import check_pairs, find_repeats, number_names
from ssvid.objective import SMALL_BATCH, Objective
from ssvid.registry import objectives
from ssvid.shapes import Batch, Caption, Loss, Views
from ssvid.text.joint import ProductSpace
from ssvid.text.joint_files import choose_text_side
from ssvid.text.sides import Sides, freeze

MAX_SCALE = 100.0  # of similarities, as published


@objectives.register("clip")
class CLIP(Objective):
    """A clip encoder and a text tower in one space, with a learnt temperature."""

    pooled_only = True
    tiny_kwargs = {
        "tower": "words",
        "dim": 8,
        "options": {"buckets": 16, "width": 8, "hidden": 16, "length": 6},
    }

    default_flags = {
        "encoder": {"name": "clip_vit", "width": 128, "depth": 4, "heads": 2, "patch": 8}
        | {"dim": 128, "frames": 4, "size": 64},
        "clip": {},
        **SMALL_BATCH,
    }
    small_settings = {"tower": "words"}  # which needs no vocabulary

    def __init__(
        self,
        encoder: Encoder,
        *,
        # width of the space that clips and sentences share; null: that of the encoder. Where it is
        # another, a linear map leads from the encoder to it.
        dim: int | None = None,
        tower: str = "clip_text",  # the text tower: clip_text | words | bert | clip
        # clip_text: its vocabulary; words: a word list; null: that of an installed open_clip
        words: str | None = None,
        # a run or a published file whose text tower to load; bert, clip: the folder of the model
        text: str | None = None,
        # further arguments of the text tower: letters, layers, width, heads, length, ...
        options: dict[str, Any] | None = None,
        train: Sides = "both",  # the sides that learn
        temperature: float = 0.07,  # of the softmax, at the start; a loaded text side has its own
        # other clips with the same sentence: negatives, as published, or positives
        equal_sentences: Literal["negatives", "positives"] = "negatives",
        augment: str = "resized_flip",  # a recipe of ssvid.data.augment
    ) -> None:
        super().__init__()
        check_positive(dim=dim, temperature=temperature)
        self.encoder, self.augment = encoder, augment
        self.shares_sentences = equal_sentences == "positives"
        side = choose_text_side(tower, words, text, options or {}, dim=dim or encoder.dim)
        self.tower, scale = side.tower, side.scale
        self.head = make_head(encoder.dim, self.tower.dim)
        start = torch.tensor(-math.log(temperature)) if scale is None else scale
        self.scale = nn.Parameter(start.clone())
        if train == "text":
            freeze(self.encoder)
        if train == "video":
            freeze(self.tower)

    @property
    def views(self) -> Views:
        net = self.encoder
        return Views(
            clips=(net.spec,), augment=self.augment, text=Caption(), mean=net.mean, std=net.std
        )

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def joint_space(self) -> ProductSpace:
        return ProductSpace(self.tower, self.head, cosine=True, scale=self.scale)

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        """Raise a UserError if a clip would have no negatives, or itself as a negative."""
        check_pairs(data, "clip", batch_size)

    def forward(self, batch: Batch) -> Loss:
        video = self.head(self.encoder(batch["clips"][:, 0]).pooled)  # B E
        sentences = [bag[0] for bag in batch["sentences"]]
        texts = self.tower(sentences)  # B E
        # Every process computes the loss of the whole batch, and the gradient of a row is the sum
        # of what all processes contribute.
        video = gather_rows(F.normalize(raise_precision(video), dim=1)).rows
        texts = gather_rows(F.normalize(raise_precision(texts), dim=1)).rows
        with torch.autocast(video.device.type, enabled=False):
            logits = self.scale.exp() * video @ texts.T
            repeats = find_repeats(batch["index"].to(video.device))
            positives = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
            if self.shares_sentences:
                numbers = gather_all(number_names(sentences, video.device))
                positives = numbers[:, None] == numbers
            loss = contrast(logits, positives, repeats & ~positives)
        top1 = positives.gather(1, logits.detach().argmax(1, keepdim=True)).double().mean()
        return Loss(loss, {"nce": loss.detach(), "top1": top1, "scale": self.scale.exp().detach()})

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.scale.clamp_(max=math.log(MAX_SCALE))


def contrast(
    logits: Float[Tensor, "B B"], positives: Bool[Tensor, "B B"], ignored: Bool[Tensor, "B B"]
) -> Float[Tensor, ""]:
    """The mean cross-entropy of clips over sentences and of sentences over clips.

    `positives`: the pairs that belong together, all with the same weight. `ignored`: pairs that
    are neither positives nor negatives.
    """
    logits = logits.masked_fill(ignored, -torch.inf)
    both = []
    for side, targets in ((logits, positives), (logits.T, positives.T)):
        log_prob = torch.where(targets, side.log_softmax(1), 0.0)
        both.append(-(log_prob.sum(1) / targets.sum(1)).mean())
    return (both[0] + both[1]) / 2


def make_head(width: int, dim: int) -> nn.Module:
    """A linear map into the space of sentences; none where the widths agree."""
    return nn.Identity() if width == dim else nn.Linear(width, dim, bias=False)
