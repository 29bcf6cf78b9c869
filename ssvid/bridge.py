"""clip, a question -> words: a frozen encoder, a resampler and a frozen language model.

`ssvid.pretrain --objective bridge` learns the resampler alone, so a run saves it alone, beside a
card that says which encoder and which language model it belongs to.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssvid.encoder import Encoder, evaluating
from ssvid.errors import UserError
from ssvid.hub import open_encoder
from ssvid.nn.resampler import Resampler
from ssvid.shapes import Clip, ClipSpec
from ssvid.text.language import Language, Prefix, phrase_prompt
from ssvid.weights.encoders import check_sizes
from ssvid.weights.state_dict import hash_weights, load_weights, read_card, save_with_card

STEM = "bridge"
ANSWER = 32  # tokens of an answer, as published
LARGEST = {"queries": 10_000, "layers": 100, "heads": 1000}  # of a card: a net is built from it


class Bridge(nn.Module):
    """What describes a clip. Only the resampler learns."""

    def __init__(self, encoder: Encoder, language: Language, resampler: Resampler) -> None:
        super().__init__()
        self.encoder, self.language, self.resampler = encoder, language, resampler

    def read_clip(self, clip: Clip) -> Prefix:
        """The vectors of a clip, in the place of embedded words."""
        with torch.no_grad(), evaluating(self.encoder):
            tokens = self.encoder(clip).tokens
        return self.resampler(tokens)

    @torch.no_grad()
    def describe(self, clip: Clip, question: str | None = None, tokens: int = ANSWER) -> list[str]:
        """A caption of each clip, or the answer to a question about it, of at most so many tokens.

        A UserError if the language model cannot read as much.
        """
        prompt = phrase_prompt(question)
        n_words = len(self.language.read_prompt(prompt)) + tokens
        self.language.check_room(len(self.resampler.queries), n_words)
        return self.language.continue_prefix(self.read_clip(clip), prompt, tokens)

    def describe_pixels(
        self, clips: Tensor, question: str | None = None, tokens: int = ANSWER
    ) -> list[str]:
        """As `describe`, of uint8 clips `n C T H W`, such as `eval_clips` reads."""
        device = self.resampler.queries.device
        return self.describe(self.encoder.normalise(clips.to(device)), question, tokens)


def build_bridge(
    encoder: Encoder, language: Language, *, queries: int, layers: int, heads: int
) -> Bridge:
    """A bridge with a new resampler. A UserError for sizes that do not fit."""
    language.check_room(queries, 1)
    sizes = {"queries": queries, "layers": layers, "heads": heads}
    resampler = Resampler(encoder.dim, language.dim, **sizes, scale=language.scale)
    return Bridge(encoder.requires_grad_(False), language, resampler)


def hash_frozen(bridge: Bridge) -> dict[str, str]:
    """A hash of each of the two nets that the resampler stands between."""
    encoder, language = bridge.encoder, bridge.language
    return {
        "vision": hash_weights(encoder, (encoder.name, sorted(encoder.kwargs.items()))),
        "language": hash_weights(language.net, len(language.tokenizer)),
    }


def save_bridge(bridge: Bridge, vision: str, hashes: dict[str, str], folder: Path) -> None:
    """Write the resampler, and the places and hashes of the nets that it stands between.

    `vision`: the run or file of the encoder.
    """
    blocks, language = bridge.resampler.blocks, bridge.language
    card: dict[str, Any] = {
        "queries": len(bridge.resampler.queries),
        "layers": len(blocks),
        "heads": bridge.resampler.heads,
        "vision": {"path": name_path(vision), "hash": hashes["vision"]},
        "language": {"path": name_path(language.folder), "hash": hashes["language"]},
        "spec": vars(bridge.encoder.spec),
    }
    save_with_card(bridge.resampler.state_dict(), folder / f"{STEM}.safetensors", card)


def name_path(text: str) -> str:
    """A path from the root, so that a run is found from another folder. Names stay as they are."""
    path, sign, number = text.partition("@")
    return f"{Path(path).resolve()}{sign}{number}" if Path(path).exists() else text


def load_bridge(run: str | Path, vision: str | None = None, language: str | None = None) -> Bridge:
    """The bridge of a run, in eval mode.

    `vision`, `language`: where the encoder and the language model lie now; None: where they lay in
    training. Raises a UserError if they are others than in training.
    """
    folder = Path(run).expanduser()
    file = folder / f"{STEM}.json"
    card = read_card(file)
    if card is None:
        raise UserError(f"{run} is no run of --objective bridge: there is no {file.name} in it.")
    try:
        sizes = read_sizes(card)
        hashes = {name: str(card[name]["hash"]) for name in ("vision", "language")}
        vision = vision or str(card["vision"]["path"])
        language = language or str(card["language"]["path"])
        check_sizes(card["spec"])
        spec = ClipSpec(**card["spec"])
    except (KeyError, TypeError, ValueError, UserError) as error:
        reason = str(error).rstrip(".")
        raise UserError(f"{file} describes no bridge: {type(error).__name__} {reason}.") from error
    bridge = build_bridge(open_encoder(vision), Language(language), **sizes)
    bridge.encoder.spec = spec
    here, locations = hash_frozen(bridge), {"vision": vision, "language": language}
    for name, location in locations.items():
        if here[name] != hashes[name]:
            raise UserError(
                f"{run} was trained with another {name} model than {location} (hash "
                f"{hashes[name]}, not {here[name]}): name that one with --{name}."
            )
    load_weights(bridge.resampler, folder / f"{STEM}.safetensors", "the resampler of a bridge")
    return bridge.eval()


def read_sizes(card: dict[str, Any]) -> dict[str, int]:
    """The sizes of a resampler. A ValueError for a size of none: the net is built before its
    weights are read.
    """
    sizes = {}
    for name, largest in LARGEST.items():
        size = card[name]
        if type(size) is not int or not 0 < size <= largest:
            raise ValueError(f"{name} {size!r} is none of 1 to {largest}")
        sizes[name] = size
    return sizes
