"""Sentences -> CLIP's token ids: byte-level BPE by the library `transformers`.

The merges come from a file in OpenAI's form (bpe_simple_vocab_16e6.txt.gz) that the user has, or
that an installed open_clip ships, or from a folder of Hugging Face's form (vocab.json, merges.txt).
"""

import gzip
import html
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ssvid.errors import UserError
from ssvid.files import read_json_mapping
from ssvid.log import log_once
from ssvid.text.transformers import import_library

SHIPPED = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2  # of OpenAI's file; what follows them is not used
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


def list_byte_letters() -> list[str]:
    """The letter that stands for each byte, in the order of OpenAI's vocabulary.

    Bytes that print come first, under their own letter; the others follow from U+0100 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = range(256, 512 - len(printable))
    return list(map(chr, [*printable, *others]))


def find_vocabulary(vocabulary: str | None) -> Path:
    """The file or folder of a vocabulary: that of the user, else one of an installed library.

    Raises UserError if there is none.
    """
    if vocabulary is not None:
        path = Path(vocabulary).expanduser()
        if not path.exists():
            raise UserError(f"There is no vocabulary {path}.")
        return path
    library = importlib.util.find_spec("open_clip")
    folders = [] if library is None else list(library.submodule_search_locations or ())
    for folder in folders:
        if (Path(folder) / SHIPPED).is_file():
            return Path(folder) / SHIPPED
    raise UserError(
        f"CLIP's sentences need its vocabulary: give {SHIPPED} (of github.com/openai/CLIP, MIT "
        f"licence), or pip install open_clip_torch, which ships it. A net that is trained from the "
        "start may do without (letters: true)."
    )


def read_merges(path: Path | None) -> list[tuple[str, str]]:
    """The merges of a vocabulary, the most frequent first; none where there is no vocabulary."""
    if path is None:
        return []
    file = path / "merges.txt" if path.is_dir() else path
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as a vocabulary of CLIP: {error}.") from error
    merges = []
    for line in text.split("\n")[1 : MERGES + 1]:  # the first line is a version
        if line.strip():
            pair = line.split()
            if len(pair) != 2:
                raise UserError(f"{file} is no list of merges: {line!r} is not two pieces.")
            merges.append((pair[0], pair[1]))
    return merges


def read_table(file: Path) -> dict[str, int]:
    """The number of each piece, from a vocab.json. A UserError if the numbers are not 0, 1, ..."""
    table = read_json_mapping(file, "vocabulary")
    if sorted(table.values()) != [*range(len(table))] or not {START, END} <= table.keys():
        raise UserError(
            f"{file} is no vocabulary of CLIP: it numbers its pieces from 0 on, and {START} and "
            f"{END} are among them."
        )
    return table


def clean_sentence(sentence: str) -> str:
    """Mended characters and no entities of HTML, as published."""
    mended = importlib.import_module("ftfy").fix_text(sentence)
    return html.unescape(html.unescape(mended)).strip()


class BytePairs:
    """The tokeniser of CLIP. Sentences of more than `length` tokens are cut, as published.

    Without the file of a vocabulary every letter is a token.
    """

    def __init__(self, path: Path | None, length: int) -> None:
        self.merges = read_merges(path)
        letters = list_byte_letters()
        pieces = [*letters, *[letter + WORD_END for letter in letters]]
        pieces += map("".join, self.merges)
        pieces += [START, END]
        table = dict(zip(pieces, range(len(pieces)), strict=True))
        if path is not None and path.is_dir() and (path / "vocab.json").is_file():
            table = read_table(path / "vocab.json")
        self.words = sorted(table, key=table.__getitem__)  # the piece of each token
        self.size, self.length = len(table), length
        self.start, self.end = table[START], table[END]
        library = import_library()
        self.library: Any = library.CLIPTokenizer(vocab=table, merges=self.merges)

    def split(self, sentences: Sequence[str]) -> list[list[int]]:
        """The tokens of each sentence, however many they are, without start and end."""
        cleaned = list(map(clean_sentence, sentences))
        # The library warns of its own longest length; ours is counted in `encode`.
        rows: list[list[int]] = self.library(
            cleaned, add_special_tokens=False, verbose=False
        ).input_ids
        return rows

    def encode(self, sentences: Sequence[str]) -> Int[Tensor, "S W"]:
        """Start, tokens, end, and zeros up to `length`."""
        ids = torch.zeros(len(sentences), self.length, dtype=torch.int64)
        too_long = 0
        for number, row in enumerate(self.split(sentences)):
            too_long += len(row) > self.length - 2
            row = [self.start, *row[: self.length - 2], self.end]
            ids[number, : len(row)] = torch.tensor(row)
        if too_long:
            log_once(
                f"{too_long} of {len(sentences)} sentences are longer than {self.length} tokens: "
                "their ends are cut off."
            )
        return ids
