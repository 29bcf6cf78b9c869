"""Tensor -> Tensor in float32 or better: for sums and exponents that half precision would spoil."""

import torch
from jaxtyping import Float
from torch import Tensor


def full(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    return x.to(torch.promote_types(x.dtype, torch.float32))
