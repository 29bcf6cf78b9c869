"""Stage 1 of VideoPrism (Zhao et al. 2024, arXiv:2402.13217): the contrast of clips and sentences.

A pooler looks at the visible tokens of a clip, half of which are dropped in tubes, and the result
is compared with the sentence. With `train: text` the encoder is frozen, and the pooler and the text
side learn: LiT (arXiv:2111.07991), which follows the second stage.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.errors import UserError, check_positive, check_range
from ssvid.nn.contrast import contrast_pairs
from ssvid.nn.masks import Mask
from ssvid.nn.patches import check_divisible
from ssvid.nn.precise import raise_precision
from ssvid.nn.prism import AttentionPooler, choose_heads
from ssvid.nn.sources import check_pairs, number_names
from ssvid.objective import SMALL_BATCH, Objective, require
from ssvid.registry import objectives
from ssvid.shapes import Batch, Caption, Loss, Tokens, Views
from ssvid.text.joint_files import choose_text_side
from ssvid.text.pooled import PooledSpace, make_auxiliary
from ssvid.text.sides import Sides, freeze

MAX_SCALE = 100.0  # of similarities, as in CLIP; the paper does not state one


@objectives.register("video_text")
class VideoText(Objective):
    """An encoder with an attention pooler and a text tower in one space.

    The released model has `auxiliary: 2` blocks before the pooler, of which the paper does not
    speak. The learnt temperature is inferred (as in CoCa): the paper does not state it.
    """

    tiny_kwargs = {
        "tower": "words",
        "heads": 2,
        "hidden": 16,
        "options": {"buckets": 16, "width": 8, "hidden": 16, "length": 6},
    }
    default_flags = {
        "encoder": {"name": "videoprism_tiny"},
        "clip": {},
        **SMALL_BATCH,
    }
    small_settings = {"tower": "words"}  # which needs no vocabulary

    def __init__(
        self,
        encoder: Encoder,
        *,
        tower: str = "videoprism_text",  # videoprism_text | clip_text | words | bert | clip
        # videoprism_text: its model of SentencePiece; clip_text: its vocabulary; words: a word list
        words: str | None = None,
        # a run or a published file whose text side to load, with its pooler if it has one; bert,
        # clip: the folder of the model
        text: str | None = None,
        # further arguments of the text tower: letters, layers, heads, hidden, length, ...
        options: dict[str, Any] | None = None,
        train: Sides = "both",  # the sides that learn; text: LiT, with the pooler
        # of the pooler and of the auxiliary blocks; null: 12, or what divides the width instead
        heads: int | None = None,
        hidden: int | None = None,  # width of all heads of the pooler; null: four times the encoder
        auxiliary: int = 0,  # blocks between encoder and pooler, over the tokens of the whole clip
        drop_ratio: float = 0.5,  # fraction of positions whose tokens are dropped, in training
        temperature: float = 0.07,  # of the softmax, at the start; a loaded text side has its own
        # other clips with the same sentence: negatives, as published, or positives
        equal_sentences: Literal["negatives", "positives"] = "negatives",
        chunk: int = 1024,  # clips whose similarities are held at a time
        augment: str = "resized_flip",  # a recipe of ssvid.data.augment; not stated
    ) -> None:
        super().__init__()
        check_positive(temperature=temperature, chunk=chunk)
        check_range(0, 64, auxiliary=auxiliary)
        check_positive(heads=heads)
        heads = heads or choose_heads(encoder.dim)
        self.encoder, self.augment, self.chunk = encoder, augment, chunk
        self.shares_sentences = equal_sentences == "positives"
        self.is_frozen = train == "text"
        self.mask: Mask | None = None
        if drop_ratio and not self.is_frozen:
            require("video_text with drop_ratio", encoder, can_skip=True)
            check_divisible("video_text", encoder, encoder.spec.frames, encoder.spec.size)
            grid = encoder.spec_grid()
            self.mask = Mask("video_text", "drop_ratio", "tube", drop_ratio, grid)
        side = choose_text_side(tower, words, text, options or {}, dim=encoder.dim)
        self.tower = side.tower
        if side.pooled is None:
            self.pooler = AttentionPooler(
                encoder.dim, heads, hidden=hidden, query_dim=self.tower.dim
            )
            self.auxiliary = make_auxiliary(auxiliary, encoder.dim, heads, 4 * encoder.dim)
        else:
            self.pooler, self.auxiliary = side.pooled.pooler, side.pooled.auxiliary
            check_width(str(text), self.pooler, encoder)
        start = torch.tensor(-math.log(temperature)) if side.scale is None else side.scale
        self.scale = nn.Parameter(start.clone())
        if self.is_frozen:
            freeze(self.encoder)
        if train == "video":
            freeze(self.tower)

    @property
    def views(self) -> Views:
        return self.encoder.make_views(self.augment, text=Caption())

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def joint_space(self) -> PooledSpace:
        return PooledSpace(self.tower, self.pooler, self.auxiliary, scale=self.scale)

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        """Raise a UserError if a clip would have no negatives, or itself as a negative."""
        check_pairs(data, "video_text", batch_size)

    def forward(self, batch: Batch) -> Loss:
        video = self.joint_space().pool(self.encode_visible(batch))  # B E
        sentences = [bag[0] for bag in batch["sentences"]]
        texts = F.normalize(raise_precision(self.tower(sentences)), dim=1)  # B E
        video = F.normalize(raise_precision(video), dim=1)
        names = number_names(sentences, video.device) if self.shares_sentences else None
        with torch.autocast(video.device.type, enabled=False):
            scale = self.scale.exp()
            contrast = contrast_pairs(video, texts, scale, batch["index"], names, self.chunk)
        loss = contrast.loss
        return Loss(loss, {"nce": loss.detach(), "top1": contrast.top1, "scale": scale.detach()})

    def encode_visible(self, batch: Batch) -> Tokens:
        """The tokens of the clips that are not dropped; all where the encoder is frozen."""
        clips = batch["clips"][:, 0]
        if self.is_frozen:
            with torch.no_grad():
                return self.encoder(clips).tokens
        visible = None
        if self.mask is not None:
            visible, _ = self.mask(batch, self.encoder.grid(*clips.shape[2:]))
        return self.encoder(clips, visible).tokens

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.scale.clamp_(max=math.log(MAX_SCALE))


def check_width(text: str, pooler: AttentionPooler, encoder: Encoder) -> None:
    """Raise a UserError if a loaded pooler looks at tokens of another width."""
    width = pooler.k.in_features
    if width != encoder.dim:
        raise UserError(
            f"The pooler of {text} looks at tokens of width {width}, and those of {encoder.name} "
            f"have {encoder.dim}: start it with an encoder of that width."
        )
