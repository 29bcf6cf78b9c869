"""Sentences <-> the token ids of BERT: WordPiece by the library `transformers`.

The vocabulary is a file in BERT's form (vocab.txt), one piece a line, in which `##` begins a piece
that continues a word. BLIP adds two pieces behind it: one that begins what is decoded, and one that
begins what is grounded in a picture.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ssvid.errors import UserError
from ssvid.log import log_once
from ssvid.nn.bert import PAD
from ssvid.text.transformers import import_library

SMALL = Path(__file__).with_name("small_vocabulary.txt")
SPECIAL = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
DECODE, GROUND = "[DEC]", "[ENC]"  # BLIP's own
CONTINUES = "##"  # begins a piece that goes on with a word
First = Literal["read", "ground", "decode"]  # for which of the three uses of BERT ids are made


def find_vocabulary(vocabulary: str | None) -> Path:
    """The file of the user, or the small vocabulary of this project."""
    if vocabulary is None:
        return SMALL
    path = Path(vocabulary).expanduser()
    if path.is_dir():
        path = path / "vocab.txt"
    if not path.is_file():
        raise UserError(f"There is no vocabulary {path} (BERT's vocab.txt).")
    return path


def read_vocabulary(file: Path) -> list[str]:
    """The pieces of a vocabulary, in order. A UserError for a file of another form."""
    try:
        pieces = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as a vocabulary of BERT: {error}.") from error
    if pieces and not pieces[-1]:
        pieces.pop()
    missing = [piece for piece in SPECIAL if piece not in pieces]
    if missing or pieces[PAD] != SPECIAL[0] or len(set(pieces)) != len(pieces):
        raise UserError(
            f"{file} is no vocabulary of BERT: it has one piece a line, each once, begins with "
            f"{SPECIAL[0]} and has {', '.join(SPECIAL[1:])}."
        )
    for piece in (DECODE, GROUND):
        if piece in pieces:
            pieces.remove(piece)
    return pieces


class WordPieces:
    """The tokeniser of BERT in lower case, with BLIP's two pieces behind the vocabulary."""

    def __init__(self, vocabulary: Path) -> None:
        pieces = read_vocabulary(vocabulary)
        self.words = [*pieces, DECODE, GROUND]
        self.size = len(self.words)
        self.unknown, self.cls, self.end = (pieces.index(piece) for piece in SPECIAL[1:4])
        self.decode_first, self.ground_first = len(pieces), len(pieces) + 1
        table = dict(zip(pieces, range(len(pieces)), strict=True))
        self.library: Any = import_library().BertTokenizer(vocab=table, do_lower_case=True)

    def split(self, sentences: Sequence[str]) -> list[list[int]]:
        """The pieces of each sentence, however many they are, without start and end."""
        # The library warns of its own longest length; ours is counted in `encode`.
        rows: list[list[int]] = self.library(
            list(sentences), add_special_tokens=False, verbose=False
        ).input_ids
        return rows

    def group_pieces(self, ids: Int[Tensor, " W"]) -> list[tuple[str, list[int]]]:
        """The words of ids between start and end, each with the positions of its pieces."""
        words: list[tuple[str, list[int]]] = []
        for position, number in enumerate(ids.tolist()):
            if number in (PAD, self.end) or position == 0:
                continue
            piece = self.words[number]
            if piece.startswith(CONTINUES) and words:
                word, positions = words[-1]
                words[-1] = (word + piece.removeprefix(CONTINUES), [*positions, position])
            else:
                words.append((piece, [position]))
        return words

    def encode(
        self, sentences: Sequence[str], length: int, first: First = "read"
    ) -> Int[Tensor, "S W"]:
        """First piece, pieces, end, and PAD behind shorter sentences.

        Longer sentences than `length` are cut, as published, and a line says so.
        """
        rows = self.split(sentences)
        too_long = sum(len(row) > length - 2 for row in rows)
        if too_long and len(rows) == 1:
            log_once(
                f"The sentence has {len(rows[0])} pieces of words, and {length - 2} of them are "
                f"read: {self.library.decode(rows[0][: length - 2])!r}."
            )
        elif too_long:
            log_once(
                f"{too_long} of {len(rows)} sentences are longer than {length} tokens: their ends "
                "are cut off."
            )
        starts = {"read": self.cls, "ground": self.ground_first, "decode": self.decode_first}
        width = min(length, max(map(len, rows), default=0) + 2)
        ids = torch.full((len(rows), width), PAD)
        for number, row in enumerate(rows):
            row = [starts[first], *row[: length - 2], self.end]
            ids[number, : len(row)] = torch.tensor(row)
        return ids

    def decode(self, ids: Int[Tensor, " W"]) -> str:
        """The words of ids up to the end piece, without BLIP's and BERT's own pieces."""
        words: list[int] = []
        for number in ids.tolist():
            if number == self.end:
                break
            if number not in (PAD, self.cls, self.decode_first, self.ground_first):
                words.append(number)
        return str(self.library.decode(words)).strip()

    def can_read(self, sentence: str) -> bool:
        """Whether a piece of the sentence is in the vocabulary."""
        return any(number != self.unknown for number in self.split([sentence])[0])


def copy_vocabulary(source: Path, folder: Path, stem: str) -> str:
    """Copy a vocabulary into the folder of a run; return its name there."""
    name = f"{stem}.vocab.txt"
    if source.resolve() != (folder / name).resolve():
        shutil.copyfile(source, folder / name)
    return name
