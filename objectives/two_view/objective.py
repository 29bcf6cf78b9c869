"""Two clips of a video should look alike, and others not: nine image losses of lightly, on video as rho-MoCo and its
kin have it (Feichtenhofer et al. 2021, arXiv:2104.14558). METHODS below is the table of what each was published with.
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

from objectives.two_view.losses import Across, Centred, Compare, Queued, Swapped, Whole
from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.errors import UserError, positive, within
from ssvid.nn.ema import freeze, update_momentum
from ssvid.nn.moco import require_two_clips
from ssvid.nn.queue import Queue
from ssvid.nn.sources import check_negatives
from ssvid.objective import Objective
from ssvid.registry import objectives
from ssvid.shapes import Batch, Clip, Loss, Views


def dino_head(n: SimpleNamespace) -> nn.Module:
    """With torch's present weight norm: lightly's is deprecated, and a head with it cannot be copied."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        head = heads.DINOProjectionHead(n.width, n.hidden, n.dim, n.prototypes)
    remove_weight_norm(head.last_layer)
    length = parametrizations.weight_norm(head.last_layer).parametrizations.weight.original0
    length.data.fill_(1)
    length.requires_grad_(False)
    return head


class Method(NamedTuple):
    numbers: dict[
        str, Any
    ]  # as published: the hyper-parameters that it has. hidden None: the encoder's width
    project: Callable[[SimpleNamespace], nn.Module]
    loss: Callable[[SimpleNamespace], Compare]
    predict: Callable[[SimpleNamespace], nn.Module] = lambda n: nn.Identity()
    rises: bool = (
        False  # the teacher's momentum, along a cosine, to 1. Who has a momentum has a teacher
    )
    keeps_teacher: bool = False  # published: the teacher is used in the end


METHODS = {
    "ntxent": Method(  # SimCLR, arXiv:2002.05709
        {"hidden": None, "dim": 128, "temperature": 0.1},
        project=lambda n: heads.SimCLRProjectionHead(n.width, n.hidden, n.dim),
        loss=lambda n: Whole(losses.NTXentLoss(n.temperature)),
    ),
    "dcl": Method(  # arXiv:2110.06848
        {"hidden": None, "dim": 128, "temperature": 0.1},
        project=lambda n: heads.SimCLRProjectionHead(n.width, n.hidden, n.dim),
        loss=lambda n: Whole(losses.DCLLoss(n.temperature)),
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
        rises=True,
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
        rises=True,
        keeps_teacher=True,
    ),
    "swav": Method(  # arXiv:2006.09882
        {"hidden": 2048, "dim": 128, "temperature": 0.1, "prototypes": 3000},
        project=lambda n: heads.SwaVProjectionHead(n.width, n.hidden, n.dim),
        loss=lambda n: Swapped(n.dim, n.prototypes, n.temperature),
    ),
}


@objectives.register("two_view")
class TwoView(Objective):
    pooled_only = True
    tiny_kwargs = {"dim": 8, "hidden": 16}

    def __init__(
        self,
        encoder: Encoder,
        *,
        loss: str = "ntxent",  # ntxent (SimCLR) dcl moco byol simsiam barlow vicreg dino swav
        max_gap_s: float
        | None = None,  # most seconds between the starts of the clips; 0: the same; null: anywhere
        dim: int | None = None,  # of the projection; this and what follows: null: as published
        hidden: int | None = None,  # width inside the heads
        temperature: float | None = None,  # ntxent dcl moco swav, and dino's student
        momentum: float | None = None,  # of the teacher: moco; byol and dino, where it rises to 1
        queue: int | None = None,  # moco: keys, a multiple of the batch
        prototypes: int | None = None,  # swav dino
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
        positive(**numbers)
        within(0, 1, momentum=momentum)
        within(0, math.inf, max_gap_s=max_gap_s)
        self.method, n = settled(loss, encoder.dim, {**numbers, "momentum": momentum})
        self.encoder, self.name, self.max_gap_s, self.augment = encoder, loss, max_gap_s, augment
        self.project, self.predict, self.loss = (
            self.method.project(n),
            self.method.predict(n),
            self.method.loss(n),
        )
        self.teacher = (
            Teacher(encoder, self.project, n.momentum, self.method.rises)
            if "momentum" in vars(n)
            else None
        )

    @property
    def views(self) -> Views:
        spec, net = self.encoder.spec, self.encoder
        return Views(
            clips=(spec, spec),
            max_gap_s=self.max_gap_s,
            augment=self.augment,
            mean=net.mean,
            std=net.std,
        )

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        check_negatives(
            data, "two_view", batch_size, self.loss.queue if isinstance(self.loss, Queued) else None
        )

    def exported_encoders(self) -> dict[str, Encoder]:
        kept = (
            {"teacher": self.teacher.encoder} if self.teacher and self.method.keeps_teacher else {}
        )
        return {"encoder": self.encoder, **kept}

    def forward(self, batch: Batch) -> Loss:
        clips = tuple(require_two_clips("two_view", batch["clips"]).unbind(1))  # two of B C T H W
        own = both(lambda clip: self.project(self.encoder(clip).pooled), clips)  # two of B d
        pred = both(self.predict, own)
        target = both(self.teacher, clips) if self.teacher else own
        with torch.autocast(
            clips[0].device.type, enabled=False
        ):  # sums over the batch and sharp exponents
            loss = self.loss(both(full, pred), both(full, target))
        return Loss(loss, {self.name: loss.detach()})

    def on_weights_loaded(self) -> None:
        if self.teacher:
            update_momentum(self.encoder, self.teacher.encoder, 0.0)

    def after_step(self, progress: float) -> None:
        self.loss.after_step()
        if self.teacher:
            self.teacher.follow(self.encoder, self.project, progress)


def settled(name: str, width: int, given: dict[str, Any]) -> tuple[Method, SimpleNamespace]:
    """The method and its numbers: the published ones, or what the user gave instead."""
    if name not in METHODS:
        raise UserError(
            f"two_view has no loss {name!r}; there are ntxent (SimCLR), {', '.join([*METHODS][1:])}."
        )
    own = METHODS[name].numbers
    chosen = {key: value for key, value in given.items() if value is not None}
    if alien := sorted(chosen.keys() - own.keys()):
        raise UserError(f"two_view: the loss {name} has no {alien[0]}; it has {', '.join(own)}.")
    numbers = {**own, **chosen}
    return METHODS[name], SimpleNamespace(
        **{**numbers, "hidden": numbers["hidden"] or width, "width": width}
    )


class Teacher(nn.Module):
    """The student as it was on average. Batch-norm statistics are its own."""

    def __init__(self, encoder: Encoder, project: nn.Module, momentum: float, rises: bool) -> None:
        super().__init__()
        self.encoder, self.project = copy.deepcopy(encoder), copy.deepcopy(project)
        self.momentum, self.rises = momentum, rises
        freeze(self)

    @torch.no_grad()
    def forward(self, clip: Clip) -> Float[Tensor, "B d"]:
        return self.project(self.encoder(clip).pooled)

    def follow(self, encoder: Encoder, project: nn.Module, progress: float) -> None:
        rise = (1 + math.cos(math.pi * progress)) / 2 if self.rises else 1.0
        momentum = 1 - (1 - self.momentum) * rise
        update_momentum(encoder, self.encoder, momentum)
        update_momentum(project, self.project, momentum)


def both(function: Callable[[Tensor], Tensor], two: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    first, second = two
    return function(first), function(second)


def full(rows: Float[Tensor, "B d"]) -> Float[Tensor, "B d"]:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
