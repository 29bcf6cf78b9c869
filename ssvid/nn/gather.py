"""A process's rows -> the rows of all processes, with gradient: negatives for contrastive losses."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed.nn.functional import all_gather


class Gathered(NamedTuple):
    rows: Float[Tensor, "R D"]  # of all processes, in order of rank
    first: int  # where this process's own begin


def gather_rows(rows: Float[Tensor, "r D"]) -> Gathered:
    """Every process must bring as many rows. The gradient of a row is the sum of what all processes' losses say."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return Gathered(rows, 0)
    whole = torch.cat(all_gather(rows.contiguous()))
    if (
        whole.requires_grad
    ):  # all_gather's backward scrambles a gradient that is not laid out by rows (einsum's is not)
        whole.register_hook(torch.Tensor.contiguous)
    return Gathered(whole, dist.get_rank() * len(rows))
