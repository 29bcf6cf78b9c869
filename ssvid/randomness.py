"""(seed, stream, epoch, index) -> uniforms: every random choice about data and masks comes from
here.

The numbers are a counter hash in plain int64 tensor operations, so they are bit-equal on every
device. Nothing depends on a generator object, a worker, a rank or a clock. A run that was killed at
any step therefore resumes with the same samples, and 1 and n processes see the same samples.
"""

import zlib

import torch
from jaxtyping import Float
from torch import Tensor

from ssvid.shapes import Batch

# SplitMix64 (Steele, Lea, Flood 2014). torch's int64 multiplication wraps, which is what the hash
# wants.
GOLDEN, MIX1, MIX2 = -7046029254386353131, -4658895280553007687, -7723592293110705685


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # a logical shift; torch's >> is arithmetic


def _mix(x: Tensor) -> Tensor:
    x = x + GOLDEN
    x = (x ^ _shift(x, 30)) * MIX1
    x = (x ^ _shift(x, 27)) * MIX2
    return x ^ _shift(x, 31)


def _code(stream: str) -> int:
    return zlib.crc32(stream.encode())


def prepare_for_compile() -> None:
    """Make the code of a stream a constant for torch.compile.

    Call it before compiling a function that draws. It does not happen at import, because the
    decorator imports torch's compiler, which takes seconds.
    """
    global _code
    _code = torch.compiler.assume_constant_result(_code)


def uniform(
    seed: int, stream: str, epoch: int | Tensor, index: int | Tensor, n: int
) -> Float[Tensor, "B n"]:
    """float64 uniforms in [0, 1) with 53 random bits. Row b belongs to (epoch[b], index[b])."""
    index = torch.as_tensor(index, dtype=torch.int64).reshape(-1)
    epoch = torch.as_tensor(epoch, dtype=torch.int64, device=index.device).reshape(-1)
    # torch.full does not wait for the device, as a copy of the seed would.
    start = torch.full((1,), seed & (2**63 - 1), dtype=torch.int64, device=index.device)
    key = _mix(_mix(_mix(start) ^ _code(stream)) ^ epoch)
    key = _mix(key ^ index)  # B
    bits = _mix(key[:, None] ^ _mix(torch.arange(n, device=index.device)))  # B n
    return _shift(bits, 11).double() * 2.0**-53


def draw(batch: Batch, stream: str, n: int) -> Float[Tensor, "B n"]:
    """Uniforms for every sample of a batch, from the coordinates of the sample."""
    return uniform(batch["seed"], stream, batch["epoch"], batch["index"], n)


def permutation(seed: int, epoch: int, n: int, data_set: int = 0) -> Tensor:
    """The order of an epoch: a permutation of n rows. Each data set has orders of its own."""
    return uniform(seed, "order", epoch, data_set, n)[0].argsort(stable=True)
