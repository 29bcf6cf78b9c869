"""The rows of a process -> the rows of all processes, with gradient.

They are negatives of contrastive losses.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed.nn.functional import all_gather


class Gathered(NamedTuple):
    rows: Float[Tensor, "R D"]  # of all processes, in order of rank
    first: int  # index of this process's first row


def gather_rows(rows: Float[Tensor, "r D"]) -> Gathered:
    """Gather the rows of all processes. Every process must bring the same number of rows.

    The gradient of a row is the sum over the losses of all processes.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return Gathered(rows, 0)
    gathered = torch.cat(all_gather(rows.contiguous()))
    # The backward pass of all_gather scrambles a gradient that is not laid out by rows, and that of
    # einsum is not.
    if gathered.requires_grad:
        gathered.register_hook(torch.Tensor.contiguous)
    return Gathered(gathered, dist.get_rank() * len(rows))
