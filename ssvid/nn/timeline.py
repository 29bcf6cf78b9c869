"""Tokens in order of time -> their values after each block.

This is CLIP's transformer with padding masks, and its positions, as TAN has them (Han et al. 2022):
pre-norm, quick GELU, no dropout, no causal mask, and a loss on the output of every block.
"""

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ssvid.errors import UserError
from ssvid.nn.clip import ClipBlock
from ssvid.shapes import Tokens

# A file in the folder of an aligner's run: its tower, and the features that it learnt from.
ALIGNER_CARD = "aligner.json"


class Aligned(NamedTuple):
    """Logits of the sentences of a window against its seconds, of every stage.

    They are cosines over the temperature.
    """

    joint: Float[Tensor, "S K T"]
    dual: Float[Tensor, "E K T"]
    alignable: Float[Tensor, "S K"] | None  # logits; None: the aligner has no such head


class Timeline(nn.Module):
    """A stack of blocks that returns a stage after each block.

    A stage is the output after the first norm of the next block; the last block has a norm of its
    own.
    """

    def __init__(self, dim: int, heads: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ClipBlock(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tokens, padding: Bool[Tensor, "B N"]) -> Float[Tensor, "L B N D"]:
        """`padding`: tokens that no token attends to."""
        # Without a mask the attention kernel is faster.
        mask = ~padding[:, None, None] if padding.any() else None
        blocks = cast("list[ClipBlock]", [*self.blocks])
        norms = [*(block.norm1 for block in blocks), self.norm]
        stages = [norms[0](x)]
        for block, norm in zip(blocks, norms[1:], strict=True):
            x = block.feed(x + block.mix(stages[-1], mask))  # the last stage is `norm1` of x
            stages.append(norm(x))
        return torch.stack(stages[1:])

    def init_weights(self, depth: int) -> None:
        """CLIP's initialisation. `depth`: of the stack that scales down its residual branches."""
        dim = self.norm.normalized_shape[0]
        for block in cast("list[ClipBlock]", [*self.blocks]):
            nn.init.normal_(block.qkv.weight, std=dim**-0.5)
            nn.init.normal_(block.fc1.weight, std=(2 * dim) ** -0.5)
            for last in (block.proj, block.fc2):
                nn.init.normal_(last.weight, std=dim**-0.5 * (2 * depth) ** -0.5)
            # These are zero as in torch's attention; the biases of the MLP keep torch's default.
            for bias in (block.qkv.bias, block.proj.bias):
                nn.init.zeros_(bias)


def sine(rows: int, dim: int) -> Float[Tensor, "rows dim"]:
    """The table of positions that is not learnt. The last row is one period after the first."""
    turn = 2 * math.pi * torch.arange(rows, dtype=torch.float64) / (rows - 1 + 1e-6)
    column = torch.arange(dim)
    angle = turn[:, None] / 10000 ** (2 * (column // 2).double() / dim)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def select_positions(
    table: Float[Tensor, "rows D"], n: int, start: int = 0, interpolate_from: int | None = None
) -> Float[Tensor, "n D"]:
    """Rows start, start + 1, ... of a table of positions, n of them.

    `interpolate_from`: take so many rows from the first on, and stretch them over n. Raises
    UserError if the table is too short.
    """
    if interpolate_from is not None:
        if not 0 < interpolate_from <= len(table):
            raise UserError(
                f"interpolate_from {interpolate_from}: the table has {len(table)} positions."
            )
        return F.interpolate(table[:interpolate_from].T[None], size=n, mode="linear")[0].T
    if start + n > len(table):
        raise UserError(
            f"{n} positions from {start} on are more than the {len(table)} rows of the table: "
            "give interpolate_from."
        )
    return table[start : start + n]
