"""Clips -> unit vectors -> logits against a queue of keys, as in MoCo (arXiv:1911.05722)."""

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

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

# What --encoder left out means, and the presets, for infonce and coclr.
DEFAULT_FLAGS: dict[str, Any] = {
    "encoder": {"name": "resnet18_2d3d", "width": 32, "frames": 8, "size": 64},
    "clip": {"fps": 8},
    "batch_size": 32,
    "lr_batch": None,  # the rate is as it is given
}
PRESET_FLAGS: dict[str, dict[str, Any]] = {
    # The queue holds no video twice: 16 keys allow for sets of 16 videos or more.
    "laptop": {"objective": {"queue": 16}, "optimizer": "adam", "weight_decay": 1e-5},
    "one_gpu": {  # as published on UCF101, for one of the two GPUs
        "encoder": {"name": "s3d", "frames": 32, "stride": 1, "size": 128},
        "optimizer": "adam",
        "betas": [0.9, 0.999],
        "weight_decay": 1e-5,
        "lr": 1e-3,
        "lr_batch": None,
        "warmup": 0.0,
        "epochs": 300,
    },
}

Module = TypeVar("Module", bound=nn.Module)


def require_two_clips(
    objective: str, clips: Float[Tensor, "B V C T H W"]
) -> Float[Tensor, "B V C T H W"]:
    """The clips of a micro-batch. A UserError for one clip: batch norm needs at least two."""
    if len(clips) < 2:
        raise UserError(
            f"{objective} needs two clips or more in each micro-batch of each process: raise "
            "--batch_size, or lower --accumulate."
        )
    return clips


def make_projection(width: int, dim: int) -> nn.Sequential:
    """The projection head: an MLP with one hidden layer."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))


def make_momentum_copy(module: Module) -> Module:
    """A frozen copy of a module, which `update_momentum_copies` moves."""
    momentum_copy = copy.deepcopy(module)
    freeze(momentum_copy)
    return momentum_copy


def update_momentum_copies(
    queries: Sequence[nn.Module], embed_keys: Sequence[nn.Module], momentum: float
) -> None:
    """Move the modules of the keys towards those of the queries, in place.

    Only parameters move. The modules of the keys have batch-norm statistics of their own.
    """
    for query, key in zip(queries, embed_keys, strict=True):
        update_momentum(query, key, momentum)


def embed_clips(encoder: Encoder, head: nn.Module, clips: Clip) -> Float[Tensor, "B d"]:
    """Unit vectors of the clips."""
    return F.normalize(head(encoder(clips).pooled), dim=1)


@torch.no_grad()
def embed_keys(
    encoder: Encoder, head: nn.Module, clips: Clip, seed: int, step: int, shuffled: bool = True
) -> Float[Tensor, "B d"]:
    """Unit vectors of the clips, without gradients.

    `shuffled`: if each process has its own batch norm, the processes exchange clips for it, so that
    a clip is not normalised together with its neighbours.
    """
    if shuffled and shuffle.is_needed(encoder):
        return shuffle.run_shuffled(
            lambda mixed: embed_clips(encoder, head, mixed), clips, seed, step
        )
    return embed_clips(encoder, head, clips)


def compute_logits(
    query: Float[Tensor, "B d"], key: Float[Tensor, "B d"], queue: Queue, temperature: float
) -> Float[Tensor, "B n"]:
    """Cosines of each query with its key, then with the queued keys, over the temperature."""
    return torch.cat([(query * key).sum(1, keepdim=True), query @ queue.keys.T], 1) / temperature


def measure_topk(logits: Float[Tensor, "B n"], positives: Bool[Tensor, "B n"]) -> dict[str, Tensor]:
    """top1 and top5: the fraction of queries with a positive among their k largest logits."""
    order = logits.argsort(1, descending=True)[:, :5]
    hit = positives.gather(1, order)
    return {f"top{k}": hit[:, :k].any(1).float().mean() for k in (1, 5)}
