"""Tokens in order of time -> what they are after each block: CLIP's transformer with padding masks, and its positions.

As TAN has it (Han et al. 2022): pre-norm, quick GELU, no dropout, no causal mask, every block's output supervised.
"""

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ssvid.errors import UserError
from ssvid.shapes import Tokens

ALIGNER_CARD = "aligner.json"  # in the folder of an aligner's run: its tower, and whose features it learnt from

QUICK = 1.702  # x sigmoid(1.702 x)


class Aligned(NamedTuple):
    """A window's sentences against its seconds: cosines over the temperature, of every stage."""

    joint: Float[Tensor, "S K T"]
    dual: Float[Tensor, "E K T"]
    alignable: Float[Tensor, "S K"] | None  # logits; None: no such head


class Block(nn.Module):
    """Takes its input twice: as it is, and through `norm1`, which is also what the block before gives as its stage."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tokens, normed: Tokens, seen: Bool[Tensor, "B 1 1 N"] | None) -> Tokens:
        q, k, v = rearrange(self.qkv(normed), "B N (s a d) -> s B a N d", s=3, a=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.proj(rearrange(mixed, "B a N d -> B N (a d)"))
        # Quick GELU, silu(1.702 x) / 1.702, by the kernel that keeps its input alone. The weights are scaled, which are
        # fewer than the numbers that pass.
        wide = F.linear(self.norm2(x), QUICK * self.fc1.weight, QUICK * self.fc1.bias)
        return x + F.linear(F.silu(wide), self.fc2.weight / QUICK, self.fc2.bias)


class Timeline(nn.Module):
    """Stages: after each block but the last the next one's first norm, after the last a norm of its own."""

    def __init__(self, dim: int, heads: int, layers: int) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"A width of {dim} does not divide into {heads} attention heads.")
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tokens, hidden: Bool[Tensor, "B N"]) -> Float[Tensor, "L B N D"]:
        """`hidden`: tokens that only fill up; none looks at them."""
        seen = (
            ~hidden[:, None, None] if hidden.any() else None
        )  # without a mask the attention kernel is faster
        blocks = cast("list[Block]", [*self.blocks])
        norms = [*(block.norm1 for block in blocks), self.norm]
        stages = [norms[0](x)]
        for block, norm in zip(blocks, norms[1:], strict=True):
            x = block(x, stages[-1], seen)
            stages.append(norm(x))
        return torch.stack(stages[1:])

    def start(self, depth: int) -> None:
        """CLIP's: `depth` is that of the stack by which residual branches shrink."""
        dim = self.norm.normalized_shape[0]
        for block in cast("list[Block]", [*self.blocks]):
            nn.init.normal_(block.qkv.weight, std=dim**-0.5)
            nn.init.normal_(block.fc1.weight, std=(2 * dim) ** -0.5)
            for last in (block.proj, block.fc2):
                nn.init.normal_(last.weight, std=dim**-0.5 * (2 * depth) ** -0.5)
            for bias in (
                block.qkv.bias,
                block.proj.bias,
            ):  # as torch starts its attention; the MLP's keep torch's own
                nn.init.zeros_(bias)


def sine(rows: int, dim: int) -> Float[Tensor, "rows dim"]:
    """The table that is not learnt: the last row lies one turn from the first."""
    turn = 2 * math.pi * torch.arange(rows, dtype=torch.float64) / (rows - 1 + 1e-6)
    column = torch.arange(dim)
    angle = turn[:, None] / 10000 ** (2 * (column // 2).double() / dim)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def places(
    table: Float[Tensor, "rows D"], n: int, start: int = 0, interpolate_from: int | None = None
) -> Float[Tensor, "n D"]:
    """Rows start, start + 1, ... of the table; or its first `interpolate_from` rows, stretched over n."""
    if interpolate_from is not None:
        if not 0 < interpolate_from <= len(table):
            raise UserError(
                f"interpolate_from {interpolate_from}: the table of positions has {len(table)} rows."
            )
        return F.interpolate(table[:interpolate_from].T[None], size=n, mode="linear")[0].T
    if start + n > len(table):
        raise UserError(
            f"{n} places from {start} on are more than the {len(table)} rows of the table: give interpolate_from."
        )
    return table[start : start + n]
