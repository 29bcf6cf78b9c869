"""Frozen x 3 -> ProbeResult: what every probe is. It sees arrays, never a model, so it cannot fine-tune by accident."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssvid.errors import UserError
from ssvid.shapes import Frozen
from ssvid.statistics import topk

READ = 2**22  # numbers looked at at once
Setting = dict[str, Any]  # pooling, dim, hyper-parameters and val/top1 of one head


class ProbeResult(NamedTuple):
    metrics: dict[str, float]  # val/top1, test/top1, test/top5 where there are more than 5 classes
    chosen: Setting
    grid: list[Setting]  # every setting that was tried, the chosen one among them
    predictions: Int[Tensor, "S"]  # of the test split
    scores: Float[Tensor, "S Q"]  # of the test split, larger is likelier
    attention: Float[Tensor, "S N"] | None = None  # of a head that has it, over the tokens of each test clip; sums to 1


class Probe(ABC):
    """`__init__` takes keyword-only hyper-parameters. The setting is chosen on val; test is read once, by that one."""

    reads: str = "pooled"  # vectors S D; or "tokens", S N D (raw pixels come as S D all the same)

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
        check_features(name, split, train)
    return int(train.labels.max()) + 1


def check_features(name: str, split: Frozen, train: Frozen) -> None:
    """Read once, a part at a time: they may be a file in memory."""
    for pooling, like in train.feats.items():
        feats = split.feats.get(pooling)
        if feats is None or feats.shape[1:] != like.shape[1:] or len(feats) != len(split.labels):
            found = "none" if feats is None else f"{tuple(feats.shape)}"
            wanted = (len(split.labels), *like.shape[1:])
            raise UserError(f"The {name} split should hold features {pooling} of {wanted}; there are {found}.")
        for part in feats.split(max(1, READ // max(1, like[0].numel()))):
            if not part.isfinite().all():
                raise UserError(f"The {name} split holds features {pooling} that are NaN or infinite: extract anew.")


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
