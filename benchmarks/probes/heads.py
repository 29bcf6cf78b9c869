"""Heads of a grid that are trained in one batched pass, with their gradient written out.

The heads are one matrix D x (R Q). Autograd would only add memory traffic; a test checks that the
gradients are equal.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from benchmarks.probes.base import compute_metric
from benchmarks.probes.standardizer import CHUNK, Rows
from ssvid.shapes import Labels

SMALL = 3e7  # FLOPs of a step; below that one thread is enough


@dataclass
class Heads:
    """R heads of the grid, with the velocities of their momentum (which include the rate).

    D is the last axis in memory: the products of a step then cost 2 % (13 heads) to 8 % (one head)
    less.
    """

    weight: Float[Tensor, "R Q D"]
    bias: Float[Tensor, "R Q"]
    momentum_w: Float[Tensor, "R Q D"]
    momentum_b: Float[Tensor, "R Q"]
    rate: Float[Tensor, " R"]
    decay: Float[Tensor, " R"]
    grid_index: Int[Tensor, " R"]

    def select(self, indices: Int[Tensor, " K"]) -> "Heads":
        """Copies of some of the heads."""
        return Heads(*[tensor[indices] for tensor in list_tensors(self)])


def run_in_threads(heads: Heads, size: int, work: Callable[[Heads], None]) -> Heads:
    """The heads after `work`, which changes them in place. On a CPU each thread has its own heads.

    `size`: numbers of a batch of features. torch would share every product between its threads,
    which then wait for each other, spinning, several times a step: on a busy machine that took
    several times the CPU.
    """
    threads = torch.get_num_threads()
    is_large = 4 * size * heads.bias.numel() > SMALL and heads.weight.device.type == "cpu"
    count = min(threads, len(heads.grid_index)) * is_large or 1
    indices = heads.grid_index.new_tensor(range(len(heads.grid_index)))
    shards = [heads.select(chunk) for chunk in indices.tensor_split(count)]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(len(shards)) as pool:
            list(pool.map(work, shards))
    finally:
        torch.set_num_threads(threads)
    return Heads(*map(torch.cat, zip(*map(list_tensors, shards), strict=True)))


def list_tensors(heads: Heads) -> list[Tensor]:
    return [getattr(heads, field.name) for field in fields(heads)]


def take_rows(
    x: "Tensor | Rows", rows: Int[Tensor, " B"], buffer: Float[Tensor, "B D"]
) -> Float[Tensor, "B D"]:
    """x[rows]. Where x is in memory it goes into the buffer: half the time of new memory."""
    return torch.index_select(x, 0, rows, out=buffer) if isinstance(x, Tensor) else x[rows]


def compute_logits(heads: Heads, x: Float[Tensor, "B D"]) -> Float[Tensor, "B R Q"]:
    flat = x @ heads.weight.flatten(0, 1).T
    return flat.view(-1, *heads.bias.shape).add_(heads.bias)


def compute_gradient(logits: Float[Tensor, "B R Q"], y: Labels) -> Float[Tensor, "B R Q"]:
    """d cross_entropy / d logits for each head, averaged over the batch: (softmax - onehot) / B.

    Where a clip may have several classes, the loss is the binary cross-entropy summed over the
    classes, and this is (sigmoid - y) / B.
    """
    if y.ndim == 2:
        return logits.sigmoid().sub_(y[:, None].float()).mul_(1 / len(y))
    gradient = logits.softmax(-1)
    label = y[:, None, None].expand(-1, gradient.shape[1], 1)
    minus_one = gradient.new_full((1,), -1).expand_as(label)
    return gradient.scatter_add_(-1, label, minus_one).mul_(1 / len(y))


def evaluate(heads: Heads, x: "Float[Tensor, 'S D'] | Rows", y: Labels) -> tuple[Tensor, Tensor]:
    """(metric, loss) of each head. A head that diverged has 0 and infinity."""
    if y.ndim == 2:
        return evaluate_multi_label(heads, x, y)
    correct = torch.zeros(len(heads.bias), dtype=torch.float64, device=y.device)
    loss = torch.zeros_like(correct)
    for x_chunk, y_chunk in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        logits = compute_logits(heads, x_chunk)  # S R Q
        correct += (logits.argmax(-1) == y_chunk[:, None]).double().sum(0)
        # A class that train lacks has no logit. Its clips count as wrong and add no loss.
        in_train = y_chunk < logits.shape[-1]
        if not in_train.all():
            logits, y_chunk = logits[in_train], y_chunk[in_train]
        label = repeat(y_chunk, "S -> S R 1", R=len(heads.bias))
        loss -= logits.log_softmax(-1).gather(-1, label)[..., 0].double().sum(0)
    finite = heads.weight.flatten(1).isfinite().all(1)
    accuracy = torch.where(finite, correct / len(y), 0.0)
    return accuracy, torch.where(finite & loss.isfinite(), loss, torch.inf)


def evaluate_multi_label(
    heads: Heads, x: "Float[Tensor, 'S D'] | Rows", y: Bool[Tensor, "S Q"]
) -> tuple[Tensor, Tensor]:
    """(mean average precision, loss) of each head.

    The heads are scored one after the other, because a ranking needs the scores of all clips.
    """
    values, losses = [], []
    weights = heads.weight.movedim(-1, 0)  # D R Q
    for r in range(len(heads.bias)):
        chunks = [torch.addmm(heads.bias[r], chunk, weights[:, r]) for chunk in x.split(CHUNK)]
        logits = torch.cat(chunks)
        value, loss = 0.0, math.inf
        if logits.isfinite().all():
            value = compute_metric(logits, y)
            loss = F.binary_cross_entropy_with_logits(logits, y.float()).item()
        values.append(value)
        losses.append(loss)
    return torch.tensor(values, dtype=torch.float64), torch.tensor(losses, dtype=torch.float64)


def select_best_half(score: Float[Tensor, " R"], loss: Float[Tensor, " R"]) -> Int[Tensor, " K"]:
    """Indices of the better half of the heads.

    They are ordered by score, and among equals by loss: scores on a small val split often tie.
    """
    order = sorted(range(len(score)), key=lambda i: (-score[i].item(), loss[i].item()))
    return torch.tensor(sorted(order[: math.ceil(len(order) / 2)]), device=score.device)
