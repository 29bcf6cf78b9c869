"""Pooled features and sentences -> vectors in one space.

An objective on text learns this space beside its encoder. This file also saves and loads it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.errors import TOO_LARGE, UserError
from ssvid.log import log
from ssvid.shapes import Pooled
from ssvid.text import Tower, create_tower
from ssvid.text.words import MILNCE, read_words
from ssvid.weights.files import read_weights
from ssvid.weights.layout import State
from ssvid.weights.published import PublishedFile, identify_file, unknown_layout_error
from ssvid.weights.state_dict import load_state, read_card, save_with_card


class Joint(nn.Module):
    """A text tower and the head that maps pooled video features into its space.

    The similarity of a clip and a sentence is the dot product of their vectors. `cosine`: the
    vectors have length 1.
    """

    def __init__(self, tower: Tower, head: nn.Module, *, cosine: bool) -> None:
        super().__init__()
        self.tower, self.head, self.cosine = tower, head, cosine

    def embed_videos(self, pooled: Pooled) -> Float[Tensor, "B E"]:
        return self._normalise(self.head(pooled))

    def embed_texts(self, sentences: Sequence[str]) -> Float[Tensor, "S E"]:
        return self._normalise(self.tower(sentences))

    def _normalise(self, x: Float[Tensor, "n E"]) -> Float[Tensor, "n E"]:
        return F.normalize(x, dim=1) if self.cosine else x


def save_joint(joint: Joint, folder: Path, stem: str = "text") -> Path:
    """Write `stem.safetensors`, `stem.json` and what the tower needs; return the first.

    Nothing outside the folder is needed to load it again. Raises TypeError if the head is not made
    of linear maps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    card = {
        "tower": joint.tower.name,
        "arguments": joint.tower.write(folder, stem),
        "head": describe_head(joint.head),
        "cosine": joint.cosine,
    }
    path = folder / f"{stem}.safetensors"
    save_with_card(joint, path, card)
    return path


def describe_head(head: nn.Module) -> list[dict[str, Any]]:
    """The linear maps of a head, for its card. TypeError if it has layers of another kind."""
    layers = head if isinstance(head, nn.Sequential) else [head]
    maps: list[dict[str, Any]] = []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            sizes = {"in": layer.in_features, "out": layer.out_features}
            maps.append({**sizes, "bias": layer.bias is not None})
        elif not isinstance(layer, nn.Identity):
            raise TypeError(
                f"a head of linear maps can be saved, and this one has a {type(layer).__name__}"
            )
    return maps


def build_head(maps: list[dict[str, Any]]) -> nn.Module:
    """The head that `describe_head` described, with random weights."""
    layers = [nn.Linear(sizes["in"], sizes["out"], sizes["bias"]) for sizes in maps]
    if not layers:
        return nn.Identity()
    return nn.Sequential(*layers) if len(layers) > 1 else layers[0]


def load_joint(path: str | Path, words: str | None = None) -> Joint:
    """The joint space of a run or of a published file, in eval mode.

    `path`: a run folder, its text.json or another export of it, or the published file. `words`: the
    word list of the published file. Raises UserError if there is no text tower.
    """
    path = Path(path).expanduser()
    card_file = path / "text.json" if path.is_dir() else path.with_suffix(".json")
    card = read_card(card_file)
    if path.is_dir() and card is None:
        raise UserError(
            f"{path} has no text tower (text.json): take the run of an objective that learns from "
            "text."
        )
    if card is None:
        return load_published_joint(path, words)
    text_card = path.with_name("text.json")
    if "tower" not in card and text_card.exists():
        return load_joint(text_card, words)  # the path named the encoder of a run
    if words is not None:
        raise UserError(f"{path} belongs to a run, which knows its words: leave out {words}.")
    try:
        kwargs = {}
        for key, value in card["arguments"].items():
            kwargs[key] = resolve_path(card_file.parent, key, value)
        if not isinstance(card["cosine"], bool):
            raise ValueError("cosine is true or false")
        tower = create_tower(card["tower"], **kwargs)
        joint = Joint(tower, build_head(card["head"]), cosine=card["cosine"])
    except (KeyError, TypeError, ValueError, AttributeError, *TOO_LARGE) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{card_file} describes no text tower: {type(error).__name__} {reason}."
        ) from error
    file = card_file.with_suffix(".safetensors")
    load_state(joint, read_weights(file).tensors, file)
    return joint.eval()


