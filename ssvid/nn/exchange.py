"""How the frames of a video learn of each other inside the blocks of a picture transformer.

X-CLIP (arXiv:2208.02816) sends one message for each frame. The other ways are those that it is
compared with: joint and divided attention over space and time (TimeSformer, arXiv:2102.05095), or
nothing.
"""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.nn.clip import attend_heads
from ssvid.nn.linear import apply_linear
from ssvid.shapes import Tokens


@runtime_checkable
class FrameBlock(Protocol):
    """A block with two branches, each of which adds itself to its input."""

    def attend(self, x: Tokens, context: Float[Tensor, "B M D"] | None = None) -> Tokens:
        """Attention of x to itself and to more tokens, the context."""
        ...

    def feed(self, x: Tokens) -> Tokens:
        """The MLP."""
        ...


class DropPath(nn.Module):
    """Leave a residual branch out for some videos in training, and scale it up for the others.

    The published code draws for each token position instead, but never with a rate above 0.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def add(self, x: Tensor, with_branch: Tensor, videos: int) -> Tensor:
        """`with_branch` is x plus the branch. The rows belong to `videos` videos, in order."""
        if not self.rate or not self.training:
            return with_branch
        survives = torch.rand(videos, device=x.device) >= self.rate
        scale = (survives / (1 - self.rate)).repeat_interleave(len(x) // videos).to(x)
        return x + (with_branch - x) * scale.view(-1, *[1] * (x.ndim - 1))


class Exchange(nn.Module, ABC):
    """The attention of one block, with what its frames learn of each other."""

    @abstractmethod
    def attend(self, block: FrameBlock, x: Tokens, videos: int, drop: DropPath) -> Tokens:
        """x plus the attention of the block. x holds the frames of `videos` videos, in order."""


class NoExchange(Exchange):
    """Every frame attends to itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()

    def attend(self, block: FrameBlock, x: Tokens, videos: int, drop: DropPath) -> Tokens:
        return drop.add(x, block.attend(x), videos)


class Messages(Exchange):
    """Every frame attends to itself and to its message.

    The message is a linear map of the raw class token, and then attends to the messages of the
    other frames of its video.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fc = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        nn.init.xavier_uniform_(self.qkv.weight)  # as torch's attention
        for linear in (self.qkv, self.proj):
            nn.init.zeros_(linear.bias)

    def attend(self, block: FrameBlock, x: Tokens, videos: int, drop: DropPath) -> Tokens:
        message = apply_linear(self.fc, rearrange(x[:, 0], "(B T) D -> B T D", B=videos))
        q, k, v = apply_linear(self.qkv, self.norm(message)).chunk(3, -1)
        branch = apply_linear(self.proj, attend_heads(q, k, v, self.heads))
        message = drop.add(message, message + branch, videos)
        context = rearrange(message, "B T D -> (B T) 1 D")
        return drop.add(x, block.attend(x, context), videos)


class JointAttention(Exchange):
    """Every token attends to all tokens of its video."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()

    def attend(self, block: FrameBlock, x: Tokens, videos: int, drop: DropPath) -> Tokens:
        together = rearrange(x, "(B T) N D -> B (T N) D", B=videos)
        together = drop.add(together, block.attend(together), videos)
        return rearrange(together, "B (T N) D -> (B T) N D", N=x.shape[1])


class DividedAttention(Exchange):
    """Every token attends to the tokens at its place in the other frames, then to its own frame.

    The output of the first attention starts at zero, so that the net starts as its pictures' net.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def attend(self, block: FrameBlock, x: Tokens, videos: int, drop: DropPath) -> Tokens:
        over_time = rearrange(x, "(B T) N D -> (B N) T D", B=videos)
        q, k, v = apply_linear(self.qkv, self.norm(over_time)).chunk(3, -1)
        branch = apply_linear(self.proj, attend_heads(q, k, v, self.heads))
        branch = rearrange(branch, "(B N) T D -> (B T) N D", B=videos)
        x = drop.add(x, x + branch, videos)
        return drop.add(x, block.attend(x), videos)


EXCHANGES: dict[str, type[Exchange]] = {
    "messages": Messages,
    "none": NoExchange,
    "joint": JointAttention,
    "divided": DividedAttention,
}
