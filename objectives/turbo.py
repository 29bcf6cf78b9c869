"""Turbo (Han et al. 2022, arXiv:2210.04889): train on a few tokens of a clip and predict some
others.

The features of the visible tokens may also serve a task (labels or sentences). Only some of the
dropped tokens are predicted; the others cost nothing.
"""

import math
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.errors import UserError, check_positive, check_range
from ssvid.nn.gather import gather_rows
from ssvid.nn.heads import classifier
from ssvid.nn.masks import Kind, Mask, choose_some, draw_for_clips
from ssvid.nn.patches import check_divisible
from ssvid.nn.pixels import SMALL_DECODER, Pixels
from ssvid.nn.precise import raise_precision
from ssvid.nn.sources import check_pairs, find_repeats
from ssvid.objective import Objective, require
from ssvid.registry import objectives
from ssvid.shapes import Bag, Batch, Dropped, Grid, Index, Loss, Pooled, Views, take_first_sample
from ssvid.text.joint import ProductSpace
from ssvid.text.joint_files import choose_tower
from ssvid.text.tower import Tower

Scalar = Float[Tensor, ""]


@objectives.register("partial_mae")
class PartialMAE(Objective):
    """The loss `task_weight` * task + `rec_weight` * reconstruction of the encoder's visible
    tokens.
    """

    tiny_kwargs = {
        "drop_ratio": 0.5,
        "predict_ratio": 0.25,
        "dec_dim": 16,
        "dec_depth": 1,
        "dec_heads": 2,
    }
    preset_flags = {
        "laptop": {
            "objective": {"drop_ratio": 0.75, **SMALL_DECODER},
            "encoder": {"name": "vit", "positions": "sincos3d"},
            "lr": 3e-3,
            "steps": 300,
        },
        "one_gpu": {"encoder": {"name": "vit_base"}},  # 16 frames of 224 pixels
    }

    def __init__(
        self,
        encoder: Encoder,
        *,
        drop_ratio: float = 0.9,  # fraction of all tokens that the encoder never sees
        predict_ratio: float = 0.25,  # fraction of all tokens that are dropped and predicted
        mask: Kind = "random",  # how tokens are dropped
        # what is learnt besides the pixels
        task: Literal["none", "classification", "video_text", "long_video"] = "none",
        task_weight: float = 1.0,  # weight of the task's loss
        rec_weight: float = 1.0,  # weight of the reconstruction (lambda); 0: no decoder
        classes: int | None = None,  # classification, long_video: number of classes of the data
        smoothing: float = 0.0,  # classification, long_video: label smoothing
        dim: int = 256,  # video_text: width of the space that clips and sentences share
        temperature: float = 0.07,  # video_text: of the softmax
        tower: str = "words",  # video_text: the text tower: words | bert | clip
        # words: a word list or the dictionary of a published file; null: words are hashed
        words: str | None = None,
        # bert, clip: the folder of the model; words: a published file whose tower to load
        text: str | None = None,
        options: dict[str, Any] | None = None,  # further arguments of the text tower
        augment: str = "resized_flip",  # a recipe of ssvid.data.augment
        repeat: int = 1,  # clips of each video in a batch
        dec_dim: int = 192,  # width of the decoder; VideoMAE-B: 384
        dec_depth: int = 2,  # blocks of the decoder; VideoMAE-B: 4
        dec_heads: int = 3,  # attention heads of the decoder; VideoMAE-B: 6
        **decoder: Any,
    ) -> None:
        super().__init__()
        check_positive(repeat=repeat)
        weights = {"objective.task_weight": task_weight, "objective.rec_weight": rec_weight}
        check_range(0, math.inf, **weights)
        self.encoder = require("partial_mae", encoder, can_skip=True)
        check_divisible("partial_mae", encoder, encoder.spec.frames, encoder.spec.size)
        self.task_weight, self.rec_weight = task_weight, rec_weight
        self.augment, self.repeat = augment, repeat
        grid = encoder.spec_grid()
        self.drop_ratio, self.predict_ratio = exact_ratios(drop_ratio, predict_ratio, grid)
        self.mask = None
        if drop_ratio:
            self.mask = Mask("partial_mae", "drop_ratio", mask, drop_ratio, grid)
        decoder |= {"dec_dim": dec_dim, "dec_depth": dec_depth, "dec_heads": dec_heads}
        self.pixels = Pixels(encoder, **decoder) if predict_ratio and rec_weight else None
        self.task: Labels | Sentences | None = None
        self.whole_video = task == "long_video"
        if task == "video_text":
            text_tower = choose_tower(tower, words, text, options or {}, dim=dim)
            self.task = Sentences(encoder.dim, text_tower, temperature, repeat)
        elif task != "none":
            self.task = Labels(encoder.dim, task, classes, smoothing)
        elif self.pixels is None:
            raise UserError(
                "partial_mae without a task reconstructs: give predict_ratio and rec_weight more "
                "than 0, or a task."
            )
        if self.whole_video:
            encoder.spec = replace(encoder.spec, whole=True, fps=None, stride=None)

    @property
    def views(self) -> Views:
        text = Bag(sentences=1) if isinstance(self.task, Sentences) else None
        return self.encoder.make_views(self.augment, self.repeat, text=text)

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def joint_space(self) -> ProductSpace | None:
        return self.task.joint_space() if isinstance(self.task, Sentences) else None

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        if self.whole_video and not all(spec.whole for spec in views.clips):
            raise UserError(
                "The task long_video spreads its frames over the whole video: leave out "
                "--clip.stride and --clip.fps, or take the task classification."
            )
        if self.task is not None:
            self.task.check_data(data, batch_size)

    def forward(self, batch: Batch) -> Loss:
        clip = rearrange(batch["clips"], "B V C T H W -> (B V) C T H W")
        visible, hidden = self.draw_masks(batch, self.encoder.grid(*clip.shape[2:]))
        tokens, pooled, grid, *_ = self.encoder(clip, visible)  # B K D, B D
        terms: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        if self.task is not None:
            loss, top1 = self.task(pooled, batch)
            terms.append(weigh(self.task_weight, loss))
            parts |= {"task": loss.detach(), "top1": top1}
        # With a decoder there is a mask, so visible and hidden are not None either.
        if self.pixels is not None and visible is not None and hidden is not None:
            pred = self.pixels(tokens, visible, hidden, grid)  # B M P
            loss = self.pixels.loss(clip, pred, hidden)
            terms.append(weigh(self.rec_weight, loss))
            parts["mse"] = loss.detach()
        return Loss(sum(terms[1:], terms[0]), parts)

    def draw_masks(self, batch: Batch, grid: Grid) -> tuple[Index | None, Dropped | None]:
        """The tokens that the encoder sees (None: all) and those that are predicted (None: none).

        The predicted tokens are drawn from the dropped ones.
        """
        if self.mask is None:
            return None, None
        visible, dropped = self.mask(batch, grid)
        if self.pixels is None:
            return visible, None
        count = dropped.shape[1]
        if self.predict_ratio != self.drop_ratio:
            count = min(count, int(self.predict_ratio * grid.n))
        return visible, choose_some(partial(draw_for_clips, batch, "part"), dropped, count)

    @torch.no_grad()
    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """The first clip in four rows: the clip, what the encoder sees, the prediction, and its
        error.

        Gray tokens are neither seen nor predicted. If the targets are normalised, a predicted token
        gets its true mean and contrast.
        """
        if self.pixels is None or self.mask is None:
            return {}
        first = take_first_sample(batch, self.repeat)
        clip = rearrange(first["clips"], "B V C T H W -> (B V) C T H W")
        visible, hidden = self.draw_masks(first, self.encoder.grid(*clip.shape[2:]))
        assert visible is not None and hidden is not None  # because there is a mask
        _, dropped = self.mask(first, self.encoder.grid(*clip.shape[2:]))
        tokens, _, grid, *_ = self.encoder(clip, visible)
        pred = self.pixels(tokens, visible, hidden, grid)
        return {"reconstruction": self.pixels.draw(clip, pred, hidden, dropped, grid)}


