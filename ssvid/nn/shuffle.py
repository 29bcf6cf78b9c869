"""Clips -> features with Shuffle-BN (MoCo, arXiv:1911.05722).

Keys are normalised together with other clips than their queries. Otherwise batch statistics would
reveal which key was in the batch of the query. There is nothing to do for one process, for batch
norm over all processes, or without batch norm.
"""

from collections.abc import Callable

import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssvid.nn.queue import gather_all
from ssvid.nn.sync_bn import SyncBatchNorm
from ssvid.randomness import uniform


def is_needed(module: nn.Module) -> bool:
    """Whether there are several processes, each with batch norm of its own."""
    plain = any(
        isinstance(m, _BatchNorm) and not isinstance(m, SyncBatchNorm) for m in module.modules()
    )
    return plain and dist.is_initialized() and dist.get_world_size() > 1


def run_shuffled(
    module: Callable[[Tensor], Tensor], clips: Float[Tensor, "B C T H W"], seed: int, step: int
) -> Float[Tensor, "B D"]:
    """module(clips), where a process drawn from (seed, step) computes each clip.

    Every process must bring the same number of clips.
    """
    gathered, rank, n = gather_all(clips), dist.get_rank(), len(clips)
    numbers = uniform(seed, "shuffle_bn", 0, step, len(gathered))[0]
    order = numbers.argsort(stable=True).to(clips.device)
    own_rows = slice(rank * n, (rank + 1) * n)
    features = gather_all(module(gathered[order[own_rows]]))
    return features[order.argsort()[own_rows]]
