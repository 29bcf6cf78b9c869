"""Shuffle-BN (MoCo, arXiv:1911.05722): keys are normalised beside the clips of other processes than their queries are.

Else batch statistics would tell which key was in the query's batch. One process: nothing to do. Nor is there with batch
norm over all processes, or without any.
"""

from collections.abc import Callable

import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssvid.nn.queue import everyone
from ssvid.nn.sync_bn import SyncBatchNorm
from ssvid.randomness import uniform


def wanted(module: nn.Module) -> bool:
    plain = any(
        isinstance(m, _BatchNorm) and not isinstance(m, SyncBatchNorm) for m in module.modules()
    )
    return plain and dist.is_initialized() and dist.get_world_size() > 1


def among_others(
    module: Callable[[Tensor], Tensor], clips: Float[Tensor, "B C T H W"], seed: int, step: int
) -> Float[Tensor, "B D"]:
    """module(clips), each computed in some process, drawn from (seed, step); every process brings as many clips."""
    whole, rank, mine = everyone(clips), dist.get_rank(), len(clips)
    order = (
        uniform(seed, "shuffle_bn", 0, step, len(whole))[0].argsort(stable=True).to(clips.device)
    )
    here = slice(rank * mine, (rank + 1) * mine)
    done = everyone(module(whole[order[here]]))
    return done[order.argsort()[here]]
