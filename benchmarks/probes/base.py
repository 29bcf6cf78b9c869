"""Frozen x 3 -> ProbeResult: what every probe is. It sees arrays, never a model, so it cannot fine-tune by accident."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.metrics.ranking import mean_average_precision
from ssvid import registry
from ssvid.errors import UserError
from ssvid.shapes import Frozen, Labels
from ssvid.statistics import topk

READ = 2**22  # numbers looked at at once
Setting = dict[
    str, Any
]  # pooling, dim, hyper-parameters and val/top1 (val/map, of several classes a clip) of one head


class ProbeResult(NamedTuple):
    metrics: dict[
        str, float
    ]  # val/top1, test/top1, test/top5 where there are more than 5 classes; or val/map, test/map
    chosen: Setting
    grid: list[Setting]  # every setting that was tried, the chosen one among them
    predictions: Int[Tensor, " S"]  # of the test split: the likeliest class
    scores: Float[
        Tensor, "S Q"
    ]  # of the test split: logits, whose softmax (sigmoids of several) is a probability
    attention: Float[Tensor, "S N"] | None = (
        None  # of a head that has it, over the tokens of each test clip; sums to 1
    )


class Probe(ABC):
    """`__init__` takes keyword-only hyper-parameters. The setting is chosen on val; test is read once, by that one."""

    reads: str = "pooled"  # vectors S D; or "tokens", S N D (raw pixels come as S D all the same)
    multi_label: bool = False  # can learn clips of several classes, or of none; `localisation` takes its scores for logits

    @abstractmethod
    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        """The same arrays and seed give the same result."""


def check(train: Frozen, val: Frozen, test: Frozen, multi_label: bool = False) -> int:
    """The number of classes Q, or a refusal of splits that cannot be probed."""
    table = train.labels.ndim == 2
    if table and not multi_label:
        kinds: dict[str, Any] = {name: registry.probes[name] for name in registry.probes.names()}
        able = ", ".join(name for name, kind in kinds.items() if kind.multi_label)
        raise UserError(f"Clips of several classes can be learnt by the probes {able} alone.")
    for name, split in (("train", train), ("val", val), ("test", test)):
        if len(split.labels) == 0:
            raise UserError(
                f"The {name} split holds no clip that could be read: there is nothing to probe."
            )
        if split.labels.shape[1:] != train.labels.shape[1:]:
            raise UserError(
                f"The {name} split has other classes than train: their labels are of other shapes."
            )
        if not table and int(split.labels.min()) < 0:
            raise UserError(
                f"The {name} split holds clips without a label: a probe needs one for every clip."
            )
        if table and not split.labels.any():
            raise UserError(
                f"No clip of the {name} split holds any class: there is nothing to learn or to score."
            )
        check_features(name, split, train)
    return train.labels.shape[1] if table else int(train.labels.max()) + 1


def check_features(name: str, split: Frozen, train: Frozen) -> None:
    """Read once, a part at a time: they may be a file in memory."""
    for pooling, like in train.feats.items():
        feats = split.feats.get(pooling)
        if feats is None or feats.shape[1:] != like.shape[1:] or len(feats) != len(split.labels):
            found = "none" if feats is None else f"{tuple(feats.shape)}"
            wanted = (len(split.labels), *like.shape[1:])
            raise UserError(
                f"The {name} split should hold features {pooling} of {wanted}; there are {found}."
            )
        for part in feats.split(max(1, READ // max(1, like[0].numel()))):
            if not part.isfinite().all():
                raise UserError(
                    f"The {name} split holds features {pooling} that are NaN or infinite: extract anew."
                )


def metric(labels: Labels) -> str:
    """What a setting is chosen by."""
    return "map" if labels.ndim == 2 else "top1"


def accuracy(scores: Float[Tensor, "S Q"], labels: Labels) -> float:
    """Share of right answers, or the mean average precision of classes where a clip may hold several."""
    if labels.ndim == 2:
        return mean_average_precision(scores, labels)
    return (scores.argmax(-1) == labels).double().mean().item()


def on_val(setting: Setting) -> float:
    """val/top1 or val/map."""
    return float(setting["val/top1"] if "val/top1" in setting else setting["val/map"])


def result(
    scores: Float[Tensor, "S Q"], labels: Labels, chosen: Setting, grid: list[Setting]
) -> ProbeResult:
    """The one reading of test: scores of the chosen setting -> metrics."""
    predictions, name = scores.argmax(-1), metric(labels)
    metrics = {f"val/{name}": on_val(chosen), f"test/{name}": accuracy(scores, labels)}
    if name == "top1" and scores.shape[1] > 5:
        metrics["test/top5"] = topk(scores, labels, 5)
    return ProbeResult(metrics, chosen, grid, predictions.to(torch.int64), scores)
