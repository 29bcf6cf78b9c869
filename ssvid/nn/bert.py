"""Token ids -> hidden states: BERT (arXiv:1810.04805) in the three uses of BLIP (arXiv:2201.12086).

Text alone; grounded, where every layer also attends to the tokens of a clip; decoder, where a token
attends to those before it. Norms come after each branch, and there are no token types.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ssvid.errors import UserError, check_positive, check_range
from ssvid.nn.clip import attend_heads
from ssvid.nn.linear import apply_linear
from ssvid.nn.transformer import map_gelu
from ssvid.shapes import Tokens

EPS = 1e-12  # of every LayerNorm, as BERT has it
PAD = 0  # number of the token that fills sentences up, in every vocabulary of BERT


class Shared(NamedTuple):
    """The first sentences of a batch look at these clips, `times` after each other."""

    clips: slice
    times: int


class Context(NamedTuple):
    """What the tokens of B sentences look at."""

    tokens: Float[Tensor, "C M D"]  # of C clips
    clip_of_row: Int[Tensor, " B"] | None = None  # the clip of each sentence; None: its own
    shared: Shared | None = None  # says the same of the first sentences, which saves memory
    further: Float[Tensor, "B E D"] | None = None  # tokens that a sentence alone looks at
    mask: Bool[Tensor, "C M"] | None = None  # False for tokens that are padding


class SelfAttention(nn.Module):
    """x, and what its tokens read of each other, normalised."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tokens, mask: Bool[Tensor, "B 1 q N"]) -> Tokens:
        q, k, v = apply_linear(self.qkv, x).chunk(3, -1)
        rate = self.rate if self.training else 0.0
        mixed = attend_heads(q, k, v, self.heads, mask, dropout=rate)
        return self.norm(x + self.dropout(apply_linear(self.proj, mixed)))


class CrossAttention(nn.Module):
    """x, and what its tokens read of a context `context_dim` wide, normalised."""

    def __init__(self, dim: int, context_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.q, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.k, self.v = nn.Linear(context_dim, dim), nn.Linear(context_dim, dim)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tokens, context: Context) -> Tokens:
        q = apply_linear(self.q, x)
        if context.shared is None or context.further is not None:
            mixed = self.attend(q, context)
        else:
            mixed = self.attend_shared(q, context, context.shared)
        return self.norm(x + self.dropout(apply_linear(self.proj, mixed)))

    def attend(self, q: Tokens, context: Context) -> Tokens:
        k, v = self.map_context(self.k, context), self.map_context(self.v, context)
        mask = None if context.mask is None else context.mask[:, None, None]
        rate = self.rate if self.training else 0.0
        return attend_heads(q, k, v, self.heads, mask, dropout=rate)

    def attend_shared(self, q: Tokens, context: Context, shared: Shared) -> Tokens:
        """As `attend`, without a copy of the keys for each sentence that looks at a clip.

        The words of all sentences that look at one clip become one long sentence.
        """
        rate = self.rate if self.training else 0.0
        k, v = apply_linear(self.k, context.tokens), apply_linear(self.v, context.tokens)
        own_k, own_v = k[shared.clips], v[shared.clips]
        count = shared.times * len(own_k)
        long = rearrange(q[:count], "(n C) W D -> C (n W) D", n=shared.times)
        mixed = attend_heads(long, own_k, own_v, self.heads, dropout=rate)
        mixed = rearrange(mixed, "C (n W) D -> (n C) W D", n=shared.times)
        assert context.clip_of_row is not None, "sentences that share clips have numbers of clips"
        rows = context.clip_of_row[count:]
        others = attend_heads(q[count:], k[rows], v[rows], self.heads, dropout=rate)
        return torch.cat([mixed, others])

    def map_context(self, linear: nn.Linear, context: Context) -> Float[Tensor, "B M d"]:
        """A clip that several sentences look at is mapped once."""
        mapped = apply_linear(linear, context.tokens)
        if context.clip_of_row is not None:
            mapped = mapped[context.clip_of_row]
        if context.further is not None:
            mapped = torch.cat([mapped, apply_linear(linear, context.further)], 1)
        return mapped


class BertLayer(nn.Module):
    """Self-attention, cross-attention where there is a context, and an MLP."""

    def __init__(self, dim: int, heads: int, context_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads, dropout)
        self.cross = CrossAttention(dim, context_dim, heads, dropout)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(dim, eps=EPS)

    def forward(
        self,
        x: Tokens,
        mask: Bool[Tensor, "B 1 q N"],
        context: Context | None,
    ) -> Tokens:
        x = self.attention(x, mask)
        if context is not None:
            x = self.cross(x, context)
        return self.feed(x)

    def feed(self, x: Tokens) -> Tokens:
        """x and what the MLP makes of it, normalised."""
        branch = map_gelu(apply_linear(self.fc1, x), self.fc2)
        return self.norm(x + self.dropout(branch))


class Bert(nn.Module):
    """The defaults are those of BERT-base. `vocabulary`: rows of the table of words."""

    def __init__(
        self,
        vocabulary: int,
        *,
        dim: int = 768,
        layers: int = 12,
        heads: int = 12,
        context_dim: int = 768,  # width of the context of cross-attention
        positions: int = 512,  # tokens of the longest sentence
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_positive(dim=dim, layers=layers, context_dim=context_dim, positions=positions)
        check_range(0, 0.99, dropout=dropout)
        if heads < 1 or dim % heads:
            raise UserError(f"A width of {dim} does not divide into {heads} attention heads.")
        self.dim, self.heads, self.context_dim = dim, heads, context_dim
        self.table = nn.Embedding(vocabulary, dim)
        self.positions = nn.Parameter(torch.zeros(positions, dim))
        self.norm, self.dropout = nn.LayerNorm(dim, eps=EPS), nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            BertLayer(dim, heads, context_dim, dropout) for _ in range(layers)
        )
        self.apply(init_bert)
        nn.init.normal_(self.positions, std=0.02)

    def forward(
        self,
        ids: Int[Tensor, "B W"],
        context: Context | None = None,
        causal: bool = False,
    ) -> Tokens:
        """The hidden state of each token. `causal`: a token sees itself and those before it."""
        mask = (ids != PAD)[:, None, None]
        if causal:
            width = ids.shape[1]
            mask = mask & torch.ones(width, width, dtype=torch.bool, device=ids.device).tril()
        x = self.begin(ids)
        for layer in cast("list[BertLayer]", [*self.layers]):
            x = layer(x, mask, context)
        return x

    def begin(self, ids: Int[Tensor, "B W"]) -> Tokens:
        """The tokens before the first layer."""
        x = self.table(ids) + self.positions[: ids.shape[1]]
        return self.dropout(self.norm(x))


class WordHead(nn.Module):
    """Hidden states -> logits of words. The output matrix is the decoder's own table of words."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.transform, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim, eps=EPS)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.apply(init_bert)

    def forward(
        self, x: Float[Tensor, "*n D"], table: Float[Tensor, "V D"]
    ) -> Float[Tensor, "*n V"]:
        return F.linear(self.norm(F.gelu(self.transform(x))), table, self.bias)


def init_bert(module: nn.Module) -> None:
    """BERT's initialisation, for `nn.Module.apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
