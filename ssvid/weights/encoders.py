"""A file on disk <-> an encoder.

A run exports weights with a card beside them, which says what they are. A published file has no
card: its keys show what it holds.
"""

import json
from pathlib import Path
from typing import Any

import torch

from ssvid.encoder import Encoder, build
from ssvid.errors import TOO_LARGE, UserError
from ssvid.log import log
from ssvid.nn.adapters import describe_adapters, read_merged_state, restore_adapters
from ssvid.shapes import ClipSpec
from ssvid.weights.files import read_weights
from ssvid.weights.layout import State
from ssvid.weights.published import (
    PublishedFile,
    choose_arguments,
    find_registered_name,
    identify_file,
    is_run_checkpoint,
    unknown_layout_error,
)
from ssvid.weights.state_dict import (
    hash_tensors,
    load_state,
    load_weights,
    read_card,
    save_with_card,
)

MAX_SIZE = 10_000  # of a net of a card: its width, depth, frames, pixels


def save_encoder(encoder: Encoder, folder: Path, stem: str, trained: dict[str, Any]) -> Path:
    """Write `stem.safetensors` and `stem.json`, all that `load_encoder` needs; return the first.

    `trained`: what the card says of the training. Equal encoders give equal bytes.
    """
    path = folder / f"{stem}.safetensors"
    card = {
        "name": encoder.name,
        "kwargs": encoder.kwargs,
        "spec": vars(encoder.spec),
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "licence": encoder.licence,
        "trained": trained,
        **describe_adapters(encoder),
    }
    save_with_card(read_merged_state(encoder), path, card)
    return path


def load_encoder(path: str | Path) -> Encoder:
    """The encoder of a run or of a published checkpoint, in eval mode.

    `path`: the folder of a run, its exported .safetensors or .json, or the published file. Raises
    UserError if the file is absent, or holds no encoder that is known here.
    """
    file = Path(path)
    if file.is_dir():
        exports = list_exports(file)
        if len(exports) != 1:
            names = ", ".join(p.name for p in exports) or "none; a run writes it with checkpoints"
            raise UserError(f"{file} should hold one exported encoder; it holds {names}.")
        file = exports[0]
    card_file = file.with_suffix(".json")
    if file.suffix == ".json" and not file.exists():
        raise UserError(f"There is no {file}.")
    card = read_card(card_file)
    if card is None:
        return load_published_encoder(file).eval()
    encoder = build_from_card(card, card_file)
    load_weights(encoder, file.with_suffix(".safetensors"), encoder.name)
    return encoder.eval()


def build_from_card(card: dict[str, Any], card_file: Path) -> Encoder:
    """The encoder that a card describes, with random weights."""
    try:
        kwargs: dict[str, Any] = {}
        check_sizes([card["kwargs"], card["spec"]])
        if not isinstance(card["licence"], str | None):
            raise ValueError("its licence is no text")
        for key, value in card["kwargs"].items():
            kwargs[key] = tuple(value) if isinstance(value, list) else value
        encoder = build(card["name"], kwargs)
        encoder.spec = ClipSpec(**card["spec"])
        encoder.mean, encoder.std = tuple(card["mean"]), tuple(card["std"])
        encoder.licence = card["licence"]
        restore_adapters(encoder, card)
        if len(torch.tensor([encoder.mean, encoder.std], dtype=torch.float32)[0]) != 3:
            raise ValueError("mean and std are three numbers each")
    except (KeyError, TypeError, AttributeError, ValueError, *TOO_LARGE) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{card_file} describes no encoder: {reason.rstrip('.')}.") from error
    return encoder


