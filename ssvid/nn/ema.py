"""A model and its momentum encoder: freeze the one, let it follow the other (arXiv:1911.05722).

lightly has both functions. They stand here because its import brings torch's compiler along, which
costs every command several CPU-seconds.
"""

import torch
from torch import Tensor, nn


def freeze(model: nn.Module) -> None:
    """Take the gradient from every parameter, in place."""
    for parameter in model.parameters():
        parameter.requires_grad = False


@torch.no_grad()
def update_momentum(model: nn.Module, momentum_model: nn.Module, momentum: float) -> None:
    """Move `momentum_model` towards `model`, in place: momentum * old + (1 - momentum) * new.

    `momentum` lies between 0 and 1. Both have the same parameters in the same order.
    """
    followers: list[Tensor] = list(momentum_model.parameters())
    leaders: list[Tensor] = list(model.parameters())
    torch._foreach_mul_(followers, momentum)
    torch._foreach_add_(followers, leaders, alpha=1.0 - momentum)
