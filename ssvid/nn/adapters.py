"""encoder -> the same encoder with few new weights that learn in the place of its own.

At first the new weights change nothing. The contract of an encoder says where they go: it calls
`adapt` after every transformer block, and declares how wide the tokens are there (`block_dims`).
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ssvid.encoder import Encoder, get_encoder_class, list_encoders
from ssvid.errors import UserError, check_positive

Kind = Literal["bottleneck", "lora"]
# Inner width of a bottleneck as published (VideoGLUE), and the rank that LoRA's paper recommends.
DIMS: dict[str, int] = {"bottleneck": 64, "lora": 8}
CHANGED = ".parametrizations."  # in the names of parameters that torch parametrizes


class Bottleneck(nn.Module):
    """x plus a branch of two linear maps, the second of which begins at zero."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, dim), nn.Linear(dim, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return x + self.up(F.gelu(self.down(x)))


class LowRank(nn.Module):
    """A weight matrix plus a product of two narrow ones (LoRA, arXiv:2106.09685).

    It changes the weight itself, by torch's parametrizations. peft changes the call of the linear
    map instead, which would do nothing here: the blocks of ours, of torchvision and of others read
    `linear.weight` and multiply by themselves. So merging is exact, too.
    """

    def __init__(self, weight: Float[Tensor, "E D"], rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, weight.shape[1]))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)  # as published

    def forward(self, weight: Float[Tensor, "E D"]) -> Float[Tensor, "E D"]:
        return weight + self.up @ self.down


def add_adapters(encoder: Encoder, kind: str, dim: int | None = None) -> None:
    """Give an encoder adapters and freeze all its other weights.

    `dim`: the inner width; None: that of DIMS. Raises a UserError for an encoder without
    transformer blocks, and for one that has adapters.
    """
    check_positive(adapter_dim=dim)
    if kind not in DIMS:
        raise UserError(f"There is no adapter {kind!r}: take {' or '.join(DIMS)}.")
    if not encoder.takes_adapters:
        raise UserError(
            f"{encoder.name} has no transformer blocks and takes no adapters; these do: "
            f"{', '.join(list_adaptable())}."
        )
    if encoder.adapters is not None and kind == "bottleneck":
        raise UserError(
            f"This {encoder.name} has adapters already, and a block takes one: leave the adapter "
            "out, so that the whole encoder learns, or take lora."
        )
    encoder.requires_grad_(False)
    size = dim or DIMS[kind]
    if kind == "bottleneck":
        encoder.adapters = nn.ModuleList(Bottleneck(width, size) for width in encoder.block_dims)
        encoder.adapter_dim = size
        return
    for module in [*encoder.modules()]:
        if isinstance(module, nn.Linear):
            change = LowRank(module.weight, size)
            parametrize.register_parametrization(module, "weight", change)


def list_adaptable() -> list[str]:
    """Names of the registered encoders that have transformer blocks."""
    return [name for name in list_encoders() if get_encoder_class(name).takes_adapters]


def list_adapter_names(encoder: Encoder) -> list[str]:
    """The parameters that adapters of either kind brought, and that learn."""
    names = []
    for name, parameter in encoder.named_parameters():
        is_adapter = name.startswith("adapters.") or CHANGED in name
        if is_adapter and parameter.requires_grad:
            names.append(name)
    return names


def describe_learnt(encoder: Encoder) -> str:
    """How many weights learn, as a sentence."""
    names, learnt, total = list_adapter_names(encoder), 0, 0
    for name, parameter in encoder.named_parameters():
        total += parameter.numel()
        learnt += parameter.numel() if name in names else 0
    return (
        f"The adapters have {learnt:,} weights, {100 * learnt / total:.1f} % of the encoder's "
        f"{total:,}; of these only they learn."
    )


def read_merged_state(encoder: Encoder) -> dict[str, Tensor]:
    """The state dict of the encoder as it is saved: LoRA's products are added to its weights.

    That is exact, and leaves the encoder as it is. The keys are those of an encoder without LoRA.
    """
    state = {key: x for key, x in encoder.state_dict().items() if CHANGED not in f".{key}"}
    for name, module in encoder.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            weight: Tensor = module.weight
            state[f"{name}.weight"] = weight.detach()
    return state


def describe_adapters(encoder: Encoder) -> dict[str, Any]:
    """What the card of an exported encoder says of its bottlenecks; LoRA is merged before."""
    return {} if encoder.adapters is None else {"adapter_dim": encoder.adapter_dim}


def restore_adapters(encoder: Encoder, card: dict[str, Any]) -> None:
    """Build the bottlenecks that a card tells of. Their weights are loaded afterwards.

    Raises a ValueError for a width of no adapter.
    """
    dim = card.get("adapter_dim")
    if dim is None:
        return
    if not isinstance(dim, int) or isinstance(dim, bool) or not 0 < dim <= max(encoder.block_dims):
        raise ValueError(f"its adapters have a width of {dim!r}")
    add_adapters(encoder, "bottleneck", dim)
    encoder.requires_grad_(True)
