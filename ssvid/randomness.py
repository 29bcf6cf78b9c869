"""(seed, stream, epoch, index) -> uniforms: the only source of random choices about data and masks.

A counter hash in plain int64 tensor operations: bit-equal on every device, no generator objects, nothing drawn from a
worker, a rank or a clock. So a run killed at any step resumes to the same samples, and 1 and n processes see the same.
"""

import zlib

import torch
from jaxtyping import Float
from torch import Tensor

from ssvid.shapes import Batch

# SplitMix64 (Steele, Lea, Flood 2014). torch's int64 multiplication wraps, which is what the hash wants.
GOLDEN, MIX1, MIX2 = -7046029254386353131, -4658895280553007687, -7723592293110705685


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical, where torch's >> is arithmetic


def _mix(x: Tensor) -> Tensor:
    x = x + GOLDEN
    x = (x ^ _shift(x, 30)) * MIX1
    x = (x ^ _shift(x, 27)) * MIX2
    return x ^ _shift(x, 31)


def _code(stream: str) -> int:
    return zlib.crc32(stream.encode())


def prepare_for_compile() -> None:
    """Let torch.compile take the code of a stream for a constant. Call it before a function that draws is compiled.

    It is not done at import: the decorator brings torch's compiler along, which costs every command seconds.
    """
    global _code
    _code = torch.compiler.assume_constant_result(_code)


def uniform(
    seed: int, stream: str, epoch: int | Tensor, index: int | Tensor, n: int
) -> Float[Tensor, "B n"]:
    """float64 uniforms in [0, 1), 53 bits each: row b belongs to (seed, stream, epoch[b], index[b])."""
    index = torch.as_tensor(index, dtype=torch.int64).reshape(-1)
    epoch = torch.as_tensor(epoch, dtype=torch.int64, device=index.device).reshape(-1)
    start = torch.full(
        (1,), seed & (2**63 - 1), dtype=torch.int64, device=index.device
    )  # a copy would be waited for
    key = _mix(_mix(_mix(start) ^ _code(stream)) ^ epoch)
    key = _mix(key ^ index)  # B
    bits = _mix(key[:, None] ^ _mix(torch.arange(n, device=index.device)))  # B n
    return _shift(bits, 11).double() * 2.0**-53


def draw(batch: Batch, stream: str, n: int) -> Float[Tensor, "B n"]:
    """Uniforms for every sample of a batch, from its own coordinates."""
    return uniform(batch["seed"], stream, batch["epoch"], batch["index"], n)


def permutation(seed: int, epoch: int, n: int) -> Tensor:
    """The order of an epoch: a permutation of n rows."""
    return uniform(seed, "order", epoch, 0, n)[0].argsort(stable=True)
