"""Sentences -> one vector each: the text side of VideoPrism (arXiv:2402.13217)."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ssvid.errors import check_positive
from ssvid.nn.capped import CAP, Run
from ssvid.nn.prism import Norms, OffsetNorm, PrismBlock
from ssvid.text.pieces import Pieces, canonicalise, copy_model, find_model
from ssvid.text.tower import Length, Tower

MAX_SCALE = 10_000.0  # of the sinusoids of positions


class PrismText(Tower):
    """A causal transformer. A learnt class token behind the sentence gives its vector."""

    def __init__(
        self,
        *,
        # a model of SentencePiece; published: cc_en.32000 (T5's sentencepiece.model)
        vocabulary: str | None = None,
        letters: bool = False,  # no vocabulary: every byte is a token
        dim: int = 768,  # of a token and of the vector of a sentence
        layers: int = 12,
        heads: int = 12,  # of attention; they divide dim
        hidden: int | None = None,  # width of the MLPs; null: four times dim
        norms: Norms = "pre",  # primer_hybrid: a norm behind each branch too, as the giant has
        cap: float = CAP,  # of the logits of attention
        length: int = 64,  # tokens of a sentence that are read
    ) -> None:
        super().__init__()
        check_positive(dim=dim, layers=layers, hidden=hidden, length=length, cap=cap)
        self.dim = dim
        self.source = None if letters else find_model(vocabulary)
        self.pieces = Pieces(self.source, length)
        self.table = nn.Embedding(self.pieces.size, dim)
        self.cls = nn.Parameter(dim**-0.5 * torch.randn(dim))
        self.blocks = nn.ModuleList(
            PrismBlock(dim, heads, hidden or 4 * dim, activation="relu", norms=norms, cap=cap)
            for _ in range(layers)
        )
        self.norm = OffsetNorm(dim)
        nn.init.normal_(self.table.weight, std=dim**-0.5)

    def tokens(self, sentences: Sequence[str]) -> Int[Tensor, "S W"]:
        return self.pieces.encode(sentences)

    def embed(self, tokens: Int[Tensor, "S W"]) -> Float[Tensor, "S D"]:
        words = self.table(tokens.clamp(min=0))
        factor = math.sqrt(self.dim)
        positions = sinusoids(tokens.shape[1], self.dim, tokens.device).to(words.dtype)
        cls = factor * self.cls.expand(len(tokens), 1, -1)
        x = torch.cat([factor * words + positions, cls.to(words.dtype)], 1)
        run = Run(len(x), x.shape[1])
        mask = mask_padding(tokens)
        rows = x.flatten(0, 1)
        for block in self.blocks:
            rows = block(rows, [run], mask)
        return self.norm(rows.view(x.shape)[:, -1])

    def measure(self, sentence: str) -> Length:
        return Length(len(self.pieces.split(canonicalise(sentence))), self.pieces.length, "tokens")

    def can_encode(self, sentence: str) -> bool:
        return bool(sentence.strip())

    def write(self, folder: Path, stem: str) -> dict[str, Any]:
        if self.source is None:
            return self.kwargs
        return {**self.kwargs, "vocabulary": copy_model(self.source, folder, stem)}


def mask_padding(tokens: Int[Tensor, "S W"]) -> Bool[Tensor, "S L L"]:
    """A token attends to itself and those before it, and nobody attends to padding.

    The class token behind the sentence is no padding.
    """
    visible = torch.cat([tokens >= 0, torch.ones_like(tokens[:, :1], dtype=torch.bool)], 1)
    length = visible.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
    return causal & visible[:, None]


@functools.lru_cache(maxsize=16)
def sinusoids(length: int, dim: int, device: torch.device) -> Float[Tensor, "W D"]:
    """Positions: sines in the first half of the columns, cosines in the second.

    The periods run from 1 to MAX_SCALE. An odd number of columns has zeros in the last.
    """
    with torch.inference_mode(False):  # training may use the table after inference has made it
        half = dim // 2
        step = math.log(MAX_SCALE) / max(1, half - 1)
        rates = torch.exp(-step * torch.arange(half, device=device, dtype=torch.float64))
        angles = torch.arange(length, device=device)[:, None] * rates
        table = torch.cat([angles.sin(), angles.cos()], 1)
        return nn.functional.pad(table, (0, dim - 2 * half)).float()
