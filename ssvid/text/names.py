"""Names -> one vector each, learnt like the weights of a linear classifier.

This tower knows a fixed list of sentences, such as the names of a data set's classes. Beside a
tower that reads, it tells what reading adds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ssvid.errors import UserError, check_positive
from ssvid.text.tower import Tower


class Names(Tower):
    """A table with a row for each name."""

    def __init__(
        self,
        *,
        names: Sequence[str],  # the sentences that it knows
        dim: int = 512,
    ) -> None:
        super().__init__()
        check_positive(dim=dim)
        self.dim, self.words = dim, tuple(names)
        if not self.words or len(set(self.words)) < len(self.words):
            raise UserError("The tower names needs one name or more, each of them once.")
        self.table = nn.Embedding(len(self.words), dim)

    def tokens(self, sentences: Sequence[str]) -> Int[Tensor, "S 1"]:
        numbers = dict(zip(self.words or (), range(len(self.words or ())), strict=True))
        unknown = [sentence for sentence in sentences if sentence not in numbers]
        if unknown:
            raise UserError(
                f"The tower names was trained on {len(numbers)} names and does not know "
                f"{unknown[0]!r}: take a tower that reads words, such as clip_text."
            )
        return torch.tensor([[numbers[sentence]] for sentence in sentences], dtype=torch.int64)

    def embed(self, tokens: Int[Tensor, "S 1"]) -> Float[Tensor, "S D"]:
        return self.table(tokens[:, 0])

    def can_encode(self, sentence: str) -> bool:
        return sentence in (self.words or ())

    def write(self, folder: Path, stem: str) -> dict[str, Any]:
        return {**self.kwargs, "names": list(self.words or ())}
