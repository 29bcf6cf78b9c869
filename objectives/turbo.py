"""Turbo (Han et al. 2022, arXiv:2210.04889): train on a few tokens of a clip, and predict a part of the rest.

What the encoder makes of the visible tokens also serves a task (labels or sentences). Only a part of
what was dropped is predicted, and the rest of it costs nothing at all.
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
from ssvid.errors import UserError, positive, within
from ssvid.nn.gather import gather_rows
from ssvid.nn.heads import classifier
from ssvid.nn.masks import Kind, Mask, drawn, some_of
from ssvid.nn.patches import divides
from ssvid.nn.pixels import Pixels
from ssvid.nn.precise import full
from ssvid.nn.sources import enough
from ssvid.objective import Objective, require
from ssvid.registry import objectives
from ssvid.shapes import Bag, Batch, Dropped, Grid, Index, Loss, Pooled, Views, first_sample
from ssvid.text.joint import Joint, chosen_tower
from ssvid.text.tower import Tower

Scalar = Float[Tensor, ""]


@objectives.register("partial_mae")
class PartialMAE(Objective):
    """`task_weight` * task + `rec_weight` * reconstruction, of one pass of the encoder over what it keeps."""

    tiny_kwargs = {
        "drop_ratio": 0.5,
        "predict_ratio": 0.25,
        "dec_dim": 16,
        "dec_depth": 1,
        "dec_heads": 2,
    }

    def __init__(
        self,
        encoder: Encoder,
        *,
        drop_ratio: float = 0.9,  # of all tokens: the encoder never sees them
        predict_ratio: float = 0.25,  # of all tokens: dropped ones that the decoder predicts
        mask: Kind = "random",  # of the dropped ones
        task: Literal[
            "none", "classification", "video_text", "long_video"
        ] = "none",  # what is learnt beside the pixels
        task_weight: float = 1.0,  # beside rec_weight
        rec_weight: float = 1.0,  # lambda; 0: no decoder
        classes: int | None = None,  # classification, long_video: how many the data has
        smoothing: float = 0.0,  # of their labels
        dim: int = 256,  # video_text: of the space that clips and sentences share
        temperature: float = 0.07,  # video_text
        tower: str = "words",  # video_text: words | bert | clip
        words: str
        | None = None,  # words: their list, or the dictionary of a published file; null: hashed
        text: str
        | None = None,  # bert, clip: the model's folder; words: a published file to take the tower from
        options: dict[str, Any] | None = None,  # more of the tower
        augment: str = "resized_flip",  # a recipe of ssvid.data.augment
        repeat: int = 1,  # clips of each video in a batch
        dec_dim: int = 192,  # VideoMAE-B: 384
        dec_depth: int = 2,  # VideoMAE-B: 4
        dec_heads: int = 3,  # VideoMAE-B: 6
        **decoder: Any,
    ) -> None:
        super().__init__()
        positive(repeat=repeat)
        within(
            0,
            math.inf,
            **{"objective.task_weight": task_weight, "objective.rec_weight": rec_weight},
        )
        self.encoder = require("partial_mae", encoder, can_skip=True)
        divides("partial_mae", encoder, encoder.spec.frames, encoder.spec.size)
        self.task_weight, self.rec_weight = task_weight, rec_weight
        self.augment, self.repeat = augment, repeat
        self.drop_ratio, self.predict_ratio = exact_ratios(
            drop_ratio, predict_ratio, encoder.spec_grid()
        )
        self.mask = (
            Mask("partial_mae", "drop_ratio", mask, drop_ratio, encoder.spec_grid())
            if drop_ratio
            else None
        )
        decoder |= {"dec_dim": dec_dim, "dec_depth": dec_depth, "dec_heads": dec_heads}
        self.pixels = Pixels(encoder, **decoder) if predict_ratio and rec_weight else None
        self.task: Labels | Sentences | None = None
        self.long = task == "long_video"
        if task == "video_text":
            if repeat > 1:
                raise UserError(
                    f"--objective.repeat {repeat}: video_text has one clip beside a sentence."
                )
            side = chosen_tower(tower, words, text, options or {}, dim=dim)
            self.task = Sentences(encoder.dim, side, temperature)
        elif task != "none":
            self.task = Labels(encoder.dim, task, classes, smoothing)
        elif self.pixels is None:
            raise UserError(
                "partial_mae without a task reconstructs: give predict_ratio and rec_weight more than 0, or a task."
            )
        if self.long:
            encoder.spec = replace(encoder.spec, whole=True, fps=None, stride=None)

    @property
    def views(self) -> Views:
        net, text = self.encoder, Bag(sentences=1) if isinstance(self.task, Sentences) else None
        clips = (net.spec,) * self.repeat
        return Views(clips=clips, augment=self.augment, text=text, mean=net.mean, std=net.std)

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def joint_space(self) -> Joint | None:
        return self.task.joint_space() if isinstance(self.task, Sentences) else None

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        if self.long and not all(spec.whole for spec in views.clips):
            raise UserError(
                "The task long_video spreads its frames over the whole video: leave out --clip.stride and --clip.fps, "
                "or take the task classification."
            )
        if self.task is not None:
            self.task.check_data(data, batch_size)

    def forward(self, batch: Batch) -> Loss:
        clip = rearrange(batch["clips"], "B V C T H W -> (B V) C T H W")
        visible, hidden = self.masks(batch, self.encoder.grid(*clip.shape[2:]))
        seen, pooled, grid, _ = self.encoder(clip, visible)  # B K D, B D
        terms: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        if self.task is not None:
            loss, right = self.task(pooled, batch)
            terms.append(weighed(self.task_weight, loss))
            parts |= {"task": loss.detach(), "top1": right}
        if (
            self.pixels is not None and visible is not None and hidden is not None
        ):  # the first says it all
            pred = self.pixels(seen, visible, hidden, grid)  # B M P
            loss = self.pixels.loss(clip, pred, hidden)
            terms.append(weighed(self.rec_weight, loss))
            parts["mse"] = loss.detach()
        return Loss(sum(terms[1:], terms[0]), parts)

    def masks(self, batch: Batch, grid: Grid) -> tuple[Index | None, Dropped | None]:
        """What the encoder sees (None: all), and what is predicted (None: nothing): some of the rest, by lot."""
        if self.mask is None:
            return None, None
        visible, dropped = self.mask(batch, grid)
        if self.pixels is None:
            return visible, None
        wanted = (
            dropped.shape[1]
            if self.predict_ratio == self.drop_ratio
            else int(self.predict_ratio * grid.n)
        )
        return visible, some_of(
            partial(drawn, batch, "part"), dropped, min(wanted, dropped.shape[1])
        )

    @torch.no_grad()
    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """The first clip in four rows: as it is; as the encoder sees it; with the part that is predicted (where targets
        are whitened, each token with its true mean and contrast); and the error. Gray: neither seen nor predicted."""
        if self.pixels is None or self.mask is None:
            return {}
        first = first_sample(batch, self.repeat)
        clip = rearrange(first["clips"], "B V C T H W -> (B V) C T H W")
        visible, hidden = self.masks(first, self.encoder.grid(*clip.shape[2:]))
        assert visible is not None and hidden is not None  # there is a mask
        _, dropped = self.mask(first, self.encoder.grid(*clip.shape[2:]))
        seen, _, grid, _ = self.encoder(clip, visible)
        pred = self.pixels(seen, visible, hidden, grid)
        return {"reconstruction": self.pixels.pictures(clip, pred, hidden, dropped, grid)}


class Labels(nn.Module):
    """classification, long_video: the class of a clip, or of a whole video of which the clip is a digest."""

    def __init__(self, dim: int, task: str, classes: int | None, smoothing: float) -> None:
        super().__init__()
        if classes is None:
            raise UserError(
                f"partial_mae with the task {task} needs --objective.classes: how many the data has."
            )
        positive(classes=classes)
        within(0, 1, smoothing=smoothing)
        self.classes, self.smoothing = classes, smoothing
        self.head = classifier(dim, classes)

    def check_data(self, data: Manifest, batch_size: int) -> None:
        if lacking := [row.path for row in data.rows if row.label is None]:
            raise UserError(
                f"{len(lacking)} of {len(data)} training clips of {data.root} have no label, first {lacking[0]}: the "
                "task needs one of each."
            )
        if len(data.classes) != self.classes:
            raise UserError(
                f"--objective.classes {self.classes}, but {data.root} has {len(data.classes)}: give "
                f"--objective.classes {len(data.classes)}."
            )

    def forward(self, pooled: Pooled, batch: Batch) -> tuple[Scalar, Scalar]:
        labels = batch["label"].to(pooled.device)
        labels = labels.repeat_interleave(
            len(pooled) // len(labels)
        )  # clips of a sample stand side by side
        logits = full(self.head(pooled))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        return loss, (logits.detach().argmax(-1) == labels).float().mean()


class Sentences(nn.Module):
    """video_text: each clip fits its own sentence best, and each sentence its own clip (symmetric InfoNCE)."""

    def __init__(self, dim: int, tower: Tower, temperature: float) -> None:
        super().__init__()
        positive(temperature=temperature)
        self.tower, self.temperature = tower, temperature
        self.head = nn.Linear(dim, tower.dim)

    def joint_space(self) -> Joint:
        return Joint(self.tower, self.head, cosine=True)

    def check_data(self, data: Manifest, batch_size: int) -> None:
        enough(data, "partial_mae", batch_size)
        if batch_size < 2:
            raise UserError(
                "--batch_size 1: video_text tells a clip's sentence from those of the other clips."
            )

    def forward(self, pooled: Pooled, batch: Batch) -> tuple[Scalar, Scalar]:
        video, texts = self.head(pooled), self.tower([bag[0] for bag in batch["sentences"]])  # B E
        # Every process has the loss of the whole batch; a row's gradient is the sum of what all of them say.
        video, texts = (
            gather_rows(F.normalize(full(rows), dim=-1)).rows for rows in (video, texts)
        )
        with torch.autocast(video.device.type, enabled=False):
            x = video @ texts.T / self.temperature
        own = torch.arange(len(x), device=x.device)
        loss = (F.cross_entropy(x, own) + F.cross_entropy(x.T, own)) / 2
        return loss, (x.detach().argmax(1) == own).float().mean()


def weighed(weight: float, loss: Scalar) -> Scalar:
    """Itself where it weighs 1: torch.compile takes a product with 1 for the loss, and its detached twin for both."""
    return loss if weight == 1 else weight * loss


def exact_ratios(drop_ratio: float, predict_ratio: float, grid: Grid) -> tuple[Fraction, Fraction]:
    """The ratios as the user wrote them, so that 0.29 of 100 tokens are 29. A UserError if impossible."""
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