def resolve_path(folder: Path, key: str, value: Any) -> Any:
    """The argument `key` of a tower. Its files and folders lie in the run folder."""
    if key not in ("words", "folder") or value is None:
        return value
    if not isinstance(value, str) or Path(value).is_absolute() or ".." in Path(value).parts:
        raise ValueError(f"{key} {value!r} leaves the folder of the run")
    return str(folder / value)


def load_published_joint(path: Path, words: str | None) -> Joint:
    """The joint space of a file of MIL-NCE. UserError if `words` is the list of another file."""
    file = read_weights(path)
    published = identify_file(file)
    if published is None:
        raise unknown_layout_error(file)
    state = select_joint_state(published)
    if words is None:
        raise UserError(
            f"{path} holds the vectors of words but not the words: give their list as well "
            "(s3d_dict.npy of MIL-NCE)."
        )
    table, first, last = (state[f"tower.{name}.weight"] for name in ("table", "first", "last"))
    n_words = len(read_words(words))
    if n_words + 1 != len(table):
        raise UserError(
            f"{words} lists {n_words} words, and {path} has vectors of {len(table) - 1}: the list "
            "belongs to another file."
        )
    sizes = {"dim": len(last), "hidden": len(first), "width": table.shape[1]}
    # MIL-NCE measured its retrieval with 30 words. The tokeniser of the released net reads lower
    # case; training did not.
    reading = {**MILNCE, "length": 30, "lower": published.net.kwargs.get("stem") != "plain"}
    tower = create_tower("words", words=words, trained=False, **sizes, **reading)
    joint = Joint(tower, nn.Linear(state["head.weight"].shape[1], len(last)), cosine=False)
    load_state(joint, state, path)
    log.info(f"{path}: the text tower of {published.description}; {len(state)} tensors")
    return joint.eval()


def select_joint_state(published: PublishedFile) -> State:
    """The tensors of tower and head. UserError if the file has no joint space."""
    if published.net.objective != "mil_nce":
        raise UserError(
            f"{published.file.path} is {published.description}, which has no space of clips and "
            "sentences."
        )
    return {key: x for key, x in published.ours.items() if key.startswith(("tower.", "head."))}


def choose_tower(
    name: str,
    words: str | None,
    text: str | None,
    options: dict[str, Any],
    reads: dict[str, Any] | None = None,
    **sizes: Any,
) -> Tower:
    """The tower for the flags --objective.tower, .words, .text and .options.

    `reads`: how the publication of the objective reads words, whoever trained their table. `sizes`:
    arguments of a new tower. Raises UserError if the flags contradict each other.
    """
    if name != "words":
        if words is not None:
            raise UserError(
                f"--objective.words {words} belongs to the tower words; {name} has its own words."
            )
        if text is None and name in ("bert", "clip"):
            raise UserError(
                f"--objective.tower {name} needs --objective.text: the folder of the model."
            )
        return create_tower(name, **sizes, **({} if text is None else {"folder": text}), **options)
    if text is None:
        return create_tower(name, words=words, **{**(reads or {}), **sizes, **options})
    if options:
        raise UserError(
            f"--objective.text {text} says what its tower is: leave out --objective.options."
        )
    trained = load_joint(text, words).tower.train()
    if reads is None or trained.name != name:
        return trained
    tower = create_tower(name, **{**trained.kwargs, **reads})
    load_state(tower, trained.state_dict(), text)
    return tower