class Labels(nn.Module):
    """The tasks classification and long_video: the class of a clip, or of the whole video."""

    def __init__(self, dim: int, task: str, classes: int | None, smoothing: float) -> None:
        super().__init__()
        if classes is None:
            raise UserError(
                f"partial_mae with the task {task} needs --objective.classes, the number of "
                "classes of the data."
            )
        check_positive(classes=classes)
        check_range(0, 1, smoothing=smoothing)
        self.classes, self.smoothing = classes, smoothing
        self.head = classifier(dim, classes)

    def check_data(self, data: Manifest, batch_size: int) -> None:
        """Raise a UserError if a clip has no label, or the number of classes is wrong."""
        unlabelled = [row.path for row in data.rows if row.label is None]
        if unlabelled:
            raise UserError(
                f"{len(unlabelled)} of {len(data)} training clips of {data.title} have no label, "
                f"first {unlabelled[0]}: the task needs one of each."
            )
        if len(data.classes) != self.classes:
            raise UserError(
                f"--objective.classes {self.classes}, but {data.title} has {len(data.classes)}: "
                f"give --objective.classes {len(data.classes)}."
            )

    def forward(self, pooled: Pooled, batch: Batch) -> tuple[Scalar, Scalar]:
        """The loss and the top-1 accuracy."""
        labels = batch["label"].to(pooled.device)
        # The clips of a sample are neighbours.
        labels = labels.repeat_interleave(len(pooled) // len(labels))
        logits = raise_precision(self.head(pooled))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        return loss, (logits.detach().argmax(-1) == labels).float().mean()


class Sentences(nn.Module):
    """The task video_text: symmetric InfoNCE between clips and their sentences."""

    def __init__(self, dim: int, tower: Tower, temperature: float, repeat: int) -> None:
        super().__init__()
        check_positive(temperature=temperature)
        if repeat > 1:
            raise UserError(
                f"--objective.repeat {repeat}: video_text has one clip for each sentence."
            )
        self.tower, self.temperature = tower, temperature
        self.head = nn.Linear(dim, tower.dim)

    def joint_space(self) -> ProductSpace:
        return ProductSpace(self.tower, self.head, cosine=True)

    def check_data(self, data: Manifest, batch_size: int) -> None:
        """Raise a UserError if a batch would have no negatives."""
        check_pairs(data, "partial_mae", batch_size)

    def forward(self, pooled: Pooled, batch: Batch) -> tuple[Scalar, Scalar]:
        """The loss and the top-1 accuracy of choosing a clip's sentence."""
        video = self.head(pooled)  # B E
        texts = self.tower([bag[0] for bag in batch["sentences"]])  # B E
        # Every process computes the loss of the whole batch. The gradient of a row is the sum of
        # what all processes contribute to it.
        video = gather_rows(F.normalize(raise_precision(video), dim=-1)).rows
        texts = gather_rows(F.normalize(raise_precision(texts), dim=-1)).rows
        repeats = find_repeats(batch["index"].to(video.device))
        with torch.autocast(video.device.type, enabled=False):
            logits = video @ texts.T / self.temperature
            logits = logits.masked_fill(repeats, -torch.inf)  # they are no negatives
        target = torch.arange(len(logits), device=logits.device)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return loss, (logits.detach().argmax(1) == target).float().mean()


def weigh(weight: float, loss: Scalar) -> Scalar:
    """weight * loss. With a weight of 1 it is the loss itself.

    torch.compile would replace a product with 1 by the loss, and then confuse it with the detached
    loss.
    """
    return loss if weight == 1 else weight * loss


def exact_ratios(drop_ratio: float, predict_ratio: float, grid: Grid) -> tuple[Fraction, Fraction]:
    """The ratios as the user wrote them, so that 0.29 of 100 tokens are 29.

    A UserError if impossible.
    """
    for name, ratio in (("drop_ratio", drop_ratio), ("predict_ratio", predict_ratio)):
        if not 0 <= ratio < 1:
            raise UserError(
                f"--objective.{name} {ratio} is a share of the tokens: at least 0 and less than 1."
            )
    if predict_ratio > drop_ratio:
        raise UserError(
            f"--objective.predict_ratio {predict_ratio} is more than --objective.drop_ratio "
            f"{drop_ratio}: only dropped tokens can be predicted."
        )
    exact = Fraction(str(drop_ratio)), Fraction(str(predict_ratio))
    if predict_ratio and not int(exact[1] * grid.n):
        least = math.ceil(1e4 / grid.n) / 1e4
        raise UserError(
            f"--objective.predict_ratio {predict_ratio} predicts none of {grid.n} tokens: give "
            f"{least:g} or more, or 0."
        )
    return exact
