"""Attention over time whose strength each block learns: LiteVL (arXiv:2210.11929).

The abstract tells that temporal attention is added to a picture transformer, and that a dynamic
scaling adjusts it. How the scale is computed was not to be had in print here; what is inferred is
said beside each choice.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.errors import check_positive
from ssvid.nn.clip import ClipBlock, attend_heads
from ssvid.nn.linear import apply_linear
from ssvid.nn.transformer import EPS

# What a scale belongs to: each frame has one (inferred), or each channel of each frame.
Scaling = Literal["none", "frame", "channel"]


class ScaledTime(nn.Module):
    """A patch attends to the patches at its place in the other frames.

    The branch begins as zero, as in TimeSformer (inferred), so the net begins as its pictures' net.
    """

    def __init__(self, dim: int, heads: int, scaling: Scaling, hidden: int | None) -> None:
        super().__init__()
        check_positive(scale_hidden=hidden)
        self.heads = heads
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.last = nn.Linear(dim, dim)
        self.scale = None if scaling == "none" else TimeScale(dim, hidden or dim // 4, scaling)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def begin_from(self, block: ClipBlock) -> None:
        """Take the weights of the block's own attention (inferred: TimeSformer's practice)."""
        for name in ("norm", "qkv", "proj"):
            theirs = block.norm1 if name == "norm" else getattr(block, name)
            getattr(self, name).load_state_dict(theirs.state_dict())

    def forward(self, x: Float[Tensor, "B T N D"]) -> Float[Tensor, "B T N D"]:
        """What is added to the patches of T frames."""
        over_time = rearrange(x, "B T N D -> (B N) T D")
        q, k, v = apply_linear(self.qkv, self.norm(over_time)).chunk(3, -1)
        mixed = apply_linear(self.proj, attend_heads(q, k, v, self.heads))
        branch = rearrange(apply_linear(self.last, mixed), "(B N) T D -> B T N D", B=len(x))
        return branch if self.scale is None else self.scale(branch)[:, :, None] * branch


class TimeScale(nn.Module):
    """The scales of the frames of a clip, from what attention over time gives. At first all are 1.

    The mean over patches goes through an MLP, tanh and + 1, so a scale lies between 0 and 2. The
    class tokens are not in the mean, and the MLP is a quarter as wide as a token (both inferred).
    """

    def __init__(self, dim: int, hidden: int, scaling: Scaling) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim if scaling == "channel" else 1)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)
        self.mean: Tensor
        # The mean scale of the last batch, for the curve over layers that a run draws.
        self.register_buffer("mean", torch.ones(()), persistent=False)

    def forward(self, branch: Float[Tensor, "B T N D"]) -> Float[Tensor, "B T S"]:
        hidden = F.gelu(self.fc1(branch.mean(2)))
        scales = torch.tanh(self.fc2(hidden)) + 1
        self.mean = scales.detach().mean()
        return scales


def join_patches(
    cls: Float[Tensor, "B T D"], x: Float[Tensor, "B T N D"]
) -> Float[Tensor, "BT N1 D"]:
    """The tokens of each frame, its class token first."""
    frames = torch.cat([cls[:, :, None], x], 2)
    return rearrange(frames, "B T N D -> (B T) N D")
