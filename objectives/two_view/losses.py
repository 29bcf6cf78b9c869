"""Projections of two clips -> loss: lightly's losses in a form that an objective can use.

lightly's losses change state inside forward (MoCo's memory bank, DINO's centre), and some use only
the clips of one process. Here state changes only in `after_step` and is in the state dict, and
several processes compute what one process would.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from lightly import loss as losses
from torch import Tensor, nn

from ssvid.nn.gather import gather_rows
from ssvid.nn.queue import Queue
from ssvid.nn.sources import select_first_clips

Pair = tuple[Float[Tensor, "B d"], Float[Tensor, "B d"]]  # of the first and the second clips
Index = Int[Tensor, " B"]  # of the manifest: the video of each pair


class Compare(nn.Module, ABC):
    """Predictions and targets of both clips -> the symmetric loss of this process's clips."""

    @abstractmethod
    def forward(self, pred: Pair, target: Pair, index: Index) -> Float[Tensor, ""]:
        """The loss. It changes no state."""

    def after_step(self) -> None:
        """Called once per optimiser step."""


class Whole(Compare):
    """A symmetric loss on the clips of all processes. Each process computes all of it."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, pred: Pair, target: Pair, index: Index) -> Float[Tensor, ""]:
        return self.loss(*(gather_rows(rows).rows for rows in pred))


class WithNegatives(Compare):
    """A symmetric loss whose negatives are the other videos of the clips of all processes.

    A video that is twice in a batch counts once, for lightly would take it for its own negative.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, pred: Pair, target: Pair, index: Index) -> Float[Tensor, ""]:
        first = select_first_clips(index)
        rows = [gather_rows(rows).rows[first] for rows in pred]
        if len(rows[0]) < 2:  # of a single video there are no negatives, so nothing is learnt
            return 0.0 * (rows[0].sum() + rows[1].sum())
        return self.loss(*rows)


class Across(Compare):
    """The prediction of each clip against the target of the other one, which gets no gradient."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, pred: Pair, target: Pair, index: Index) -> Float[Tensor, ""]:
        return (self.loss(pred[0], target[1].detach()) + self.loss(pred[1], target[0].detach())) / 2


class Bank(nn.Module):
    """Replaces lightly's memory bank, which changes inside forward and is not in the state dict."""

    def __init__(self, queue: Queue) -> None:
        super().__init__()
        # A tuple, so that the queue is no submodule here: it has another place in the state dict.
        self.queue = (queue,)

    def forward(
        self, key: Tensor, labels: None = None, update: bool = False
    ) -> tuple[Tensor, Tensor]:
        return key, self.queue[0].keys.T


class Queued(Compare):
    """MoCo: the negatives are keys of earlier steps, all of them of second clips."""

    def __init__(self, temperature: float, queue: Queue) -> None:
        super().__init__()
        self.queue, self.loss = queue, losses.NTXentLoss(temperature)
        self.loss.memory_bank = Bank(queue)
        self.pending_keys: list[Tensor] = []  # of this step

    def forward(self, pred: Pair, target: Pair, index: Index) -> Float[Tensor, ""]:
        if self.training and torch.is_grad_enabled():
            self.pending_keys.append(F.normalize(target[1], dim=1))
        return (self.loss(pred[0], target[1]) + self.loss(pred[1], target[0])) / 2

    def after_step(self) -> None:
        for keys in self.pending_keys:
            self.queue.push(keys)
        self.pending_keys.clear()


class Centred(Compare):
    """DINO. lightly moves its centre inside forward; here it moves after the step."""

    def __init__(self, prototypes: int, temperature: float) -> None:
        super().__init__()
        self.loss = losses.DINOLoss(prototypes, student_temp=temperature)
        self.pending_centres: list[Tensor] = []  # the new centre by each micro-batch

    def forward(self, pred: Pair, target: Pair, index: Index) -> Float[Tensor, ""]:
        before = self.loss.center.data
        loss = self.loss(list(target), list(pred))
        if self.training and torch.is_grad_enabled():
            self.pending_centres.append(self.loss.center.data)
        self.loss.center.data = before
        return loss

    def after_step(self) -> None:
        if self.pending_centres:  # all of them start from the same old centre
            self.loss.center.data = torch.stack(self.pending_centres).mean(0)
        self.pending_centres.clear()


class Swapped(Compare):
    """SwAV: predict the prototypes of one clip from the other.

    Sinkhorn distributes the prototypes evenly over the clips of all processes.
    """

    def __init__(self, dim: int, prototypes: int, temperature: float) -> None:
        super().__init__()
        # lightly's layer has a bias, the published one has none.
        self.prototypes = nn.Linear(dim, prototypes, bias=False)
        self.loss = losses.SwaVLoss(temperature, sinkhorn_gather_distributed=True)
        self.after_step()

    def forward(self, pred: Pair, target: Pair, index: Index) -> Float[Tensor, ""]:
        return self.loss([self.prototypes(F.normalize(z, dim=1)) for z in pred], []).squeeze()

    @torch.no_grad()
    def after_step(self) -> None:
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
