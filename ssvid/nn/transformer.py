"""Tokens -> Tokens: the pre-norm transformer that encoders and decoders share."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssvid.errors import UserError, check_range
from ssvid.nn.linear import apply_linear
from ssvid.shapes import Tokens

Bias = Literal["qv", "qkv", "none"]
EPS = 1e-6  # of every LayerNorm, as VideoMAE and mae_st have it (Hugging Face's default differs)


class Attention(nn.Module):
    """Multi-head attention over one fused product.

    With bias `qv`, the bias of the keys is a constant zero, which nothing can train (VideoMAE).
    """

    q_bias: nn.Parameter | None
    k_bias: nn.Parameter | None
    v_bias: nn.Parameter | None

    def __init__(self, dim: int, heads: int, bias: Bias = "qv", dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or dim < 1 or dim % heads:
            raise UserError(f"A width of {dim} does not divide into {heads} attention heads.")
        check_range(0, 1, dropout=dropout)
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        for name in "qkv":
            self.register_parameter(
                f"{name}_bias", nn.Parameter(torch.zeros(dim)) if name in bias else None
            )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tokens, last: int | None = None) -> Float[Tensor, "B M D"]:
        """`last`: compute only the last so many tokens, which still attend to all."""
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            key = torch.zeros_like(self.q_bias) if self.k_bias is None else self.k_bias
            bias = torch.cat([self.q_bias, key, self.v_bias])
        if last is None:
            q, k, v = rearrange(
                F.linear(x, self.qkv.weight, bias), "B N (s a d) -> s B a N d", s=3, a=self.heads
            )
        else:
            D = x.shape[-1]
            q_bias, kv_bias = (None, None) if bias is None else (bias[:D], bias[D:])
            q = rearrange(
                F.linear(x[:, -last:], self.qkv.weight[:D], q_bias),
                "B M (a d) -> B a M d",
                a=self.heads,
            )
            k, v = rearrange(
                F.linear(x, self.qkv.weight[D:], kv_bias),
                "B N (s a d) -> s B a N d",
                s=2,
                a=self.heads,
            )
        x = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.dropout if self.training else 0.0
        )
        return self.proj(rearrange(x, "B a N d -> B N (a d)"))


class LinearOfGELU(torch.autograd.Function):
    """`linear(gelu(x))` that stores only x for backward, where it computes gelu(x) again.

    This saves a quarter of the memory of a block and costs a hundredth of its time. The numbers are
    those of the two plain functions.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)  # (B N) D
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            torch.ops.aten.gelu_backward(grad @ weight, x) if needs_x else None,
            rows.T @ F.gelu(x).flatten(0, -2) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )


def map_gelu(x: Tensor, linear: nn.Linear) -> Tensor:
    """`linear(gelu(x))`, which stores only x for backward."""
    if not torch.is_grad_enabled():
        return apply_linear(linear, F.gelu(x))
    # Autocast would do the same where it is on.
    weight, bias = linear.weight.to(x.dtype), linear.bias.to(x.dtype)
    out: Tensor = LinearOfGELU.apply(x, weight, bias)
    return out


class MLP(nn.Module):
    def __init__(self, dim: int, ratio: float, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, int(dim * ratio))
        self.fc2 = nn.Linear(int(dim * ratio), dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tokens) -> Tokens:
        x = self.fc1(x)
        # Autocast would do the same where it is on.
        weight, bias = self.fc2.weight.to(x.dtype), self.fc2.bias.to(x.dtype)
        return self.dropout(LinearOfGELU.apply(x, weight, bias))


class Recomputable(nn.Module):
    """A block that `recompute_blocks` knows."""

    recompute: bool = False  # store only the input for backward, and run the block again there


class Block(Recomputable):
    gamma_1: nn.Parameter | None
    gamma_2: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        bias: Bias = "qv",
        dropout: float = 0.0,
        layer_scale: float = 0.0,  # initial value; 0: none, as in every release
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = Attention(dim, heads, bias, dropout)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = MLP(dim, mlp_ratio, dropout)
        for name in ("gamma_1", "gamma_2"):
            self.register_parameter(
                name, nn.Parameter(layer_scale * torch.ones(dim)) if layer_scale > 0 else None
            )

    def forward(self, x: Tokens, last: int | None = None) -> Float[Tensor, "B M D"]:
        """`last`: return only the last so many tokens."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._run, x, last, use_reentrant=False)
        return self._run(x, last)

    def _run(self, x: Tokens, last: int | None) -> Float[Tensor, "B M D"]:
        residual = x if last is None else x[:, -last:]
        x = residual + _scale(self.attn(self.norm1(x), last), self.gamma_1)
        return x + _scale(self.mlp(self.norm2(x)), self.gamma_2)


def _scale(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else x * gamma


def init_transformer(module: nn.Module) -> None:
    """The initialisation of VideoMAE, for `nn.Module.apply`.

    Linear maps are xavier-uniform with zero biases; convolutions keep torch's default.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def recompute_blocks(net: nn.Module) -> None:
    """Make every block of the net compute its activations again in backward, which saves memory.

    No number changes. Raises UserError if the net has no such block.
    """
    blocks = [module for module in net.modules() if isinstance(module, Recomputable)]
    if not blocks:
        raise UserError(
            "--recompute: this net has no block that can compute its activations again. Leave the "
            "flag out, or take an encoder that has such blocks: vit or videoprism."
        )
    for block in blocks:
        block.recompute = True
