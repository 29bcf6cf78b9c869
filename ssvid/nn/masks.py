"""uniforms -> which tokens are kept and which are dropped. Counts follow the published code's own rounding."""

import torch
from jaxtyping import Float
from torch import Tensor

from ssvid.shapes import Dropped, Grid, Index, Tokens


def take(tokens: Tokens, index: Index) -> Float[Tensor, "B K D"]:
    """Tokens at `index`, in its order: B N D, B K -> B K D."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def random_mask(u: Float[Tensor, "B N"], ratio: float) -> tuple[Index, Dropped]:
    """mae_st: the int(N * (1 - ratio)) smallest are kept, in the (shuffled) order of their uniforms."""
    order = u.argsort(dim=1, stable=True)
    kept = int(u.shape[1] * (1 - ratio))
    return order[:, :kept], order[:, kept:]


def tube_mask(u: Float[Tensor, "B HW"], grid: Grid, ratio: float) -> tuple[Index, Dropped]:
    """VideoMAE: int(ratio * h * w) places hidden, the same ones in every time slot; indices ascend."""
    order = u.argsort(dim=1, stable=True)
    hidden = int(ratio * u.shape[1])
    time = torch.arange(grid.t, device=u.device)[:, None] * (grid.h * grid.w)  # t 1

    def tubes(space: Tensor) -> Tensor:
        return (time + space.sort(dim=1).values[:, None]).flatten(1)  # B (t s)

    return tubes(order[:, hidden:]), tubes(order[:, :hidden])


def frame_mask(u: Float[Tensor, "B t"], grid: Grid, ratio: float) -> tuple[Index, Dropped]:
    """Whole time slots hidden: int(ratio * t) of them; indices ascend."""
    order = u.argsort(dim=1, stable=True)
    hidden = int(ratio * u.shape[1])
    space = torch.arange(grid.h * grid.w, device=u.device)

    def slots(time: Tensor) -> Tensor:
        return (time.sort(dim=1).values[..., None] * (grid.h * grid.w) + space).flatten(1)  # B (t hw)

    return slots(order[:, hidden:]), slots(order[:, :hidden])
