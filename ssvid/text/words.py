"""Sentences -> a vector each: a table of word vectors, two linear maps, the largest over the words (MIL-NCE, TAN).

`python -m ssvid.text.words --data NAME ... --out words.txt` collects the words of a data set, for `words=words.txt`.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ssvid.data.manifest import Manifest
from ssvid.errors import UserError, positive
from ssvid.files import write_text_whole, write_whole
from ssvid.text.tower import Tower, split

FILL = -6e4  # as TAN fills: it fits half precision
# What differs between the two methods, beside the length: both give published numbers to the bit.
MILNCE: dict[str, Any] = {"length": 20, "lower": False, "unknown": "dropped", "padding": "seen"}
TAN: dict[str, Any] = {"length": 32, "lower": True, "unknown": "zero", "padding": "masked"}


class Words(Tower):
    """Row 0 of the table is no word: padding. The words of a list have rows 1, 2, ... in its order."""

    def __init__(
        self,
        *,
        dim: int = 512,
        words: str
        | None = None,  # a word a line (.txt), or a published dictionary (.npy); null: hashed into buckets
        buckets: int = 4096,  # rows for hashed words, which are all known, though some share a row
        width: int = 300,  # of a word's vector
        hidden: int = 2048,
        length: int = 20,  # words of a sentence that are read: MIL-NCE 20 in training, 30 in retrieval; TAN 32
        lower: bool = True,  # upper case is read as lower case
        unknown: str = "dropped",  # dropped | zero: an unknown word keeps its place, as row 0
        padding: str = "seen",  # seen: row 0 takes part in the maximum, so length matters; or masked
        trained: bool
        | None = None,  # the table too; null: unless the words are a published dictionary
    ) -> None:
        super().__init__()
        positive(dim=dim, buckets=buckets, width=width, hidden=hidden, length=length)
        for flag, value, known in (
            ("unknown", unknown, ("dropped", "zero")),
            ("padding", padding, ("seen", "masked")),
        ):
            if value not in known:
                raise UserError(
                    f"The tower words has no {flag} {value!r}: take {' or '.join(known)}."
                )
        self.dim, self.buckets, self.length, self.lower = dim, buckets, length, lower
        self.keeps_unknown, self.masked = unknown == "zero", padding == "masked"
        self.words = None if words is None else read_words(words)
        if (
            lower
            and not str(words).endswith(".npy")
            and (odd := [w for w in self.words or () if w != w.lower()])
        ):
            raise UserError(
                f"The word list {words} has {odd[0]!r}, and sentences are read in lower case: lower=false."
            )
        self.rows = {word: row for row, word in enumerate(self.words or (), 1)}
        self.table = nn.Embedding(1 + (buckets if self.words is None else len(self.words)), width)
        self.trained = not str(words).endswith(".npy") if trained is None else trained
        self.table.requires_grad_(self.trained)
        self.first, self.last = nn.Linear(width, hidden), nn.Linear(hidden, dim)

    def row(self, word: str) -> int:
        """0: unknown."""
        if self.words is None:
            return (
                1 + zlib.crc32(word.encode()) % self.buckets
            )  # the same on every machine, as hash() is not
        return self.rows.get(word, 0)

    def tokens(self, sentences: Sequence[str]) -> Int[Tensor, "S W"]:
        found = torch.zeros(len(sentences), self.length, dtype=torch.int64)
        for s, sentence in enumerate(sentences):
            rows = [self.row(word) for word in split(sentence, self.lower)]
            rows = [row for row in rows if row or self.keeps_unknown][: self.length]
            found[s, : len(rows)] = torch.tensor(rows, dtype=torch.int64)
        return found

    def can_encode(self, sentence: str) -> bool:
        return bool(self.tokens([sentence]).any())

    def embed(self, tokens: Int[Tensor, "S W"]) -> Float[Tensor, "S D"]:
        x = self.first(self.table(tokens)).relu()  # S W hidden
        if self.masked:
            x = x.masked_fill(~valid(tokens)[..., None], FILL)
        return self.last(x.amax(1))

    def write(self, folder: Path, stem: str) -> dict[str, Any]:
        told: dict[str, Any] = {**self.kwargs, "trained": self.trained}
        if self.words is None:
            return told
        write_whole(
            folder / f"{stem}.words.npy",
            lambda file: np.save(file, np.array(self.words, dtype=np.str_)),
        )
        return {**told, "words": f"{stem}.words.npy"}


def valid(tokens: Int[Tensor, "S W"]) -> Bool[Tensor, "S W"]:
    """Which are words. Of a sentence without any, all."""
    there = tokens > 0
    return there | ~there.any(1, keepdim=True)


def read_words(path: str | Path) -> list[str]:
    """A word a line, or a dictionary of MIL-NCE's form: an array of words."""
    file = Path(path).expanduser()
    try:
        if file.suffix == ".npy":
            array = np.load(file, allow_pickle=False)
            if array.ndim != 1 or array.dtype.kind != "U":
                raise UserError(
                    f"{file} is no list of words: it is an array {array.shape} of {array.dtype}."
                )
            words = [str(word) for word in array]
        else:
            words = [
                line.strip()
                for line in file.read_text(encoding="utf-8-sig").splitlines()
                if line.strip()
            ]
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        why = (
            error.strerror
            if isinstance(error, OSError) and error.strerror
            else " ".join(str(error).split())
        )
        raise UserError(f"The word list {file} cannot be read: {why}.") from error
    if not words:
        raise UserError(
            f"The word list {file} is empty: write a word a line, or leave it out to hash words."
        )
    if file.suffix != ".npy" and (
        odd := next((w for w in words if split(w, lower=False) != [w]), None)
    ):
        raise UserError(
            f"The word list {file} has {odd!r}, which no sentence is cut into: write a word a line."
        )
    return words


def collect(
    data: Manifest,  # sentences with their videos: the train split
    out: str,  # the list: a word a line, the most frequent first
    *,
    least: int = 2,  # times that a word is said
    lower: bool = True,  # read upper case as lower case
) -> dict[str, Any]:
    """Write the words of a data set's training sentences, for the text tower `words`."""
    positive(least=least)
    if Path(out).suffix == ".npy":
        raise UserError(f"--out {out}: the list is text, a word a line; name it .txt.")
    if Path(out).exists():
        raise UserError(f"--out {out} exists: name a new file.")
    said = [text for row in data.rows if row.split == "train" for _, _, text in row.sentences]
    if not said:
        raise UserError(
            f"The training videos of {data.root} have no sentences: take narrated data."
        )
    counts = Counter(word for text in said for word in split(text, lower))
    kept = sorted(
        (word for word, n in counts.items() if n >= least), key=lambda word: (-counts[word], word)
    )
    if not kept:
        raise UserError(f"No word of {data.root} is said --least {least} times: take fewer.")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(Path(out), "".join(f"{word}\n" for word in kept))
    covered = sum(counts[word] for word in kept) / counts.total()
    return {
        "out": out,
        "sentences": len(said),
        "words": len(kept),
        "left_out": len(counts) - len(kept),
    } | {"covered": round(covered, 4)}


if __name__ == "__main__":
    from ssvid.cli import command

    command(collect)