def check_sizes(content: Any) -> None:
    """Raise a ValueError for a size of no net: it would be built before its weights are read."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        for value in content:
            check_sizes(value)
    elif isinstance(content, int | float) and not abs(content) <= MAX_SIZE:
        raise ValueError(f"a size of {content:g} is more than {MAX_SIZE}")


def list_exports(folder: Path) -> list[Path]:
    """The exported encoders of a folder. An exported text tower beside them is left out."""
    exports = []
    for path in sorted(folder.glob("*.safetensors")):
        card = read_card(path.with_suffix(".json"))
        if card is not None and "tower" not in card:
            exports.append(path)
    return exports


def load_published_encoder(path: Path) -> Encoder:
    """The encoder that a published file holds, from the file alone."""
    no_card = f" Nor is {path.stem}.json beside it, which an exported encoder has."
    return load_published(path, no_card)[0]


def load_published(path: Path, hint: str = "") -> tuple[Encoder, State]:
    """The encoder of a published file, and all its tensors in the names of an objective.

    `hint`: an addition to the message about a file in no known layout. Raises UserError if the
    file is in no known layout or holds no encoder.
    """
    file = read_weights(path)
    published = identify_file(file)
    if published is None:
        if is_run_checkpoint(file):
            raise UserError(
                f"{path} is the checkpoint of a run: name the run's folder, which holds its "
                "encoder."
            )
        raise UserError(f"{unknown_layout_error(file)}{hint}")
    require_encoder(published)
    name = find_registered_name(published.net)
    return build_published_encoder(published, name, {}, partial=False), published.ours


def create_encoder_from_file(
    weights: str | Path, name: str, kwargs: dict[str, Any], partial: bool
) -> Encoder:
    """The encoder `name` with the weights of a file: published, or exported from such an encoder.

    `partial`: load the tensors that fit. Raises UserError if the file does not fit the encoder.
    """
    path = Path(weights)
    file, card = read_weights(path), read_card(path.with_suffix(".json"))
    published = identify_file(file) if card is None else None
    if published is not None:
        return build_published_encoder(published, name, kwargs, partial)
    encoder = build(name, kwargs)
    state = encoder.rename_published(file.tensors)
    if not state.keys() & encoder.state_dict().keys():
        raise unknown_layout_error(file)
    load_state(encoder, state, weights, partial, encoder.name)
    encoder.licence = file.licence if card is None else card.get("licence")
    return encoder


def build_published_encoder(
    published: PublishedFile, name: str, kwargs: dict[str, Any], partial: bool
) -> Encoder:
    """The encoder `name` with the weights of an identified file, which is logged.

    `kwargs`: arguments that the user chose. Raises UserError if they contradict the file.
    """
    require_encoder(published)
    if not partial:
        published.require_complete()
    encoder = build(name, choose_arguments(published, name, kwargs))
    state = encoder.rename_published(published.encoder_state())
    n_loaded = load_state(encoder, state, published.file.path, partial, encoder.name)
    n_missing = len(encoder.state_dict()) - n_loaded
    n_unexpected = len(published.unexpected) + len(state) - n_loaded
    n_outside = len(published.ours) - len(state) + published.n_outside
    licence = f"; licence {published.licence}" if published.licence else ""
    log.info(
        f"{published.file.path}: {published.description}; {n_loaded} tensors matched, "
        f"{n_missing} missing, {n_unexpected} unexpected; {n_outside} outside the encoder left "
        f"out{licence}"
    )
    encoder.licence = published.licence
    return encoder


def require_encoder(published: PublishedFile) -> None:
    """Raise UserError if the file holds no encoder."""
    if published.layout.only_a_start is not None:
        raise UserError(
            f"{published.file.path} is {published.description}: {published.layout.only_a_start}."
        )
    if published.net.encoder is None:
        raise UserError(
            f"{published.file.path} is {published.description}: it has no encoder and works on "
            "stored features. Give it as --objective.init, or --init, of --objective "
            f"{published.net.objective}."
        )


def read_run_licence(checkpoint: Path) -> str | None:
    """The licence of the encoders that the run exported beside its checkpoints."""
    for file in sorted(checkpoint.resolve().parent.parent.glob("*.json")):
        card = read_card(file) or {}
        if card.get("licence") and "kwargs" in card:
            return str(card["licence"])
    return None


def hash_encoder(encoder: Encoder) -> str:
    """A hash of all that determines features: name, arguments, clip, normalisation, weights."""
    settings = repr((encoder.name, encoder.spec, encoder.mean, encoder.std)).encode()
    arguments = json.dumps(encoder.kwargs, sort_keys=True, default=str).encode()
    return hash_tensors(read_merged_state(encoder), settings + arguments)
