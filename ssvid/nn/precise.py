"""Tensor -> Tensor in float32 or better: for sums and exponents that half precision would spoil."""

import torch
from jaxtyping import Float
from torch import Tensor


def raise_precision(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The values in float32, or in float64 if that is what they are in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
