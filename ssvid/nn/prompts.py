"""Sentences and a clip -> the sentences as this clip changes them (X-CLIP, arXiv:2208.02816)."""

from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.nn.clip import attend_heads, feed_quick
from ssvid.nn.linear import apply_linear

HEAD = 64  # width of an attention head, as published; narrower nets have one head


class PromptBlock(nn.Module):
    """Sentences attend to the clip's tokens, and then pass an MLP. They do not see each other."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.proj = nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(
        self, x: Float[Tensor, "B K D"], visual: Float[Tensor, "B P D"]
    ) -> Float[Tensor, "B K D"]:
        q, k, v = apply_linear(self.q, self.norm1(x)), self.k(visual), self.v(visual)
        x = x + apply_linear(self.proj, attend_heads(q, k, v, self.heads))
        return feed_quick(x, self.norm2, self.fc1, self.fc2)


class VideoPrompts(nn.Module):
    """The stream of all blocks, scaled by a learnt `alpha`, is added to the sentences.

    The stream includes the sentences themselves, so it is no residual alone.
    """

    def __init__(self, width: int, dim: int, layers: int = 2, alpha: float = 0.1) -> None:
        """`width`: of the clip's tokens; `dim`: of sentences and of the space that they share."""
        super().__init__()
        self.width = width
        self.norm_visual = nn.LayerNorm(width)
        self.project = nn.Linear(width, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        heads = max(1, dim // HEAD)
        self.blocks = nn.ModuleList(PromptBlock(dim, heads) for _ in range(layers))
        self.alpha = nn.Parameter(alpha * torch.ones(dim))
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.project.weight)  # of standard deviation 1, as published

    def summarise(self, tokens: Float[Tensor, "B N W"], frames: int) -> Float[Tensor, "B P D"]:
        """The tokens of the last block, projected and averaged over the frames of a clip."""
        context = apply_linear(self.project, self.norm_visual(tokens))
        return rearrange(context, "B (T P) D -> B T P D", T=frames).mean(1)

    def forward(
        self, text: Float[Tensor, "B K D"], context: Float[Tensor, "B P D"]
    ) -> Float[Tensor, "B K D"]:
        """The changed sentences. `context`: what `summarise` gives of each clip."""
        visual, x = self.norm(context), text
        for block in cast("list[PromptBlock]", [*self.blocks]):
            x = block(x, visual)
        return text + self.alpha * x
