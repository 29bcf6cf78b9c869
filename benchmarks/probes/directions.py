"""The first principal directions of features, and how many of them dominate.

Trained features often have one or a few directions that hold nearly all variance and say nothing
of the classes. They make all cosines alike and leave gradient descent no rate that suits the
others.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

SAMPLE = 4096  # rows at most, evenly spread: a memory-mapped split is then cheap to look at
SPARE = 8  # directions that are followed beside those that are asked for, for faster convergence
PASSES = 8  # over the sample
MOST = 8  # directions that may count as dominant


def find_directions(
    feats: Float[Tensor, "S D"], count: int
) -> tuple[Float[Tensor, " k"], Float[Tensor, "D k"], float]:
    """(variances, unit vectors, the variance of all directions together), largest first.

    There are fewer than `count` where there are fewer rows or columns. The method is subspace
    iteration from a start that is always the same.
    """
    rows = feats[:: math.ceil(len(feats) / SAMPLE)].float()
    x = rows - rows.mean(0)
    width = min(count + SPARE, *x.shape)
    draw = torch.Generator().manual_seed(0)
    basis = torch.randn(x.shape[1], width, generator=draw)
    for _ in range(PASSES):
        basis = torch.linalg.qr(x.T @ (x @ basis)).Q
    _, lengths, vectors = torch.linalg.svd(x @ basis, full_matrices=False)
    variance = lengths.square() / len(x)
    total = x.square().sum().item() / len(x)
    return variance[:count], (basis @ vectors.T)[:, :count], total


def limit_directions(feats: Float[Tensor, "S D"]) -> int:
    """How many leading directions may be treated apart: a quarter, since a few always lead."""
    return min(MOST, max(0, min(feats.shape) - 1) // 4)


def count_dominant(feats: Float[Tensor, "S D"]) -> int:
    """How many leading directions dominate: the last of them holds more than all behind it."""
    variance, _, total = find_directions(feats, MOST + 1)
    dominant = 0
    for count in range(1, limit_directions(feats) + 1):
        behind = total - variance[:count].sum().item()
        # Directions without any variance have nothing to be shrunk to.
        if variance[count - 1] > behind and variance[count] > 1e-12 * variance[0]:
            dominant = count
    return dominant


class Centring:
    """Features less the mean of train, and less any number of its dominant directions."""

    def __init__(self, train: Float[Tensor, "S D"]) -> None:
        total = torch.zeros(train.shape[1], dtype=torch.float64)
        for chunk in train.split(SAMPLE):
            total += chunk.double().sum(0)
        self.mean = (total / len(train)).float()
        self.vectors = find_directions(train, limit_directions(train))[1]

    def take_away(self, count: int, feats: Float[Tensor, "S D"]) -> Float[Tensor, "S D"]:
        x = feats.float() - self.mean
        return x - (x @ self.vectors[:, :count]) @ self.vectors[:, :count].T if count else x
