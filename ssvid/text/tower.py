"""Sentences -> one vector each: the interface of every text tower.

This file also says how sentences are cut into words.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

WORD = re.compile(r"[\w']+")  # as MIL-NCE and TAN cut sentences: "don't" is one word


def split_words(sentence: str, lower: bool) -> list[str]:
    """The words of a sentence without punctuation; `lower`: in lower case."""
    return WORD.findall(sentence.lower() if lower else sentence)


class Length(NamedTuple):
    """How much a tower reads of a sentence."""

    total: int  # of the sentence
    most: int  # that are read; what comes after them is cut off
    unit: str  # "words" or "tokens"

    @property
    def is_cut(self) -> bool:
        return self.total > self.most


class Tower(nn.Module, ABC):
    """A text encoder. `create_tower` makes one.

    `tokens` and `embed` are two steps, so that tokens can be stored and embedded later.
    """

    name: str = "an unnamed tower"
    kwargs: dict[str, Any]  # the arguments that it was made with
    dim: int  # width of its vectors
    words: Sequence[str] | None = None  # its word list in the order of its table, if it has one

    @abstractmethod
    def tokens(self, sentences: Sequence[str]) -> Int[Tensor, "S W"]:
        """The token ids of each sentence, on the CPU. The tower chooses the width W."""

    @abstractmethod
    def embed(self, tokens: Int[Tensor, "S W"]) -> Float[Tensor, "S D"]: ...

    @abstractmethod
    def can_encode(self, sentence: str) -> bool:
        """Whether the sentence has a word that the tower knows."""

    @abstractmethod
    def write(self, folder: Path, stem: str) -> dict[str, Any]:
        """Write all that the tower needs, except the weights, into the folder.

        Returns the arguments that make the same tower from there. Files and folders among them are
        named relative to `folder`, so that a run can be moved.
        """

    def measure(self, sentence: str) -> Length | None:
        """How long the sentence is for this tower. None: the tower cannot tell."""
        return None

    def forward(self, sentences: Sequence[str]) -> Float[Tensor, "S D"]:
        return self.embed(self.tokens(sentences).to(next(self.parameters()).device))
