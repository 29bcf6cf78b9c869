"""(pooled features, sentences) -> one space: what an objective on text learnt beside its encoder, saved and loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.errors import UserError
from ssvid.log import log
from ssvid.shapes import Pooled
from ssvid.text import Tower, create_tower
from ssvid.text.words import MILNCE, read_words
from ssvid.weights.files import read_weights
from ssvid.weights.layout import State
from ssvid.weights.published import PublishedFile, identify_file, unknown_layout_error
from ssvid.weights.state_dict import load_state, read_card, save_with_card


class Joint(nn.Module):
    """A clip and a sentence are alike by the plain product of their vectors."""

    def __init__(self, tower: Tower, head: nn.Module, *, cosine: bool) -> None:
        super().__init__()
        self.tower, self.head, self.cosine = tower, head, cosine

    def videos(self, pooled: Pooled) -> Float[Tensor, "B E"]:
        return self.scaled(self.head(pooled))

    def texts(self, sentences: Sequence[str]) -> Float[Tensor, "S E"]:
        return self.scaled(self.tower(sentences))

    def scaled(self, x: Float[Tensor, "n E"]) -> Float[Tensor, "n E"]:
        return F.normalize(x, dim=1) if self.cosine else x


def save_joint(joint: Joint, folder: Path, stem: str = "text") -> Path:
    """`stem.safetensors`, `stem.json` and what the tower was made from: nothing outside the folder is needed again."""
    folder.mkdir(parents=True, exist_ok=True)
    card = {
        "tower": joint.tower.name,
        "arguments": joint.tower.write(folder, stem),
        "head": described(joint.head),
        "cosine": joint.cosine,
    }
    path = folder / f"{stem}.safetensors"
    save_with_card(joint, path, card)
    return path


def described(head: nn.Module) -> list[dict[str, Any]]:
    """The layers of a head. Others than these are not saved."""
    layers = head if isinstance(head, nn.Sequential) else [head]
    told: list[dict[str, Any]] = []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            told.append(
                {"in": layer.in_features, "out": layer.out_features, "bias": layer.bias is not None}
            )
        elif not isinstance(layer, nn.Identity):
            raise TypeError(
                f"a head of linear maps can be saved, and this one has a {type(layer).__name__}"
            )
    return told


def head_of(layers: list[dict[str, Any]]) -> nn.Module:
    made = [nn.Linear(layer["in"], layer["out"], layer["bias"]) for layer in layers]
    return nn.Sequential(*made) if len(made) > 1 else made[0] if made else nn.Identity()


def load_joint(path: str | Path, words: str | None = None) -> Joint:
    """Of a run folder or its text.json, or of a published file; `words`: the dictionary that belongs to the latter."""
    place = Path(path).expanduser()
    card_file = place / "text.json" if place.is_dir() else place.with_suffix(".json")
    card = read_card(card_file)
    if place.is_dir() and card is None:
        raise UserError(
            f"{place} has no text tower (text.json): take the run of an objective that learns from text."
        )
    if card is None:
        return published_joint(place, words)
    if "tower" not in card and (beside := place.with_name("text.json")).exists():
        return load_joint(beside, words)  # the encoder of a run was named
    if words is not None:
        raise UserError(f"{place} is a run's, which knows its words: leave out {words}.")
    try:
        given = {
            key: inside(card_file.parent, key, value) for key, value in card["arguments"].items()
        }
        joint = Joint(
            create_tower(card["tower"], **given), head_of(card["head"]), cosine=card["cosine"]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{card_file} describes no text tower: {error!r}.") from error
    file = card_file.with_suffix(".safetensors")
    load_state(joint, read_weights(file).tensors, file)
    return joint.eval()


def inside(folder: Path, key: str, value: Any) -> Any:
    """Files and folders that a tower is made from lie in the run's folder."""
    return str(folder / value) if key in ("words", "folder") and value is not None else value


def published_joint(path: Path, words: str | None) -> Joint:
    file = read_weights(path)
    found = identify_file(file)
    if found is None:
        raise unknown_layout_error(file)
    state = joint_state(found)
    if words is None:
        raise UserError(
            f"{path} holds the vectors of words and not the words: give their list as well (s3d_dict.npy of MIL-NCE)."
        )
    table, first, last = (state[f"tower.{name}.weight"] for name in ("table", "first", "last"))
    told = len(read_words(words))
    if told + 1 != len(table):
        raise UserError(
            f"{words} lists {told} words, and {path} has vectors of {len(table) - 1}: it is another file's list."
        )
    sizes = {"dim": len(last), "hidden": len(first), "width": table.shape[1]}
    # 30 words: as MIL-NCE measured its retrieval. The released net's own tokeniser reads lower case, training did not.
    reads = {**MILNCE, "length": 30, "lower": found.net.kwargs.get("stem") != "plain"}
    tower = create_tower("words", words=words, trained=False, **sizes, **reads)
    joint = Joint(tower, nn.Linear(state["head.weight"].shape[1], len(last)), cosine=False)
    load_state(joint, state, path)
    log.info(f"{path}: the text tower of {found.description}; {len(state)} tensors")
    return joint.eval()


def joint_state(found: PublishedFile) -> State:
    if found.net.objective != "mil_nce":
        raise UserError(
            f"{found.file.path} is {found.description}, which has no space of clips and sentences."
        )
    return {key: x for key, x in found.ours.items() if key.startswith(("tower.", "head."))}


def chosen_tower(
    name: str,
    words: str | None,
    text: str | None,
    options: dict[str, Any],
    reads: dict[str, Any]
    | None = None,  # how the objective's publication reads words, whoever trained their table
    **sizes: Any,  # of a new tower
) -> Tower:
    """By the flags --objective.tower, .words, .text and .options."""
    if name != "words":
        if words is not None:
            raise UserError(
                f"--objective.words {words} is of the tower words; {name} has words of its own."
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
    start = load_joint(text, words).tower.train()
    if reads is None or start.name != name:
        return start
    tower = create_tower(name, **{**start.kwargs, **reads})
    load_state(tower, start.state_dict(), text)
    return tower
