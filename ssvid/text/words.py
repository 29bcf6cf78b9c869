"""Sentences -> one vector each: the text tower of MIL-NCE and TAN.

It takes the vector of each word from a table, applies a linear map, takes the maximum over the
words, and applies another linear map.

`python -m ssvid.text.words --data NAME ... --out words.txt` collects the words of a data set, for
`words=words.txt`.
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
from ssvid.errors import UserError, check_positive
from ssvid.files import require_file, write_text_whole, write_whole
from ssvid.text.tower import Length, Tower, split_words

MASKED = -6e4  # the value that TAN gives to padding: it fits half precision
# What differs between the two methods, beside the length. Both give the published numbers to the
# bit.
MILNCE: dict[str, Any] = {"length": 20, "lower": False, "unknown": "dropped", "padding": "seen"}
TAN: dict[str, Any] = {"length": 32, "lower": True, "unknown": "zero", "padding": "masked"}
CHOICES = {"unknown": ("dropped", "zero"), "padding": ("seen", "masked")}


class Words(Tower):
    """A table of word vectors and two linear maps.

    Row 0 of the table belongs to no word: it is padding. The words of a list have rows 1, 2, ... in
    its order.
    """

    def __init__(
        self,
        *,
        dim: int = 512,
        # a word a line (.txt), or a published dictionary (.npy); null: words are hashed into
        # buckets
        words: str | None = None,
        buckets: int = 4096,  # rows for hashed words, which are all known, though some share a row
        width: int = 300,  # of a word vector
        hidden: int = 2048,
        # words of a sentence that are read: MIL-NCE 20 in training, 30 in retrieval; TAN 32
        length: int = 20,
        lower: bool = True,  # read upper case as lower case
        unknown: str = "dropped",  # dropped, or zero: an unknown word keeps its position, as row 0
        # seen: row 0 takes part in the maximum, so the length matters; or masked
        padding: str = "seen",
        # train the table too; null: yes, unless the words are a published dictionary
        trained: bool | None = None,
    ) -> None:
        super().__init__()
        check_positive(dim=dim, buckets=buckets, width=width, hidden=hidden, length=length)
        for flag, value in (("unknown", unknown), ("padding", padding)):
            if value not in CHOICES[flag]:
                raise UserError(
                    f"The tower words has no {flag} {value!r}: take {' or '.join(CHOICES[flag])}."
                )
        self.dim, self.buckets, self.length, self.lower = dim, buckets, length, lower
        self.keeps_unknown, self.masks_padding = unknown == "zero", padding == "masked"
        is_published = str(words).endswith(".npy")
        self.words = None if words is None else read_words(words)
        if lower and not is_published:
            check_lower_case(self.words or [], words)
        self.row_of_word = {word: row for row, word in enumerate(self.words or (), 1)}
        self.table = nn.Embedding(1 + (buckets if self.words is None else len(self.words)), width)
        self.trained = not is_published if trained is None else trained
        self.table.requires_grad_(self.trained)
        self.first, self.last = nn.Linear(width, hidden), nn.Linear(hidden, dim)

    def find_row(self, word: str) -> int:
        """The row of a word in the table; 0 if the word is unknown."""
        if self.words is None:  # crc32 is the same on every machine, which hash() is not
            return 1 + zlib.crc32(word.encode()) % self.buckets
        return self.row_of_word.get(word, 0)

    def find_rows(self, sentence: str) -> list[int]:
        """The rows of the words that count, also of those past the length."""
        rows = [self.find_row(word) for word in split_words(sentence, self.lower)]
        return [row for row in rows if row or self.keeps_unknown]

    def tokens(self, sentences: Sequence[str]) -> Int[Tensor, "S W"]:
        ids = torch.zeros(len(sentences), self.length, dtype=torch.int64)
        for s, sentence in enumerate(sentences):
            rows = self.find_rows(sentence)[: self.length]
            ids[s, : len(rows)] = torch.tensor(rows, dtype=torch.int64)
        return ids

    def measure(self, sentence: str) -> Length:
        return Length(len(self.find_rows(sentence)), self.length, "words")

    def can_encode(self, sentence: str) -> bool:
        return bool(self.tokens([sentence]).any())

    def embed(self, tokens: Int[Tensor, "S W"]) -> Float[Tensor, "S D"]:
        x = self.first(self.table(tokens)).relu()  # S W hidden
        if self.masks_padding:
            x = x.masked_fill(~mark_words(tokens)[..., None], MASKED)
        return self.last(x.amax(1))

    def write(self, folder: Path, stem: str) -> dict[str, Any]:
        arguments: dict[str, Any] = {**self.kwargs, "trained": self.trained}
        if self.words is None:
            return arguments
        array = np.array(self.words, dtype=np.str_)
        write_whole(folder / f"{stem}.words.npy", lambda file: np.save(file, array))
        return {**arguments, "words": f"{stem}.words.npy"}


def mark_words(tokens: Int[Tensor, "S W"]) -> Bool[Tensor, "S W"]:
    """True where a token is a word. A sentence without any word is True throughout."""
    is_word = tokens > 0
    return is_word | ~is_word.any(1, keepdim=True)


def check_lower_case(words: Sequence[str], path: str | None) -> None:
    """Raise UserError if a word has upper case: sentences that are read in lower case lack it."""
    for word in words:
        if word != word.lower():
            raise UserError(
                f"The word list {path} has {word!r}, and sentences are read in lower case: give "
                "lower=false."
            )


def read_words(path: str | Path) -> list[str]:
    """Read a text file with a word a line, or a dictionary in MIL-NCE's form: an array of words.

    Raises UserError if the file cannot be read, is empty, or holds a line that is no word.
    """
    file = Path(path).expanduser()
    try:
        require_file(file)
        words = read_word_array(file) if file.suffix == ".npy" else read_word_lines(file)
    except UserError:
        raise
    except Exception as error:  # numpy raises errors of many kinds for damaged arrays
        reason = " ".join(str(error).split())
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise UserError(f"The word list {file} cannot be read: {reason}.") from error
    if not words:
        raise UserError(
            f"The word list {file} is empty: write a word a line, or leave it out to hash words."
        )
    if file.suffix != ".npy":
        for word in words:
            if split_words(word, lower=False) != [word]:
                raise UserError(
                    f"The word list {file} has {word!r}, which is no single word of a sentence: "
                    "write a word a line."
                )
    return words


def read_word_array(file: Path) -> list[str]:
    array = np.load(file, allow_pickle=False)
    if array.ndim != 1 or array.dtype.kind != "U":
        raise UserError(
            f"{file} is no list of words: it is an array {array.shape} of {array.dtype}."
        )
    return [str(word) for word in array]


def read_word_lines(file: Path) -> list[str]:
    lines = map(str.strip, file.read_text(encoding="utf-8-sig").splitlines())
    return list(filter(None, lines))


def collect_words(
    data: Manifest,  # sentences with their videos: the train split
    out: str,  # the list to write: a word a line, the most frequent first
    *,
    least: int = 2,  # how often a word must occur
    lower: bool = True,  # read upper case as lower case
) -> dict[str, Any]:
    """Write the words of a data set's training sentences, for the text tower `words`."""
    check_positive(least=least)
    if Path(out).suffix == ".npy":
        raise UserError(f"--out {out}: the list is text, a word a line; name it .txt.")
    if Path(out).exists():
        raise UserError(f"--out {out} exists: name a new file.")
    sentences: list[str] = []
    for row in data.rows:
        if row.split == "train":
            sentences += [text for _, _, text in row.sentences]
    if not sentences:
        raise UserError(
            f"The training videos of {data.title} have no sentences: take narrated data."
        )
    counts: Counter[str] = Counter()
    for text in sentences:
        counts.update(split_words(text, lower))
    words = [word for word, n in counts.items() if n >= least]
    words.sort(key=lambda word: (-counts[word], word))
    if not words:
        raise UserError(f"No word of {data.title} occurs --least {least} times: take fewer.")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(Path(out), "".join(f"{word}\n" for word in words))
    covered = sum(counts[word] for word in words) / counts.total()
    return {
        "out": out,
        "sentences": len(sentences),
        "words": len(words),
        "left_out": len(counts) - len(words),
        "covered": round(covered, 4),
    }


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("words")
