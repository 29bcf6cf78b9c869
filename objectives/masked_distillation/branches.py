"""Visible tokens of the student -> what the teacher made of every token and of the whole clip.

Each branch has a decoder of its own, and none is a part of the encoder that is exported.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ssvid.errors import check_positive
from ssvid.nn.masks import take
from ssvid.nn.position import Kind, Positions
from ssvid.nn.prism import AttentionPooler
from ssvid.nn.transformer import EPS, Block, init_transformer
from ssvid.shapes import Dropped, Grid, Index, Pooled, Tokens

MaskToken = Literal["decoder", "encoder"]
VisibleTokens = Float[Tensor, "B K D"]
Order = Int[Tensor, "B N"] | None  # slot of the decoder -> position whose token it holds


class Sizes(NamedTuple):
    """Of a decoder."""

    width: int
    depth: int  # blocks
    heads: int
    hidden: int  # width of the MLPs


class Decoder(nn.Module):
    """Blocks over all tokens of a clip, then a norm.

    The paper calls them transformer layers and no more. They are the plain blocks, because the cap
    of the logits belongs to the released encoder, and plain attention has fused kernels.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, depth, heads, hidden = sizes
        check_positive(**{f"objective.dec_{name}": x for name, x in sizes._asdict().items()})
        ratio = hidden / width
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio=ratio, bias="qkv") for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.blocks.apply(init_transformer)

    def forward(self, x: Tokens) -> Tokens:
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class LocalBranch(nn.Module):
    """Predicts the teacher's token of every position of a clip."""

    def __init__(
        self, dim: int, grid: Grid, sizes: Sizes, positions: Kind, mask_token: MaskToken
    ) -> None:
        super().__init__()
        self.bridge = nn.Linear(dim, sizes.width)
        self.is_wide = mask_token == "encoder"
        self.mask_token = nn.Parameter(torch.empty(dim if self.is_wide else sizes.width))
        self.positions = Positions(positions, sizes.width, grid)
        self.decoder = Decoder(sizes)
        self.out = nn.Linear(sizes.width, dim)
        init_transformer(self.out)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(
        self,
        tokens: VisibleTokens,
        visible: Index,
        hidden: Dropped,
        grid: Grid,
        order: Order,
    ) -> Tokens:
        """B N D for all positions, in natural order."""
        return self.out(self.decoder(self.arrange(tokens, visible, hidden, grid, order)))

    def arrange(
        self,
        tokens: VisibleTokens,
        visible: Index,
        hidden: Dropped,
        grid: Grid,
        order: Order,
    ) -> Float[Tensor, "B N d"]:
        """The decoder's input: slot j holds the token of position order[j], and position j.

        A hidden token is the mask token. Positions are added behind the shuffling, so that only
        they say which of the teacher's tokens a slot predicts: what a slot holds is no answer.
        `order`: None leaves every token at its position.
        """
        x = self.append_mask_tokens(tokens, hidden.shape[1])
        index = torch.cat([visible, hidden], 1).argsort(1)  # position -> where its token lies in x
        if order is not None:
            index = index.gather(1, order)
        return take(x, index) + self.positions(grid, x)

    def append_mask_tokens(self, tokens: VisibleTokens, count: int) -> Float[Tensor, "B N d"]:
        if self.is_wide:
            masks = self.mask_token.to(tokens.dtype).expand(len(tokens), count, -1)
            return self.bridge(torch.cat([tokens, masks], 1))
        x = self.bridge(tokens)
        return torch.cat([x, self.mask_token.to(x.dtype).expand(len(x), count, -1)], 1)


class GlobalBranch(nn.Module):
    """Predicts the teacher's vector of the whole clip from the visible tokens alone.

    Nothing is shuffled and no positions are added: the encoder has put them into its tokens.
    """

    def __init__(self, dim: int, sizes: Sizes, pooler: AttentionPooler) -> None:
        super().__init__()
        self.bridge = nn.Linear(dim, sizes.width)
        self.decoder = Decoder(sizes)
        self.out = nn.Linear(sizes.width, dim)
        self.pooler = pooler
        init_transformer(self.out)

    def forward(self, tokens: VisibleTokens) -> Pooled:
        return self.pooler(self.out(self.decoder(self.bridge(tokens))))[:, 0]
