"""Sentences -> one vector each: CLIP's text side (arXiv:2103.00020)."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ssvid.errors import UserError, check_positive
from ssvid.nn.clip import ClipBlock, init_blocks
from ssvid.text.bpe import BYTES, BytePairs, find_vocabulary
from ssvid.text.tower import Tower


class ClipText(Tower):
    """A causal transformer. The vector of a sentence is read at its end token."""

    def __init__(
        self,
        *,
        # OpenAI's file of merges, a folder of vocab.json and merges.txt, or `bytes`; null: the file
        # that an installed open_clip ships
        vocabulary: str | None = None,
        width: int = 512,  # of a token in the blocks
        layers: int = 12,
        heads: int = 8,  # of attention; they divide width
        dim: int = 512,  # of the space that sentences share with pictures
        length: int = 77,  # tokens of a sentence that are read, start and end included
        frozen: bool = False,
    ) -> None:
        super().__init__()
        check_positive(width=width, layers=layers, dim=dim)
        if length < 3:
            raise UserError(f"A sentence of {length} tokens has no room for a word.")
        self.dim, self.frozen = dim, frozen
        self.pairs = BytePairs(vocabulary, length)
        self.table = nn.Embedding(self.pairs.size, width)
        self.positions = nn.Parameter(0.01 * torch.randn(length, width))
        self.blocks = nn.ModuleList(ClipBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, dim, bias=False)
        nn.init.normal_(self.table.weight, std=0.02)
        nn.init.normal_(self.project.weight, std=width**-0.5)
        init_blocks(self.blocks, width)
        self.requires_grad_(not frozen)

    def tokens(self, sentences: Sequence[str]) -> Int[Tensor, "S W"]:
        return self.pairs.encode(sentences)

    def embed(self, tokens: Int[Tensor, "S W"]) -> Float[Tensor, "S D"]:
        end = tokens.argmax(1)  # the end token has the largest number
        used = (
            int(end.max()) + 1
        )  # a token sees only those before it, so the padding changes nothing
        x = self.table(tokens[:, :used]) + self.positions[:used]
        for block in cast("list[ClipBlock]", [*self.blocks]):
            x = block(x, causal=True)
        rows = torch.arange(len(x), device=x.device)
        return self.project(self.norm(x[rows, end]))

    def can_encode(self, sentence: str) -> bool:
        return bool(sentence.strip())

    def write(self, folder: Path, stem: str) -> dict[str, Any]:
        path = find_vocabulary(self.kwargs.get("vocabulary"))
        if path is None:
            return {**self.kwargs, "vocabulary": BYTES}
        if path.is_dir():
            shutil.copytree(path, folder / f"{stem}.vocabulary", dirs_exist_ok=True)
            return {**self.kwargs, "vocabulary": f"{stem}.vocabulary"}
        name = f"{stem}.vocabulary{''.join(path.suffixes[-2:])}"
        shutil.copyfile(path, folder / name)
        return {**self.kwargs, "vocabulary": name}
