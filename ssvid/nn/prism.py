"""Tokens -> Tokens: the blocks and the attention pooler of VideoPrism (arXiv:2402.13217).

Its encoder, its text tower and the blocks before its pooler share them.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssvid.errors import UserError
from ssvid.nn.capped import CAP, Run, attend_capped
from ssvid.nn.linear import apply_linear, map_linear
from ssvid.nn.transformer import LinearOfGELU, Recomputable
from ssvid.shapes import Tokens

EPS = 1e-6
R_SOFTPLUS_0 = 1.442695041  # 1 / softplus(0): a scale of 0 is plain attention
Norms = Literal["pre", "primer_hybrid"]


class OffsetNorm(nn.Module):
    """LayerNorm whose scale is stored as an offset from one, as in the published files."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (len(self.scale),), 1 + self.scale, self.bias, EPS)


class CappedAttention(nn.Module):
    """Attention inside each group of tokens, with capped logits.

    The biases have a row for each head, so a file shows how many heads there are.
    """

    def __init__(self, dim: int, heads: int, cap: float = CAP) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise UserError(f"A width of {dim} does not divide into {heads} attention heads.")
        self.heads, self.cap = heads, cap
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.qkv_bias = nn.Parameter(torch.zeros(3 * heads, dim // heads))
        self.proj = nn.Linear(dim, dim)
        init_lecun(self.qkv.weight, dim * heads)
        init_lecun(self.proj.weight, dim * heads)
        nn.init.zeros_(self.proj.bias)

    def forward(
        self,
        x: Float[Tensor, "R D"],
        runs: Sequence[Run],
        mask: Bool[Tensor, "n q M"] | None = None,
    ) -> Float[Tensor, "R D"]:
        qkv = map_linear(x, self.qkv.weight, self.qkv_bias.flatten())
        qkv = rearrange(qkv, "R (s a d) -> R s a d", s=3, a=self.heads)
        mixed = attend_capped(qkv, runs, self.cap, mask)
        return apply_linear(self.proj, mixed.flatten(1))


class PrismMLP(nn.Module):
    def __init__(self, dim: int, hidden: int, activation: Literal["gelu", "relu"]) -> None:
        super().__init__()
        self.is_gelu = activation == "gelu"
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        for linear in (self.fc1, self.fc2):
            init_lecun(linear.weight, linear.in_features)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
        wide = apply_linear(self.fc1, x)
        if not self.is_gelu:
            return apply_linear(self.fc2, F.relu(wide))
        if not torch.is_grad_enabled():
            return apply_linear(self.fc2, F.gelu(wide))
        weight, bias = self.fc2.weight.to(wide.dtype), self.fc2.bias.to(wide.dtype)
        return LinearOfGELU.apply(wide, weight, bias)


class PrismBlock(Recomputable):
    """Attention and an MLP, each behind a norm. `primer_hybrid` has a norm after each as well."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        *,
        activation: Literal["gelu", "relu"] = "gelu",
        norms: Norms = "pre",
        cap: float = CAP,
    ) -> None:
        super().__init__()
        # The arguments that make it again, for the card of a file.
        self.sizes: dict[str, Any] = {"dim": dim, "heads": heads, "hidden": hidden, "cap": cap}
        self.sizes |= {"activation": activation, "norms": norms}
        self.norm1, self.attn = OffsetNorm(dim), CappedAttention(dim, heads, cap)
        self.norm2, self.mlp = OffsetNorm(dim), PrismMLP(dim, hidden, activation)
        is_hybrid = norms == "primer_hybrid"
        self.norm1_after = OffsetNorm(dim) if is_hybrid else None
        self.norm2_after = OffsetNorm(dim) if is_hybrid else None

    def forward(
        self,
        x: Float[Tensor, "R D"],
        runs: Sequence[Run],
        mask: Bool[Tensor, "n q M"] | None = None,
        padding: Bool[Tensor, " R"] | None = None,
    ) -> Float[Tensor, "R D"]:
        """`padding`: tokens without an MLP branch, as the published code treats padding."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._run, x, runs, mask, padding, use_reentrant=False)
        return self._run(x, runs, mask, padding)

    def _run(
        self,
        x: Float[Tensor, "R D"],
        runs: Sequence[Run],
        mask: Bool[Tensor, "n q M"] | None,
        padding: Bool[Tensor, " R"] | None,
    ) -> Float[Tensor, "R D"]:
        mixed = self.attn(self.norm1(x), runs, mask)
        x = x + (mixed if self.norm1_after is None else self.norm1_after(mixed))
        branch = self.mlp(self.norm2(x))
        if self.norm2_after is not None:
            branch = self.norm2_after(branch)
        if padding is not None:
            branch = branch.masked_fill(padding[:, None], 0)
        return x + branch


def choose_heads(dim: int) -> int:
    """The published 12 heads of attention, or a number that divides the width instead."""
    return next(heads for heads in (12, 16, 8, 4, 2, 1) if dim % heads == 0)


class AttentionPooler(nn.Module):
    """Learnt queries that attend to all tokens: no cap, no MLP and no residual.

    Each dimension of a head has a learnt scale. `hidden`: width of all heads together.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        hidden: int | None = None,  # null: four times dim, as in the video-text model
        queries: int = 1,
        query_dim: int | None = None,  # width of queries and outputs; null: dim
        norms_heads: bool = False,  # a norm of the queries and the keys of every head
        norms_output: bool = True,
    ) -> None:
        super().__init__()
        hidden, query_dim = hidden or 4 * dim, query_dim or dim
        if heads < 1 or hidden % heads:
            raise UserError(f"A width of {hidden} does not divide into {heads} attention heads.")
        # The arguments that make it again, for the card of a file.
        self.sizes: dict[str, Any] = {"dim": dim, "heads": heads, "hidden": hidden}
        self.sizes |= {"queries": queries}
        self.sizes |= {"query_dim": query_dim, "norms_heads": norms_heads}
        self.sizes |= {"norms_output": norms_output}
        self.heads, width = heads, hidden // heads
        self.queries = nn.Parameter(torch.empty(queries, query_dim))
        self.q, self.k = nn.Linear(query_dim, hidden), nn.Linear(dim, hidden)
        self.v, self.proj = nn.Linear(dim, hidden), nn.Linear(hidden, query_dim)
        self.per_dim_scale = nn.Parameter(torch.zeros(width))
        self.norm_q = OffsetNorm(width) if norms_heads else None
        self.norm_k = OffsetNorm(width) if norms_heads else None
        self.norm = OffsetNorm(query_dim) if norms_output else None
        init_lecun(self.queries, queries)
        for linear in (self.q, self.k, self.v):
            init_lecun(linear.weight, linear.in_features * heads)
            nn.init.zeros_(linear.bias)
        init_lecun(self.proj.weight, query_dim * heads)
        nn.init.zeros_(self.proj.bias)

    def forward(
        self, tokens: Tokens, padding: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B Q E"]:
        q = rearrange(self.q(self.queries), "Q (a d) -> a Q d", a=self.heads)
        k = rearrange(apply_linear(self.k, tokens), "B N (a d) -> B a N d", a=self.heads)
        v = rearrange(apply_linear(self.v, tokens), "B N (a d) -> B a N d", a=self.heads)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        q = q * (R_SOFTPLUS_0 / math.sqrt(q.shape[-1]) * F.softplus(self.per_dim_scale))
        mask = None if padding is None else ~padding[:, None, None]
        q = q.to(k.dtype).expand(len(k), -1, -1, -1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        pooled = apply_linear(self.proj, rearrange(mixed, "B a Q d -> B Q (a d)"))
        return pooled if self.norm is None else self.norm(pooled)


@torch.no_grad()
def init_lecun(weight: Tensor, fan_in: int) -> None:
    """A normal distribution of variance 1 / fan_in, cut at two deviations, in place."""
    std = fan_in**-0.5 / 0.87962566103423978  # the deviation that cutting leaves
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
