"""Two clips of a video are a positive pair: nine image losses of lightly, used on video.

Video versions of SimCLR, MoCo, BYOL and SwAV are from Feichtenhofer et al. 2021 (arXiv:2104.14558).
The table METHODS has the published hyper-parameters of each loss.
"""

import copy
import math
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from lightly import loss as losses
from lightly.models.modules import heads
from torch import Tensor, nn
from torch.nn.utils import parametrizations, remove_weight_norm

from objectives.two_view.losses import (
    Across,
    Centred,
    Compare,
    Queued,
    Swapped,
    Whole,
    WithNegatives,
)
from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.errors import UserError, check_positive, check_range
from ssvid.nn.ema import freeze, update_momentum
from ssvid.nn.moco import require_two_clips
from ssvid.nn.precise import raise_precision
from ssvid.nn.queue import Queue
from ssvid.nn.sources import check_batch, check_negatives
from ssvid.objective import Objective
from ssvid.registry import objectives
from ssvid.shapes import Batch, Clip, Loss, Views


def dino_head(n: SimpleNamespace) -> nn.Module:
    """DINO's head with torch's current weight norm.

    A head with lightly's old one cannot be copied.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        head = heads.DINOProjectionHead(n.width, n.hidden, n.dim, n.prototypes)
    remove_weight_norm(head.last_layer)
    norm = parametrizations.weight_norm(head.last_layer).parametrizations.weight.original0
    norm.data.fill_(1)
    norm.requires_grad_(False)
    return head


class Method(NamedTuple):
    """A published method. A method whose hyper-parameters have a momentum has a teacher."""

    numbers: dict[str, Any]  # its hyper-parameters, as published; hidden None: the encoder's width
    project: Callable[[SimpleNamespace], nn.Module]
    loss: Callable[[SimpleNamespace], Compare]
    predict: Callable[[SimpleNamespace], nn.Module] = lambda n: nn.Identity()
    momentum_rises: bool = False  # along a cosine to 1
    exports_teacher: bool = False  # the authors evaluate the teacher


METHODS = {
    "ntxent": Method(  # SimCLR, arXiv:2002.05709
        {"hidden": None, "dim": 128, "temperature": 0.1},
        project=lambda n: heads.SimCLRProjectionHead(n.width, n.hidden, n.dim),
        loss=lambda n: WithNegatives(losses.NTXentLoss(n.temperature)),
    ),
    "dcl": Method(  # arXiv:2110.06848
        {"hidden": None, "dim": 128, "temperature": 0.1},
        project=lambda n: heads.SimCLRProjectionHead(n.width, n.hidden, n.dim),
        loss=lambda n: WithNegatives(losses.DCLLoss(n.temperature)),
    ),
    "moco": Method(  # v2, arXiv:2003.04297
        {"hidden": None, "dim": 128, "temperature": 0.2, "momentum": 0.999, "queue": 65536},
        project=lambda n: heads.MoCoProjectionHead(n.width, n.hidden, n.dim),
        loss=lambda n: Queued(n.temperature, Queue(n.queue, n.dim)),
    ),
    "byol": Method(  # arXiv:2006.07733
        {"hidden": 4096, "dim": 256, "momentum": 0.996},
        project=lambda n: heads.BYOLProjectionHead(n.width, n.hidden, n.dim),
        predict=lambda n: heads.BYOLPredictionHead(n.dim, n.hidden, n.dim),
        loss=lambda n: Across(losses.NegativeCosineSimilarity()),
        momentum_rises=True,
    ),
    "simsiam": Method(  # arXiv:2011.10566
        {"hidden": None, "dim": 2048},
        project=lambda n: heads.SimSiamProjectionHead(n.width, n.hidden, n.dim),
        predict=lambda n: heads.SimSiamPredictionHead(n.dim, max(1, n.dim // 4), n.dim),
        loss=lambda n: Across(losses.NegativeCosineSimilarity()),
    ),
    "barlow": Method(  # arXiv:2103.03230
        {"hidden": 8192, "dim": 8192},
        project=lambda n: heads.BarlowTwinsProjectionHead(n.width, n.hidden, n.dim),
        loss=lambda n: Whole(losses.BarlowTwinsLoss()),
    ),
    "vicreg": Method(  # arXiv:2105.04906
        {"hidden": 8192, "dim": 8192},
        project=lambda n: heads.VICRegProjectionHead(n.width, n.hidden, n.dim),
        loss=lambda n: Whole(losses.VICRegLoss()),
    ),
    "dino": Method(  # arXiv:2104.14294
        {"hidden": 2048, "dim": 256, "temperature": 0.1, "momentum": 0.996, "prototypes": 65536},
        project=dino_head,
        loss=lambda n: Centred(n.prototypes, n.temperature),
        momentum_rises=True,
        exports_teacher=True,
    ),
    "swav": Method(  # arXiv:2006.09882
        {"hidden": 2048, "dim": 128, "temperature": 0.1, "prototypes": 3000},
        project=lambda n: heads.SwaVProjectionHead(n.width, n.hidden, n.dim),
        loss=lambda n: Swapped(n.dim, n.prototypes, n.temperature),
    ),
}


@objectives.register("two_view")
class TwoView(Objective):
    """A loss on the projections of two clips, with a predictor and a teacher if the method has
    them.
    """

    pooled_only = True
    tiny_kwargs = {"dim": 8, "hidden": 16}
    # The encoder of Feichtenhofer et al. 2021.
    preset_flags = {"one_gpu": {"encoder": {"name": "slow_r50"}}}

    def __init__(
        self,
        encoder: Encoder,
        *,
        loss: str = "ntxent",  # ntxent (SimCLR) dcl moco byol simsiam barlow vicreg dino swav
        # largest distance in seconds between the starts of the clips; 0: the same; null: any
        max_gap_s: float | None = None,
        dim: int | None = None,  # width of the projection; null here and below: as published
        hidden: int | None = None,  # hidden width of the heads
        temperature: float | None = None,  # of ntxent, dcl, moco, swav, and dino's student
        momentum: float | None = None,  # of the teacher of moco, byol and dino
        queue: int | None = None,  # moco: number of keys, a multiple of the batch
        prototypes: int | None = None,  # of swav and dino
        augment: str = "resized_flip_colour",  # a recipe of ssvid.data.augment
    ) -> None:
        super().__init__()
        numbers = {
            "dim": dim,
            "hidden": hidden,
            "temperature": temperature,
            "queue": queue,
            "prototypes": prototypes,
        }
        check_positive(**numbers)
        check_range(0, 1, momentum=momentum)
        check_range(0, math.inf, max_gap_s=max_gap_s)
        self.method, n = choose_method(loss, encoder.dim, {**numbers, "momentum": momentum})
        self.encoder, self.name, self.max_gap_s, self.augment = encoder, loss, max_gap_s, augment
        self.project = self.method.project(n)
        self.predict = self.method.predict(n)
        self.loss = self.method.loss(n)
        self.teacher = None
        if "momentum" in vars(n):
            rises = self.method.momentum_rises
            self.teacher = Teacher(encoder, self.project, n.momentum, rises)

    @property
    def views(self) -> Views:
        return self.encoder.make_views(self.augment, 2, max_gap_s=self.max_gap_s)

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        queue = self.loss.queue if isinstance(self.loss, Queued) else None
        check_negatives(data, "two_view", batch_size, queue)
        if isinstance(self.loss, WithNegatives):
            check_batch(data, f"two_view with the loss {self.name}", batch_size)

    def exported_encoders(self) -> dict[str, Encoder]:
        encoders = {"encoder": self.encoder}
        if self.teacher and self.method.exports_teacher:
            encoders["teacher"] = self.teacher.encoder
        return encoders

    def forward(self, batch: Batch) -> Loss:
        clips = tuple(require_two_clips("two_view", batch["clips"]).unbind(1))  # two of B C T H W
        projected = map_pair(lambda clip: self.project(self.encoder(clip).pooled), clips)  # B d
        pred = map_pair(self.predict, projected)
        target = map_pair(self.teacher, clips) if self.teacher else projected
        # Sums over the batch and exponents are too large for the precision of bf16.
        with torch.autocast(clips[0].device.type, enabled=False):
            loss = self.loss(
                map_pair(raise_precision, pred),
                map_pair(raise_precision, target),
                batch["index"].to(clips[0].device),
            )
        return Loss(loss, {self.name: loss.detach()})

    def on_weights_loaded(self) -> None:
        if self.teacher:
            update_momentum(self.encoder, self.teacher.encoder, 0.0)

    def after_step(self, progress: float) -> None:
        self.loss.after_step()
        if self.teacher:
            self.teacher.follow(self.encoder, self.project, progress)


def choose_method(name: str, width: int, changes: dict[str, Any]) -> tuple[Method, SimpleNamespace]:
    """The method and its hyper-parameters: the published ones with the user's changes.

    Raises a UserError for an unknown method or a hyper-parameter that it does not have.
    """
    if name not in METHODS:
        raise UserError(
            f"two_view has no loss {name!r}; there are ntxent (SimCLR), "
            f"{', '.join([*METHODS][1:])}."
        )
    published = METHODS[name].numbers
    changes = {key: value for key, value in changes.items() if value is not None}
    unknown = sorted(changes.keys() - published.keys())
    if unknown:
        raise UserError(
            f"two_view: the loss {name} has no {unknown[0]}; it has {', '.join(published)}."
        )
    numbers = {**published, **changes, "width": width}
    numbers["hidden"] = numbers["hidden"] or width
    return METHODS[name], SimpleNamespace(**numbers)


class Teacher(nn.Module):
    """A moving average of the student, with batch-norm statistics of its own."""

    def __init__(self, encoder: Encoder, project: nn.Module, momentum: float, rises: bool) -> None:
        super().__init__()
        self.encoder, self.project = copy.deepcopy(encoder), copy.deepcopy(project)
        self.momentum, self.rises = momentum, rises
        freeze(self)

    @torch.no_grad()
    def forward(self, clip: Clip) -> Float[Tensor, "B d"]:
        return self.project(self.encoder(clip).pooled)

    def follow(self, encoder: Encoder, project: nn.Module, progress: float) -> None:
        """Move towards the student. `progress`: 0 at the start of training, 1 at its end."""
        rise = (1 + math.cos(math.pi * progress)) / 2 if self.rises else 1.0
        momentum = 1 - (1 - self.momentum) * rise
        update_momentum(encoder, self.encoder, momentum)
        update_momentum(project, self.project, momentum)


def map_pair(
    function: Callable[[Tensor], Tensor], pair: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Apply a function to the tensors of both clips."""
    first, second = pair
    return function(first), function(second)
