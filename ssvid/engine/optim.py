"""parameters, step -> optimiser and learning rate."""

import math
from typing import Literal

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from ssvid.errors import UserError

Name = Literal["adamw", "adam", "sgd"]  # adam: weight decay in the gradient, scaled with it (DPC, MemDPC, CoCLR)
# Tokens and positions are not decayed although they may have several axes (VideoMAE; mae_st decays its positions).
UNDECAYED = ("cls", "mask_token", "positions")


def make(name: Name, module: nn.Module, weight_decay: float, betas: tuple[float, float]) -> Optimizer:
    """Weight decay on matrices and kernels alone. The learning rate is set at every step by the loop."""
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for key, p in module.named_parameters():
        if p.requires_grad:
            plain = p.ndim > 1 and not any(part in UNDECAYED or part.endswith("positions") for part in key.split("."))
            (decayed if plain else rest).append(p)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    if not groups:
        raise UserError("This objective has nothing to train.")
    if name == "sgd":
        return SGD(groups, lr=0.0, momentum=betas[0])
    if name == "adam":
        return Adam(groups, lr=0.0, betas=betas, fused=True)
    return AdamW(groups, lr=0.0, betas=betas, fused=True)


def rate(step: int, steps: int, *, peak: float, warmup: int, last: float) -> float:
    """Linear warm-up from 0 over `warmup` steps, then a cosine from `peak` to `last`."""
    if step < warmup:
        return peak * step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return last + (peak - last) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def clip_norm(module: nn.Module, largest: float | None) -> torch.Tensor:
    """The gradient's norm before it is clipped to `largest`; None measures only."""
    return nn.utils.clip_grad_norm_(module.parameters(), math.inf if largest is None else largest)
