"""parameters, step -> optimiser and learning rate."""

import math
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from ssvid.errors import UserError

Name = Literal[
    "adamw", "adam", "sgd"
]  # adam: weight decay in the gradient, scaled with it (DPC, MemDPC, CoCLR)
# Tokens and positions are not decayed although they may have several axes (VideoMAE; mae_st decays its positions).
UNDECAYED = ("cls", "mask_token", "positions")


def make(
    name: Name,
    module: nn.Module,
    weight_decay: float,
    betas: tuple[float, float],
    scales: dict[str, float]
    | None = None,  # parameter -> its share of the rate; None: all the same
    late: tuple[str, ...] = (),  # beginnings of the names that `set_rates` holds back at first
) -> Optimizer:
    """Weight decay on matrices and kernels alone. The learning rate is set at every step by the loop."""
    found: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for key, p in module.named_parameters():
        if p.requires_grad:
            plain = p.ndim > 1 and not any(
                part in UNDECAYED or part.endswith("positions") for part in key.split(".")
            )
            group = (not plain, scales[key] if scales else 1.0, key.startswith(late))
            found.setdefault(group, []).append(p)
    groups: list[dict[str, Any]] = [
        {
            "params": found[rest, scale, held],
            "weight_decay": 0.0 if rest else weight_decay,
            "scale": scale,
            "late": held,
        }
        for rest, scale, held in sorted(found)  # decayed ones first
    ]
    if not groups:
        raise UserError("This objective has nothing to train.")
    if name == "sgd":
        return SGD(groups, lr=0.0, momentum=betas[0])
    if name == "adam":
        return Adam(groups, lr=0.0, betas=betas, fused=True)
    return AdamW(groups, lr=0.0, betas=betas, fused=True)


def set_rates(optimizer: Optimizer, peak: float, late: bool) -> None:
    """Each group its share of `peak`; those that are late none at first: weight decay then does nothing either."""
    for group in optimizer.param_groups:
        held = late and group.get("late", False)
        group["lr"] = 0.0 if held else peak * group.get("scale", 1.0)


def rate(
    step: int, steps: int, *, peak: float, warmup: int, last: float, drops: tuple[int, ...] = ()
) -> float:
    """Linear warm-up from 0 over `warmup` steps, then a cosine from `peak` to `last`; or a tenth from each drop."""
    if step < warmup:
        return peak * step / warmup
    if drops:
        return peak * 0.1 ** sum(step >= drop for drop in drops)
    done = (step - warmup) / max(1, steps - warmup)
    return last + (peak - last) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def milestones(drops: tuple[float, ...], steps: int) -> tuple[int, ...]:
    """Shares of the steps -> steps."""
    if wrong := [share for share in drops if not 0 <= share <= 1]:
        raise UserError(f"--drops are shares of the steps, 0 to 1, not {wrong[0]}.")
    return tuple(round(share * steps) for share in drops)


def clip_norm(module: nn.Module, largest: float | None) -> torch.Tensor:
    """The gradient's norm before it is clipped to `largest`; None measures only."""
    return nn.utils.clip_grad_norm_(module.parameters(), math.inf if largest is None else largest)
