"""Sentences -> one vector each: CLIP's text side (arXiv:2103.00020)."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ssvid.errors import UserError, check_positive, check_range
from ssvid.nn.clip import ClipBlock, Gelu, init_blocks
from ssvid.text.bpe import BytePairs, find_vocabulary
from ssvid.text.tower import Length, Tower


class ClipText(Tower):
    """A causal transformer. The vector of a sentence is read at its end token, or behind it."""

    def __init__(
        self,
        *,
        # OpenAI's file of merges, or a folder of vocab.json and merges.txt; null: the file that an
        # installed open_clip ships
        vocabulary: str | None = None,
        letters: bool = False,  # no vocabulary: every letter is a token
        width: int = 512,  # of a token in the blocks
        layers: int = 12,
        heads: int = 8,  # of attention; they divide width
        dim: int = 512,  # of the space that sentences share with pictures
        length: int = 77,  # tokens of a sentence that are read, start and end included
        gelu: Gelu = "quick",  # of OpenAI; exact: of most nets of open_clip
        class_token: bool = False,  # a sentence is read at a learnt token behind it, as CoCa does
        context: int = 0,  # learnt tokens before the words (CoOp, arXiv:2109.01134)
        frozen: bool = False,  # all but the context
    ) -> None:
        super().__init__()
        check_positive(width=width, layers=layers, dim=dim)
        check_range(0, length, context=context)
        if class_token and context:
            raise UserError("A text side with a class token (CoCa's) takes no learnt context.")
        length_of_words = length - context - class_token
        if length_of_words < 3:
            raise UserError(f"A sentence of {length_of_words} tokens has no room for a word.")
        if letters and vocabulary is not None:
            raise UserError(f"The tower clip_text reads letters or {vocabulary}: leave one out.")
        self.dim = dim
        self.source = None if letters else find_vocabulary(vocabulary)
        self.pairs = BytePairs(self.source, length_of_words)
        self.words = self.pairs.words
        self.table = nn.Embedding(self.pairs.size, width)
        self.positions = nn.Parameter(0.01 * torch.randn(length, width))
        self.blocks = nn.ModuleList(ClipBlock(width, heads, gelu) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, dim, bias=False)
        nn.init.normal_(self.table.weight, std=0.02)
        nn.init.normal_(self.project.weight, std=width**-0.5)
        init_blocks(self.blocks, width)
        self.cls = nn.Parameter(0.01 * torch.randn(width)) if class_token else None
        self.requires_grad_(not frozen)
        self.context = nn.Parameter(0.02 * torch.randn(context, width)) if context else None

    def tokens(self, sentences: Sequence[str]) -> Int[Tensor, "S W"]:
        return self.pairs.encode(sentences)

    def embed(self, tokens: Int[Tensor, "S W"]) -> Float[Tensor, "S D"]:
        if self.cls is not None:
            return self._embed_behind(tokens, self.cls)
        end = tokens.argmax(1)  # the end token has the largest number
        # A token sees only those before it, so the padding after the longest sentence changes
        # nothing.
        x = self.table(tokens[:, : int(end.max()) + 1])
        if self.context is not None:
            x = torch.cat([x[:, :1], self.context.expand(len(x), -1, -1), x[:, 1:]], 1)
            end = end + len(self.context)
        x = x + self.positions[: x.shape[1]]
        for block in cast("list[ClipBlock]", [*self.blocks]):
            x = block(x, causal=True)
        rows = torch.arange(len(x), device=x.device)
        return self.project(self.norm(x[rows, end]))

    def _embed_behind(
        self, tokens: Int[Tensor, "S W"], cls: Float[Tensor, " C"]
    ) -> Float[Tensor, "S D"]:
        """The vectors at the class token, which has the last position.

        CoCa's weights were trained with a mask that is shifted by one: a token is seen if the one
        before it is no padding. So one token of padding is seen, and the class token is not.
        """
        is_word = tokens != 0
        width = min(tokens.shape[1], int(is_word.sum(1).max()) + 1)
        words = self.table(tokens[:, :width]) + self.positions[:width]
        last = (cls + self.positions[-1]).expand(len(words), 1, -1)
        x = torch.cat([words, last], 1)
        first = torch.ones_like(is_word[:, :1])
        keys = torch.cat([first, is_word[:, : width - 1], is_word[:, -1:]], 1)
        causal = torch.ones(width + 1, width + 1, dtype=torch.bool, device=x.device).tril()
        mask = (keys[:, None] & causal)[:, None]
        for block in cast("list[ClipBlock]", [*self.blocks]):
            x = block(x, mask=mask)
        return self.project(self.norm(x[:, -1]))

    def add_context(self, context: int) -> "ClipText":
        """The same tower, whose own weights are frozen, with learnt tokens before the words."""
        kwargs = {**self.kwargs, "context": context, "frozen": True}
        prompted = ClipText(**kwargs)
        prompted.name, prompted.kwargs = self.name, kwargs
        state = self.state_dict()
        prompted.load_state_dict(state, strict=False)  # the context alone is new
        return prompted

    def measure(self, sentence: str) -> Length:
        (row,) = self.pairs.split([sentence])
        return Length(len(row), self.pairs.length - 2, "tokens")  # start and end are two more

    def can_encode(self, sentence: str) -> bool:
        return bool(sentence.strip())

    def write(self, folder: Path, stem: str) -> dict[str, Any]:
        if self.source is None:
            return self.kwargs
        if self.source.is_dir():
            shutil.copytree(self.source, folder / f"{stem}.vocabulary", dirs_exist_ok=True)
            return {**self.kwargs, "vocabulary": f"{stem}.vocabulary"}
        name = f"{stem}.vocabulary{''.join(self.source.suffixes[-2:])}"
        if self.source.resolve() != (folder / name).resolve():
            shutil.copyfile(self.source, folder / name)
        return {**self.kwargs, "vocabulary": name}
