"""Projections of two clips -> loss: lightly's losses as an objective may use them.

Lightly's have state that moves inside forward (MoCo's bank, DINO's centre), and some are of one process's clips where
all clips are meant. Here state moves in `after_step` alone and is in the state dict, and two processes are one.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightly import loss as losses
from torch import Tensor, nn

from ssvid.nn.gather import gather_rows
from ssvid.nn.queue import Queue

Pair = tuple[Float[Tensor, "B d"], Float[Tensor, "B d"]]  # of the first clips and of the second


class Compare(nn.Module, ABC):
    """What was made of either clip, and what it should have been -> the loss, both ways, of this process's clips."""

    @abstractmethod
    def forward(self, pred: Pair, target: Pair) -> Float[Tensor, ""]:
        """Mutates nothing, as an objective's."""

    def after_step(self) -> None:
        """Once per optimiser step."""


class Whole(Compare):
    """A symmetric loss on the clips of all processes: each computes it whole, so lightly's need not gather."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, pred: Pair, target: Pair) -> Float[Tensor, ""]:
        return self.loss(*(gather_rows(rows).rows for rows in pred))


class Across(Compare):
    """Each clip's prediction against the other's target, which gets no gradient."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, pred: Pair, target: Pair) -> Float[Tensor, ""]:
        return (self.loss(pred[0], target[1].detach()) + self.loss(pred[1], target[0].detach())) / 2


class Bank(nn.Module):
    """In the place of lightly's memory bank, which moves inside its forward and is not in its state dict."""

    def __init__(self, queue: Queue) -> None:
        super().__init__()
        self.held = (queue,)  # not a part of this module: its place in the state dict is elsewhere

    def forward(
        self, key: Tensor, labels: None = None, update: bool = False
    ) -> tuple[Tensor, Tensor]:
        return key, self.held[0].keys.T


class Queued(Compare):
    """MoCo: against the other clip's key and those of earlier steps, of second clips alone."""

    def __init__(self, temperature: float, queue: Queue) -> None:
        super().__init__()
        self.queue, self.loss = queue, losses.NTXentLoss(temperature)
        self.loss.memory_bank = Bank(queue)
        self.waiting: list[Tensor] = []  # keys of this step

    def forward(self, pred: Pair, target: Pair) -> Float[Tensor, ""]:
        if self.training and torch.is_grad_enabled():
            self.waiting.append(F.normalize(target[1], dim=1))
        return (self.loss(pred[0], target[1]) + self.loss(pred[1], target[0])) / 2

    def after_step(self) -> None:
        for keys in self.waiting:
            self.queue.push(keys)
        self.waiting.clear()


class Centred(Compare):
    """DINO's, whose centre lightly moves inside forward: here it waits for the step."""

    def __init__(self, prototypes: int, temperature: float) -> None:
        super().__init__()
        self.loss = losses.DINOLoss(prototypes, student_temp=temperature)
        self.waiting: list[Tensor] = []  # the centre as each micro-batch would have it

    def forward(self, pred: Pair, target: Pair) -> Float[Tensor, ""]:
        before = self.loss.center.data
        loss = self.loss(list(target), list(pred))
        if self.training and torch.is_grad_enabled():
            self.waiting.append(self.loss.center.data)
        self.loss.center.data = before
        return loss

    def after_step(self) -> None:
        if self.waiting:
            self.loss.center.data = torch.stack(self.waiting).mean(0)  # all of the same old centre
        self.waiting.clear()


class Swapped(Compare):
    """SwAV: the prototypes of one clip, shared out evenly over the clips of all processes, told from the other."""

    def __init__(self, dim: int, prototypes: int, temperature: float) -> None:
        super().__init__()
        self.prototypes = nn.Linear(
            dim, prototypes, bias=False
        )  # lightly's has a bias, the published one none
        self.loss = losses.SwaVLoss(temperature, sinkhorn_gather_distributed=True)
        self.after_step()

    def forward(self, pred: Pair, target: Pair) -> Float[Tensor, ""]:
        return self.loss([self.prototypes(F.normalize(z, dim=1)) for z in pred], []).squeeze()

    @torch.no_grad()
    def after_step(self) -> None:
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
