"""Frozen x 3 -> ProbeResult: what every probe is. It sees arrays, never a model, so it cannot fine-tune by accident."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssvid.errors import UserError
from ssvid.shapes import Frozen

Setting = dict[str, Any]  # pooling, dim, hyper-parameters and val/top1 of one head


class ProbeResult(NamedTuple):
    metrics: dict[str, float]  # val/top1, test/top1, test/top5 where there are more than 5 classes
    chosen: Setting
    grid: list[Setting]  # every setting that was tried, the chosen one among them
    predictions: Int[Tensor, "S"]  # of the test split
    scores: Float[Tensor, "S Q"]  # of the test split, larger is likelier


class Probe(ABC):
    """`__init__` takes keyword-only hyper-parameters. The setting is chosen on val; test is read once, by that one."""

    @abstractmethod
    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        """The same arrays and seed give the same result."""


def check(train: Frozen, val: Frozen, test: Frozen) -> int:
    """The number of classes Q, or a refusal of splits that cannot be probed."""
    for name, split in (("train", train), ("val", val), ("test", test)):
        if len(split.labels) == 0:
            raise UserError(f"The {name} split holds no clip that could be read: there is nothing to probe.")
        if int(split.labels.min()) < 0:
            raise UserError(f"The {name} split holds clips without a label: a probe needs one for every clip.")
    return int(train.labels.max()) + 1


def topk(scores: Float[Tensor, "S Q"], labels: Int[Tensor, "S"], k: int) -> float:
    """Share of rows whose label is among the k largest scores."""
    return (scores.topk(k, dim=-1).indices == labels[:, None]).any(-1).double().mean().item()


def result(scores: Float[Tensor, "S Q"], labels: Int[Tensor, "S"], chosen: Setting, grid: list[Setting]) -> ProbeResult:
    """The one reading of test: scores of the chosen setting -> metrics."""
    predictions = scores.argmax(-1)
    metrics = {
        "val/top1": float(chosen["val/top1"]),
        "test/top1": (predictions == labels).double().mean().item(),
    }
    if scores.shape[1] > 5:
        metrics["test/top5"] = topk(scores, labels, 5)
    return ProbeResult(metrics, chosen, grid, predictions.to(torch.int64), scores)
