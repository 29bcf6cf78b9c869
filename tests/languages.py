"""Small causal language models and encoders in folders, for tests of the bridge."""

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from ssvid import create_encoder
from ssvid.weights.encoders import save_encoder

WORDS = "caption : question answer ? red blue thing square goes left right what colour is it"
WORDS += " 0 1 2 3 4 of window sentence"
SPECIAL = ("<end>", "<unknown>")


def write_language(
    folder: Path, words: Sequence[str] = WORDS.split(), positions: int = 64, seed: int = 0
) -> str:
    """A GPT-2 of two layers with random weights; its tokens are these words."""
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *dict.fromkeys(words)])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIAL[0], unk_token=SPECIAL[1]
    ).save_pretrained(folder)
    sizes = {
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": positions,
        "initializer_range": 0.6,
    }
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    torch.manual_seed(seed)
    config = transformers.GPT2Config(vocab_size=len(vocabulary), **sizes, **ends)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


def write_vision(folder: Path, seed: int = 0) -> str:
    """A run folder with a small encoder."""
    sizes = {"dim": 24, "depth": 2, "heads": 2, "patch": 8, "frames": 4, "size": 16, "stride": 1}
    torch.manual_seed(seed)
    save_encoder(create_encoder("vit", **sizes), folder, "encoder", {})
    return str(folder)


@functools.cache
def small_nets() -> dict[str, str]:
    """The arguments of a small bridge, in a folder that is removed with the process."""
    folder = tempfile.TemporaryDirectory()
    small_nets.folder = folder  # type: ignore[attr-defined]  # lives as long as the function
    path = Path(folder.name)
    return {"vision": write_vision(path / "run"), "language": write_language(path / "words")}
