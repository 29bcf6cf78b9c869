"""Keys of earlier steps -> the queue of MoCo (arXiv:1911.05722).

New keys replace the oldest ones. The state is made of buffers.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ssvid.errors import UserError

EMPTY = -1  # in a column: no key was pushed to this position yet


class Queue(nn.Module):
    """`keys`, K D, are unit vectors, random at first.

    For each name there is a column of K integers, EMPTY at first.
    """

    def __init__(self, size: int, dim: int, columns: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.columns = columns
        self.keys: Tensor
        self.pushed: Tensor
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pushed", torch.tensor(0))  # number of keys that were ever pushed
        for name in columns:
            self.register_buffer(name, torch.full((size,), EMPTY))

    @property
    def full(self) -> bool:
        return int(self.pushed) >= len(self.keys)

    def check_step(self, n: int) -> None:
        """Raise UserError if steps of n keys do not fill the queue evenly."""
        if len(self.keys) % n:
            raise UserError(
                f"A queue of {len(self.keys)} keys is not filled evenly by {n} at a time: "
                "--objective.queue should be a multiple of --batch_size."
            )

    @torch.no_grad()
    def push(self, keys: Float[Tensor, "B D"], **columns: Int[Tensor, " B"]) -> None:
        """Replace the oldest keys by those of all processes, in order of rank."""
        keys, rows = gather_all(keys), {name: gather_all(value) for name, value in columns.items()}
        self.check_step(len(keys))
        positions = torch.arange(len(keys), device=keys.device) + self.pushed % len(self.keys)
        self.keys[positions] = keys.to(self.keys)
        for name in self.columns:
            self.get_buffer(name)[positions] = rows[name]
        self.pushed += len(keys)


def gather_all(rows: Tensor) -> Tensor:
    """The rows of all processes in order of rank, without gradient."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)
