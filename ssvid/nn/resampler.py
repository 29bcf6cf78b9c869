"""Tokens -> as many vectors as there are queries (Perceiver resampler, arXiv:2204.14198)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.errors import UserError, check_positive
from ssvid.shapes import Tokens


class CrossBlock(nn.Module):
    """Queries attend to tokens, then an MLP. Each branch is added to its input.

    Queries and tokens have a norm each, and queries do not attend to each other.
    """

    def __init__(self, width: int, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_key = nn.LayerNorm(dim), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(width, 2 * dim)
        self.proj, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Float[Tensor, "B K E"], tokens: Tokens) -> Float[Tensor, "B K E"]:
        q = rearrange(self.query(self.norm_query(x)), "B K (a e) -> B a K e", a=self.heads)
        key_value = self.key_value(self.norm_key(tokens))
        k, v = rearrange(key_value, "B N (s a e) -> s B a N e", s=2, a=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(rearrange(mixed, "B a K e -> B K (a e)"))
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class Resampler(nn.Module):
    """`width` is that of the tokens, `dim` that of the vectors, `scale` their first size."""

    def __init__(
        self, width: int, dim: int, *, queries: int, layers: int, heads: int, scale: float = 1.0
    ) -> None:
        super().__init__()
        check_positive(queries=queries, layers=layers, heads=heads)
        if dim % heads:
            raise UserError(
                f"{heads} heads of attention do not divide the width {dim} of the language model: "
                "give other heads."
            )
        self.heads = heads
        self.queries = nn.Parameter(0.02 * torch.randn(queries, dim))
        self.blocks = nn.ModuleList(CrossBlock(width, dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        nn.init.constant_(self.norm.weight, scale)

    def forward(self, tokens: Tokens) -> Float[Tensor, "B K E"]:
        x = self.queries.expand(len(tokens), -1, -1)
        for block in self.blocks:
            x = block(x, tokens)
        return self.norm(x)
