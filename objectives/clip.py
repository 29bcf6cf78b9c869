"""CLIP (Radford et al. 2021, arXiv:2103.00020) on clips: find the sentence of each clip in a batch,
and the clip of each sentence.

A picture is a clip of one frame (`--data images`, `--clip.frames 1`), so the paper's own training
is a special case.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.errors import check_positive
from ssvid.nn.contrast import contrast_pairs
from ssvid.nn.precise import raise_precision
from ssvid.nn.sources import check_pairs, number_names
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
        return self.encoder.make_views(self.augment, text=Caption())

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
        video = F.normalize(raise_precision(video), dim=1)
        texts = F.normalize(raise_precision(texts), dim=1)
        names = number_names(sentences, video.device) if self.shares_sentences else None
        with torch.autocast(video.device.type, enabled=False):
            contrast = contrast_pairs(video, texts, self.scale.exp(), batch["index"], names)
        loss, scale = contrast.loss, self.scale.exp().detach()
        return Loss(loss, {"nce": loss.detach(), "top1": contrast.top1, "scale": scale})

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.scale.clamp_(max=math.log(MAX_SCALE))


def make_head(width: int, dim: int) -> nn.Module:
    """A linear map into the space of sentences; none where the widths agree."""
    return nn.Identity() if width == dim else nn.Linear(width, dim, bias=False)
