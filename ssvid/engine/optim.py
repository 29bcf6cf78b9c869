"""parameters, step -> optimiser and learning rate."""

import math
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import SGD, Adafactor, Adam, AdamW, Optimizer

from ssvid.errors import UserError

# adam: weight decay in the gradient, scaled with it (DPC, MemDPC, CoCLR). adafactor: moments of
# rows and columns, not of each number; a step is `lr` times the size of the weights.
Name = Literal["adamw", "adam", "sgd", "adafactor"]
Decay = Literal["cosine", "linear"]  # of the learning rate; linear: VideoPrism's first stage
# Tokens and positions are not decayed although they may have several axes (VideoMAE; mae_st decays
# its positions).
UNDECAYED = ("cls", "mask_token", "positions", "queries")


def make(
    name: Name,
    module: nn.Module,
    weight_decay: float,
    betas: tuple[float, float],
    # Parameter -> factor of the learning rate; 1 for those that are left out.
    scales: dict[str, float],
    # Beginnings of parameter names that `set_rates` can freeze during the first steps.
    freeze: tuple[str, ...] = (),
) -> Optimizer:
    """Weight decay on matrices and kernels alone.

    The learning rate is set at every step by the loop.
    """
    parameters: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for key, p in module.named_parameters():
        if p.requires_grad:
            scale = scales.get(key, 1.0)
            group = (not is_decayed(key, p), scale, key.startswith(freeze))
            parameters.setdefault(group, []).append(p)
    groups: list[dict[str, Any]] = []
    for undecayed, scale, can_freeze in sorted(parameters):  # decayed groups first
        groups.append(
            {
                "params": parameters[undecayed, scale, can_freeze],
                "weight_decay": 0.0 if undecayed else weight_decay,
                "scale": scale,
                "late": can_freeze,  # the key of checkpoints that exist
            }
        )
    if not groups:
        raise UserError("This objective has nothing to train.")
    if name == "sgd":
        return SGD(groups, lr=0.0, momentum=betas[0])
    if name == "adam":
        return Adam(groups, lr=0.0, betas=betas, fused=True)
    if name == "adafactor":
        return Adafactor(groups, lr=0.0)
    return AdamW(groups, lr=0.0, betas=betas, fused=True)


def is_decayed(key: str, p: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices and kernels, but not to tokens and positions."""
    if p.ndim <= 1:
        return False
    names = key.split(".")
    return not any(name in UNDECAYED or name.endswith("positions") for name in names)


def set_rates(optimizer: Optimizer, peak: float, freeze: bool) -> None:
    """Set the rate of each group. `freeze`: groups that can be frozen get 0, so nothing decays."""
    for group in optimizer.param_groups:
        is_frozen = freeze and group.get("late", False)
        group["lr"] = 0.0 if is_frozen else peak * group.get("scale", 1.0)


def rate(
    step: int,
    steps: int,
    *,
    peak: float,
    warmup: int,
    last: float,
    milestones: tuple[int, ...] = (),
    decay: Decay = "cosine",
) -> float:
    """Linear warm-up from 0 to `peak`, then `decay` to `last`, or a tenth at each milestone."""
    if step < warmup:
        return peak * step / warmup
    if milestones:
        passed = sum(step >= milestone for milestone in milestones)
        return peak * 0.1**passed
    done = (step - warmup) / max(1, steps - warmup)
    if decay == "linear":
        return last + (peak - last) * (1 - min(1.0, done))
    return last + (peak - last) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def milestone_steps(fractions: tuple[float, ...], steps: int) -> tuple[int, ...]:
    """Fractions of the run -> steps."""
    if wrong := [fraction for fraction in fractions if not 0 <= fraction <= 1]:
        raise UserError(f"--lr_milestones are fractions of the steps, 0 to 1, not {wrong[0]}.")
    return tuple(round(fraction * steps) for fraction in fractions)


def clip_norm(module: nn.Module, largest: float | None) -> torch.Tensor:
    """The gradient's norm before it is clipped to `largest`; None measures only."""
    return nn.utils.clip_grad_norm_(module.parameters(), math.inf if largest is None else largest)
