"""The fast paths of the transformer against plain writings of the same."""

import torch
import torch.nn.functional as F

from benchmarks.profiling.speed.pairs import saved_bytes
from ssvid.nn.transformer import Block, LinearOfGELU
from tests.helpers import for_each


def test_linear_of_gelu_is_the_plain_two():
    torch.manual_seed(0)
    parts = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 5, 8), (3, 8), (3,))
    ]
    plain = F.linear(F.gelu(parts[0]), *parts[1:])
    ours = LinearOfGELU.apply(*parts)
    seed = torch.randn_like(plain)
    assert torch.equal(ours, plain)
    for a, b in zip(
        torch.autograd.grad(ours, parts, seed), torch.autograd.grad(plain, parts, seed), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(LinearOfGELU.apply, parts)


def test_a_frozen_weight_gets_no_gradient():
    x, weight, bias = torch.randn(2, 3, 8, requires_grad=True), torch.randn(3, 8), torch.randn(3)
    LinearOfGELU.apply(x, weight, bias).sum().backward()
    assert x.grad is not None


def test_half_precision_is_that_of_autocast():
    torch.manual_seed(0)
    block, x = Block(16, 2), torch.randn(2, 6, 16)
    with torch.autocast("cpu", torch.bfloat16):
        ours = block(x)
        y = x + block.attn(block.norm1(x))
        plain = y + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(y))))
    assert torch.equal(ours, plain)
    ours.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in block.parameters())


@for_each("bias", ["qv", "qkv", "none"])
def test_the_last_tokens_alone_are_those_of_all(bias: str):
    torch.manual_seed(0)
    block, x = (
        Block(16, 2, bias=bias, layer_scale=0.5).double(),
        torch.randn(2, 7, 16, dtype=torch.float64),
    )
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    for n in (1, 4, 7):
        ours, plain = block(x, last=n), block(x)[:, -n:]
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
        seed = torch.randn_like(plain)
        mine = torch.autograd.grad(ours, list(block.parameters()), seed)
        theirs = torch.autograd.grad(plain, list(block.parameters()), seed)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_block_keeps_twelve_widths_of_a_token():
    """Inputs and outputs of both norms, q k v, the output of attention, and four of the MLP."""
    block, x = Block(64, 1), torch.randn(1, 100, 64, requires_grad=True)
    n_bytes = saved_bytes(lambda: block(x * 1).sum().backward())
    assert 12 * 100 * 64 * 4 <= n_bytes < 12.3 * 100 * 64 * 4
