"""Tokens -> Tokens: the transformer block of CLIP (arXiv:2103.00020).

CLIP's two sides, X-CLIP and TAN have it: norm before each branch, no dropout, and quick GELU, in
whose place some nets of open_clip, and BLIP's pictures, have the exact one.
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ssvid.errors import UserError
from ssvid.nn.linear import apply_linear, map_linear
from ssvid.nn.transformer import map_gelu
from ssvid.shapes import Tokens

Gelu = Literal["quick", "exact"]
QUICK = 1.702  # quick GELU is x sigmoid(1.702 x)


class ClipBlock(nn.Module):
    """Attention, then an MLP of four times the width."""

    def __init__(self, dim: int, heads: int, gelu: Gelu = "quick", eps: float = 1e-5) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise UserError(f"A width of {dim} does not divide into {heads} attention heads.")
        self.heads, self.is_quick = heads, gelu == "quick"
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(
        self, x: Tokens, causal: bool = False, mask: Bool[Tensor, "B 1 q N"] | None = None
    ) -> Tokens:
        """`causal`: a token attends to itself and to those before it. `mask`: instead, to these."""
        return self.feed(x + self.mix(self.norm1(x), mask, causal))

    def attend(self, x: Tokens, context: Float[Tensor, "B M D"] | None = None) -> Tokens:
        """The attention branch, added to x. `context`: more tokens that x attends to."""
        if context is None:
            return x + self.mix(self.norm1(x))
        both = self.norm1(torch.cat([x, context], 1))
        # One product is cheaper than two of parts of the weights, though q of the context is lost.
        q, k, v = apply_linear(self.qkv, both).chunk(3, -1)
        mixed = attend_heads(q[:, : x.shape[1]], k, v, self.heads)
        return x + apply_linear(self.proj, mixed)

    def mix(
        self, normed: Tokens, mask: Bool[Tensor, "B 1 q N"] | None = None, causal: bool = False
    ) -> Tokens:
        """The attention branch of tokens after `norm1`. `mask`: tokens that are attended to."""
        q, k, v = apply_linear(self.qkv, normed).chunk(3, -1)
        return apply_linear(self.proj, attend_heads(q, k, v, self.heads, mask, causal))

    def feed(self, x: Tokens) -> Tokens:
        """The MLP branch, added to x."""
        if self.is_quick:
            return feed_quick(x, self.norm2, self.fc1, self.fc2)
        return x + map_gelu(apply_linear(self.fc1, self.norm2(x)), self.fc2)


def feed_quick(
    x: Float[Tensor, "B N D"], norm: nn.LayerNorm, wide: nn.Linear, narrow: nn.Linear
) -> Float[Tensor, "B N D"]:
    """x and a branch of norm, linear map, quick GELU and linear map.

    Quick GELU is silu(1.702 x) / 1.702, and the kernel of silu stores its input only. The first
    factor goes into the norm's weights and the biases, and the second into the sum: they are then
    multiplied with neither a weight matrix nor the wide activations.
    """
    normed = F.layer_norm(
        x, norm.normalized_shape, QUICK * norm.weight, QUICK * norm.bias, norm.eps
    )
    activations = F.silu(map_linear(normed, wide.weight, QUICK * wide.bias))
    branch = map_linear(activations, narrow.weight, QUICK * narrow.bias)
    return torch.add(x, branch, alpha=1 / QUICK)


def attend_heads(
    q: Float[Tensor, "B M D"],
    k: Float[Tensor, "B N D"],
    v: Float[Tensor, "B N D"],
    heads: int,
    mask: Bool[Tensor, "B 1 q N"] | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Float[Tensor, "B M D"]:
    """Attention of several heads, before the projection of its output."""
    q, k, v = (rearrange(x, "B N (a d) -> B a N d", a=heads) for x in (q, k, v))
    mixed = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout
    )
    return rearrange(mixed, "B a N d -> B N (a d)")


def init_blocks(blocks: nn.ModuleList, width: int) -> None:
    """CLIP's initialisation: residual branches are smaller the deeper the net."""
    for block in cast("list[ClipBlock]", [*blocks]):
        nn.init.normal_(block.qkv.weight, std=width**-0.5)
        nn.init.normal_(block.fc1.weight, std=(2 * width) ** -0.5)
        for last in (block.proj, block.fc2):
            nn.init.normal_(last.weight, std=width**-0.5 * (2 * len(blocks)) ** -0.5)
