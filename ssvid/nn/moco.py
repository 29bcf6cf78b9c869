"""clips -> unit vectors -> logits against a queue: what the heirs of MoCo share (arXiv:1911.05722)."""

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.errors import UserError
from ssvid.nn import shuffle
from ssvid.nn.ema import freeze, update_momentum
from ssvid.nn.queue import Queue
from ssvid.shapes import Clip

Module = TypeVar("Module", bound=nn.Module)


def several(objective: str, clips: Float[Tensor, "B V C T H W"]) -> Float[Tensor, "B V C T H W"]:
    """Batch norm of one clip says nothing of it."""
    if len(clips) < 2:
        raise UserError(
            f"{objective} needs two clips or more in each micro-batch of each process: raise --batch_size, or lower "
            "--accumulate."
        )
    return clips


def projection(width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))


def slow(module: Module) -> Module:
    """A copy that learns nothing by itself: it follows the module."""
    twin = copy.deepcopy(module)
    freeze(twin)
    return twin


def follow(queries: Sequence[nn.Module], keys: Sequence[nn.Module], momentum: float) -> None:
    """Move what makes keys towards what makes queries, in place.

    Only parameters move: the batch-norm statistics of the keys are their own.
    """
    for query, key in zip(queries, keys, strict=True):
        update_momentum(query, key, momentum)


def units(encoder: Encoder, head: nn.Module, clips: Clip) -> Float[Tensor, "B d"]:
    return F.normalize(head(encoder(clips).pooled), dim=1)


@torch.no_grad()
def keys(
    encoder: Encoder, head: nn.Module, clips: Clip, seed: int, step: int, shuffled: bool = True
) -> Float[Tensor, "B d"]:
    """`shuffled`: with several processes and batch norm of each, a key's clip is normalised beside strangers."""
    if shuffled and shuffle.wanted(encoder):
        return shuffle.among_others(lambda some: units(encoder, head, some), clips, seed, step)
    return units(encoder, head, clips)


def logits(
    query: Float[Tensor, "B d"], key: Float[Tensor, "B d"], queue: Queue, temperature: float
) -> Float[Tensor, "B n"]:
    """Cosines with its own key, then with the queued ones by place, over the temperature."""
    return torch.cat([(query * key).sum(1, keepdim=True), query @ queue.keys.T], 1) / temperature


def tops(logits: Float[Tensor, "B n"], right: Bool[Tensor, "B n"]) -> dict[str, Tensor]:
    """Share of queries with a positive among their k likeliest."""
    order = logits.argsort(1, descending=True)[:, :5]
    hit = right.gather(1, order)
    return {f"top{k}": hit[:, :k].any(1).float().mean() for k in (1, 5)}
