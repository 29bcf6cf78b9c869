"""Sentences -> pieces of words, by the library `sentencepiece`, as VideoPrism reads them."""

import re
import shutil
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ssvid.errors import UserError
from ssvid.log import log_once
from ssvid.text.transformers import import_text_library

PAD = -1  # in a table of pieces; no piece has this number
FIRST_BYTE = 3  # number of byte 0 where every byte is a piece; those before stand for no byte
PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")


def canonicalise(sentence: str) -> str:
    """Lower case, a space for each ASCII punctuation mark, single spaces, and a full stop."""
    words = PUNCTUATION.sub(" ", sentence).lower().split()
    return " ".join(words) + "."


class Pieces:
    """The tokeniser of VideoPrism. Sentences of more than `length` pieces are cut, as published.

    `vocabulary`: a model of SentencePiece (published: cc_en.32000, which is T5's); None: every byte
    of a sentence is a piece.
    """

    def __init__(self, vocabulary: Path | None, length: int) -> None:
        self.length, self.model = length, None if vocabulary is None else read_model(vocabulary)
        self.size = FIRST_BYTE + 256 if self.model is None else int(self.model.get_piece_size())

    def encode(self, sentences: Sequence[str]) -> Int[Tensor, "S W"]:
        """The pieces of each sentence, with PAD behind those of shorter ones."""
        lists = [self.split(canonicalise(sentence)) for sentence in sentences]
        if max(map(len, lists), default=0) > self.length:
            log_once(f"Sentences of more than {self.length} pieces are cut, as published.")
        width = max(1, min(self.length, max(map(len, lists), default=0)))
        table = torch.full((len(lists), width), PAD)
        for row, pieces in zip(table, lists, strict=True):
            some = torch.tensor(pieces[:width], dtype=torch.long)
            row[: len(some)] = some
        return table

    def split(self, sentence: str) -> list[int]:
        """The pieces of a canonical sentence, behind the start piece where the model has one."""
        if self.model is None:
            return [byte + FIRST_BYTE for byte in sentence.encode()]
        pieces: list[int] = self.model.encode(sentence)
        start = int(self.model.bos_id())
        return pieces if start < 0 else [start, *pieces]


def read_model(file: Path) -> Any:
    library = import_text_library("sentencepiece")
    try:
        return library.SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise UserError(f"{file} is no model of SentencePiece.") from error


def find_model(vocabulary: str | None) -> Path:
    """The file of a model. A UserError that says where to get it if there is none."""
    if vocabulary is None:
        raise UserError(
            "VideoPrism's sentences need the vocabulary cc_en.32000 of T5: give its "
            "sentencepiece.model (gs://t5-data/vocabs/cc_en.32000, Apache-2.0 licence). A net that "
            "is trained from the start may do without (letters: true)."
        )
    path = Path(vocabulary).expanduser()
    if not path.is_file():
        raise UserError(f"There is no vocabulary {path}.")
    return path


def copy_model(source: Path, folder: Path, stem: str) -> str:
    """Copy the file of a model into the folder of a run; return its name there."""
    name = f"{stem}.pieces.model"
    if source.resolve() != (folder / name).resolve():
        shutil.copyfile(source, folder / name)
    return name
