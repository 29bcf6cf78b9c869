"""Sentences -> a vector each: what every text tower is, and how sentences are cut into words."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

WORD = re.compile(r"[\w']+")  # as MIL-NCE and TAN cut: "don't" is one word


def split(sentence: str, lower: bool) -> list[str]:
    return WORD.findall(sentence.lower() if lower else sentence)


class Tower(nn.Module, ABC):
    """`create_tower` makes one; `tokens` may be stored and embedded later."""

    name: str = "an unnamed tower"  # the name and arguments that it was made with
    kwargs: dict[str, Any]
    dim: int
    words: Sequence[str] | None = None  # its own list, in the order of its table, where it has one

    @abstractmethod
    def tokens(self, sentences: Sequence[str]) -> Int[Tensor, "S W"]:
        """On the CPU; as wide as it likes."""

    @abstractmethod
    def embed(self, tokens: Int[Tensor, "S W"]) -> Float[Tensor, "S D"]: ...

    @abstractmethod
    def can_encode(self, sentence: str) -> bool:
        """False: it makes nothing of it, all its words are unknown."""

    @abstractmethod
    def write(self, folder: Path, stem: str) -> dict[str, Any]:
        """Put what it was made from, less the weights, into the folder; give the arguments that make it again there.

        A file or folder among them is named relative to the folder, so that a run can be moved.
        """

    def forward(self, sentences: Sequence[str]) -> Float[Tensor, "S D"]:
        return self.embed(self.tokens(sentences).to(next(self.parameters()).device))
