"""Frozen x 3 -> ProbeResult: the contract of a probe, and what probes share.

A probe sees arrays and never a model, so it cannot fine-tune by accident.
"""

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

NUMBERS_AT_ONCE = 2**22  # of features that are checked in one step
# Pooling, dim, hyper-parameters and val/top1 of one head; val/map where a clip has several classes.
Setting = dict[str, Any]


class ProbeResult(NamedTuple):
    # val/top1, test/top1, and test/top5 where there are more than 5 classes; or val/map, test/map.
    metrics: dict[str, float]
    chosen: Setting
    grid: list[Setting]  # every setting that was tried, the chosen one among them
    predictions: Int[Tensor, " S"]  # of the test split: the likeliest class
    # Of the test split: logits, whose softmax (sigmoids for several classes) is a probability.
    scores: Float[Tensor, "S Q"]
    # Of a head that has attention: its weights on the tokens of each test clip; they sum to 1.
    attention: Float[Tensor, "S N"] | None = None
    warnings: list[str] = []  # sentences, such as of a choice at the end of a grid


class Probe(ABC):
    """`__init__` takes keyword-only hyper-parameters. They are hashed, with all attributes.

    A probe chooses its setting on val, and reads test once, with that setting.
    """

    # "pooled": vectors S D. "tokens": S N D; raw pixels then still come as S D.
    reads: str = "pooled"
    # Whether it can learn clips of several classes, or of none. The task `localisation` treats its
    # scores as logits.
    multi_label: bool = False

    @abstractmethod
    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        """Train on train, choose on val, score on test.

        The same arrays and seed give the same result.
        """

    @abstractmethod
    def refit(self, train: Frozen, test: Frozen, chosen: Setting, seed: int) -> ProbeResult:
        """Train anew with a setting that `run` chose, and score on test.

        On the same train split and seed the scores are those of `run`, up to rounding. The metric
        of val is that of the choice.
        """


def check_splits(train: Frozen, val: Frozen | None, test: Frozen, multi_label: bool = False) -> int:
    """The number of classes Q. Raises a UserError for splits that cannot be probed.

    `val` is None where a setting is trained again, without a choice.
    """
    has_table = train.labels.ndim == 2
    if has_table and not multi_label:
        probes: dict[str, Any] = {name: registry.probes[name] for name in registry.probes.names()}
        able = ", ".join(name for name, probe in probes.items() if probe.multi_label)
        raise UserError(f"Only the probes {able} can learn clips of several classes.")
    for name, split in (("train", train), ("val", val), ("test", test)):
        if split is None:
            continue
        if len(split.labels) == 0:
            raise UserError(
                f"The {name} split holds no clip that could be read: there is nothing to probe."
            )
        if split.labels.shape[1:] != train.labels.shape[1:]:
            raise UserError(
                f"The {name} split has other classes than train: the shapes of the labels differ."
            )
        if not has_table and int(split.labels.min()) < 0:
            raise UserError(
                f"The {name} split holds clips without a label: a probe needs one for every clip."
            )
        if has_table and not split.labels.any():
            raise UserError(
                f"No clip of the {name} split holds any class: there is nothing to learn or to "
                "score."
            )
        check_features(name, split, train)
    return train.labels.shape[1] if has_table else int(train.labels.max()) + 1


def check_features(name: str, split: Frozen, train: Frozen) -> None:
    """Raise a UserError where a split lacks features of train, or holds NaN or infinity.

    The features may be a memory-mapped file, so they are read once, in chunks.
    """
    for pooling, train_feats in train.feats.items():
        feats = split.feats.get(pooling)
        expected = (len(split.labels), *train_feats.shape[1:])
        if feats is None or tuple(feats.shape) != expected:
            actual = "none" if feats is None else f"{tuple(feats.shape)}"
            raise UserError(
                f"The {name} split should hold features {pooling} of {expected}; there are "
                f"{actual}."
            )
        for chunk in feats.split(max(1, NUMBERS_AT_ONCE // max(1, train_feats[0].numel()))):
            # A sum needs one pass and no memory; that of finite numbers may still be too large.
            if not chunk.sum(dtype=torch.float32).isfinite() and not chunk.isfinite().all():
                raise UserError(
                    f"The {name} split holds features {pooling} that are NaN or infinite: "
                    "extract them again."
                )


def metric_name(labels: Labels) -> str:
    """The metric by which a setting is chosen: map for tables of classes, else top1."""
    return "map" if labels.ndim == 2 else "top1"


def compute_metric(scores: Float[Tensor, "S Q"], labels: Labels) -> float:
    """The top-1 accuracy, or the mean average precision where a clip may have several classes."""
    if labels.ndim == 2:
        return mean_average_precision(scores, labels)
    return (scores.argmax(-1) == labels).double().mean().item()


def read_val_score(setting: Setting) -> float:
    """val/top1 or val/map."""
    return float(setting["val/top1"] if "val/top1" in setting else setting["val/map"])


def make_result(
    scores: Float[Tensor, "S Q"], labels: Labels, chosen: Setting, grid: list[Setting]
) -> ProbeResult:
    """The metrics of the chosen setting. Only here the labels of test are read."""
    predictions, name = scores.argmax(-1), metric_name(labels)
    metrics = {
        f"val/{name}": read_val_score(chosen),
        f"test/{name}": compute_metric(scores, labels),
    }
    if name == "top1" and scores.shape[1] > 5:
        metrics["test/top5"] = topk(scores, labels, 5)
    return ProbeResult(metrics, chosen, grid, predictions.to(torch.int64), scores)
