"""Closed-form ridge classifier: least squares to one-hot targets, for every penalty at once.

One eigen-decomposition, in the smaller of row and column space and in double precision, serves all
penalties. Unlike gradient descent it has no rate, so directions of small variance behind a
dominant one are learnt as well as if they stood alone.

A penalty is `lambda` times the mean eigenvalue, so one grid serves every width. Scores of least
squares are no logits. One positive scale, fitted by cross-entropy on val, makes them so; for tables
of classes it is a scale and an offset, shared by all classes.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from benchmarks.probes.standardizer import CHUNK, Rows
from ssvid.shapes import Labels

LIMIT = 4096  # the largest matrix whose eigenvalues are computed: 20 CPU-seconds (measured)
NEGLIGIBLE = 1e-12  # of the largest eigenvalue: what rounding leaves of zero


class Ridge(NamedTuple):
    """Train clips in the coordinates in which every penalty is one division."""

    eigenvalues: Float[Tensor, " r"]
    vectors: Float[Tensor, "K r"]
    targets: Float[Tensor, "r Q"]  # the vectors' products with the centred targets
    mean_x: Float[Tensor, " K"]
    mean_y: Float[Tensor, " Q"]
    mean_eigenvalue: float

    def compute_weight(self, penalty: float) -> tuple[Float[Tensor, "K Q"], Float[Tensor, " Q"]]:
        """(weight, bias) for `lambda` = penalty."""
        divisor = self.eigenvalues + penalty * self.mean_eigenvalue
        weight = self.vectors @ (self.targets / divisor[:, None])
        return weight.float(), (self.mean_y - self.mean_x @ weight).float()

    def project(self, x: "Float[Tensor, 'V K'] | Rows") -> Float[Tensor, "V r"]:
        """Clips in these coordinates."""
        chunks = [(chunk.double() - self.mean_x) @ self.vectors for chunk in x.split(CHUNK)]
        return torch.cat(chunks)

    def score(self, projected: Float[Tensor, "V r"], penalty: float) -> Float[Tensor, "V Q"]:
        divisor = self.eigenvalues + penalty * self.mean_eigenvalue
        return (projected @ (self.targets / divisor[:, None]) + self.mean_y).float()


def has_room(x: "Tensor | Rows") -> bool:
    """Whether the smaller of row and column space is small enough for an eigen-decomposition."""
    return min(x.shape[0], x.shape[1]) <= LIMIT


def decompose(x: "Float[Tensor, 'S K'] | Rows", y: Labels, classes: int) -> Ridge:
    target = (y if y.ndim == 2 else F.one_hot(y, classes)).double()
    mean_y = target.mean(0)
    target = target - mean_y
    sizes = [len(chunk) for chunk in x.split(CHUNK)]
    mean_x = torch.stack([chunk.double().sum(0) for chunk in x.split(CHUNK)]).sum(0) / sum(sizes)
    if len(x) < x.shape[1]:
        rows = torch.cat([chunk.double() - mean_x for chunk in x.split(CHUNK)])
        values, left = torch.linalg.eigh(rows @ rows.T)
        large = values > NEGLIGIBLE * values[-1].clamp(min=1e-300)
        values, left = values[large], left[:, large]
        vectors = rows.T @ (left / values.sqrt())
        product = values.sqrt()[:, None] * (left.T @ target)
    else:
        gram = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        cross = torch.zeros(x.shape[1], target.shape[1], dtype=torch.float64)
        for chunk, of_chunk in zip(x.split(CHUNK), target.split(CHUNK), strict=True):
            rows = chunk.double() - mean_x
            gram.addmm_(rows.T, rows)
            cross.addmm_(rows.T, of_chunk)
        values, vectors = torch.linalg.eigh(gram)
        large = values > NEGLIGIBLE * values[-1].clamp(min=1e-300)
        values, vectors = values[large], vectors[:, large]
        product = vectors.T @ cross
    mean = values.sum().item() / min(x.shape[0], x.shape[1])
    return Ridge(values, vectors, product, mean_x, mean_y, mean or 1.0)


def fit_logits(scores: Float[Tensor, "V Q"], labels: Labels) -> tuple[float, float]:
    """(scale, offset) that make logits of scores, by cross-entropy.

    The offset is 0 where a clip has one class: it would cancel there. A small penalty keeps the
    scale finite where val is told apart without an error.
    """
    is_table = labels.ndim == 2
    if not is_table:  # a class that train lacks has no score
        scores, labels = scores[labels < scores.shape[1]], labels[labels < scores.shape[1]]
    if not len(labels):
        return 1.0, 0.0
    scores = scores.double()
    spread = scores.std(correction=0).clamp(min=1e-12).item()
    log_scale = torch.tensor(-math.log(spread), dtype=torch.float64, requires_grad=True)
    offset = torch.zeros((), dtype=torch.float64, requires_grad=True)
    parameters = [log_scale, offset] if is_table else [log_scale]
    optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def compute_loss() -> Tensor:
        optimizer.zero_grad()
        logits = scores * log_scale.exp() + offset
        if is_table:
            loss = F.binary_cross_entropy_with_logits(logits, labels.double())
        else:
            loss = F.cross_entropy(logits, labels)
        # As strong as a hundredth of one clip that has the typical score.
        loss = loss + 0.01 / len(labels) * (log_scale.exp() * spread + offset.square())
        loss.backward()
        return loss

    optimizer.step(compute_loss)
    return log_scale.exp().item(), offset.item()
