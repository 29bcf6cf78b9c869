"""Keys of earlier steps, the oldest first to go: the dictionary of MoCo (arXiv:1911.05722). Its state is buffers."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ssvid.errors import UserError

EMPTY = -1  # in a column: no key was put here yet


class Queue(nn.Module):
    """`keys` K D, of length 1, at first by lot; and a column of whole numbers K for each name, EMPTY at first."""

    def __init__(self, size: int, dim: int, columns: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.columns = columns
        self.keys: Tensor
        self.pushed: Tensor
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pushed", torch.tensor(0))  # keys so far
        for name in columns:
            self.register_buffer(name, torch.full((size,), EMPTY))

    @property
    def full(self) -> bool:
        return int(self.pushed) >= len(self.keys)

    def takes(self, n: int) -> None:
        """Refuse keys that come n at a time and do not fill it evenly."""
        if len(self.keys) % n:
            raise UserError(
                f"A queue of {len(self.keys)} keys is not filled evenly by {n} at a time: --objective.queue should be "
                "a multiple of --batch_size."
            )

    @torch.no_grad()
    def push(self, keys: Float[Tensor, "B D"], **columns: Int[Tensor, " B"]) -> None:
        """The keys of all processes, in order of rank, in place of the oldest."""
        keys, rows = everyone(keys), {name: everyone(value) for name, value in columns.items()}
        self.takes(len(keys))
        place = torch.arange(len(keys), device=keys.device) + self.pushed % len(self.keys)
        self.keys[place] = keys.to(self.keys)
        for name in self.columns:
            self.get_buffer(name)[place] = rows[name]
        self.pushed += len(keys)


def everyone(rows: Tensor) -> Tensor:
    """Those of all processes, without gradient."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
