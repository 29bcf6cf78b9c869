"""Scores or predictions and labels -> accuracies, and what blind answers get."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def chance(labels: Int[Tensor, " S"]) -> float:
    """Accuracy of a blind guess: one over the number of classes in the labels."""
    return 1 / len(labels.unique())


def majority(labels: Int[Tensor, " S"]) -> float:
    """Accuracy of always naming the largest class."""
    return labels.bincount().max().item() / len(labels)


def mean_class_accuracy(correct: Float[Tensor, " S"], labels: Int[Tensor, " S"]) -> float:
    """The accuracy of each class that occurs, averaged over the classes."""
    total = torch.zeros(int(labels.max()) + 1, dtype=torch.float64)
    total = total.index_add(0, labels, correct.double())
    count = labels.bincount()
    return (total[count > 0] / count[count > 0]).mean().item()


def topk(scores: Float[Tensor, "S Q"], labels: Int[Tensor, " S"], k: int) -> float:
    """Fraction of rows whose label is among the k largest scores."""
    return (scores.topk(k, dim=-1).indices == labels[:, None]).any(-1).double().mean().item()
