"""A file on disk <-> an encoder.

A run exports weights with a card beside them, which says what they are of. A published file is known by its keys.
"""

import json
from pathlib import Path
from typing import Any

import torch

from ssvid.encoder import Encoder, build
from ssvid.errors import UserError
from ssvid.log import log
from ssvid.shapes import ClipSpec
from ssvid.weights.files import read
from ssvid.weights.layout import Net, State
from ssvid.weights.published import Found, arguments, find, is_run, sized, unknown
from ssvid.weights.state_dict import fit, hash_tensors, load_weights, read_card, save_with_card


def save_encoder(encoder: Encoder, folder: Path, stem: str, trained: dict[str, Any]) -> Path:
    """`stem.safetensors` and `stem.json` beside it: all that `load_encoder` needs. Equal encoders give equal bytes."""
    path = folder / f"{stem}.safetensors"
    card = {
        "name": encoder.name,
        "kwargs": encoder.kwargs,
        "spec": vars(encoder.spec),
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "licence": encoder.licence,
        "trained": trained,
    }
    save_with_card(encoder, path, card)
    return path


def load_encoder(path: str | Path) -> Encoder:
    """An exported encoder, from its run folder, its .safetensors or its .json; or a published checkpoint."""
    file = Path(path)
    if file.is_dir():
        found = exported_in(file)
        if len(found) != 1:
            names = ", ".join(p.name for p in found) or "none; a run writes it with each checkpoint"
            raise UserError(f"{file} should hold one exported encoder; it holds {names}.")
        file = found[0]
    card_file = file.with_suffix(".json")
    if file.suffix == ".json" and not file.exists():
        raise UserError(f"There is no {file}.")
    card = read_card(card_file)
    if card is None:
        return published_encoder(file).eval()
    try:
        given: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in card["kwargs"].items()
        }
        encoder = build(card["name"], given)
        encoder.spec = ClipSpec(**card["spec"])
        encoder.mean, encoder.std, encoder.licence = (
            tuple(card["mean"]),
            tuple(card["std"]),
            card["licence"],
        )
        if len(torch.tensor([encoder.mean, encoder.std], dtype=torch.float32)[0]) != 3:
            raise ValueError("mean and std are three numbers each")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{card_file} describes no encoder: {error}.") from error
    load_weights(encoder, file.with_suffix(".safetensors"), encoder.name)
    return encoder.eval()


def exported_in(folder: Path) -> list[Path]:
    """Encoders alone: a run of an objective on text exports its tower beside them."""
    cards = {
        path: read_card(path.with_suffix(".json")) for path in sorted(folder.glob("*.safetensors"))
    }
    return [path for path, card in cards.items() if card is not None and "tower" not in card]


def published_encoder(path: Path) -> Encoder:
    """The encoder that a published file holds, from the file alone."""
    return open_published(
        path, f" Nor is {path.stem}.json beside it, which an exported encoder has."
    )[0]


def open_published(path: Path, absent: str = "") -> tuple[Encoder, State]:
    """The encoder, and all that the file holds in the names of an objective. `absent`: said of a file of no layout."""
    file = read(path)
    found = find(file)
    if found is None:
        if is_run(file):
            raise UserError(
                f"{path} is the checkpoint of a run: name the run's folder, which holds its encoder."
            )
        raise UserError(f"{unknown(file)}{absent}")
    return of_found(found, sized(encoded(found)), {}, partial=False), found.ours


def encoder_from(weights: str | Path, name: str, kwargs: dict[str, Any], partial: bool) -> Encoder:
    """The encoder `name` with the weights of a file: published, or exported from the same encoder."""
    file, card = read(Path(weights)), read_card(Path(weights).with_suffix(".json"))
    found = find(file) if card is None else None
    if found is not None:
        return of_found(found, name, kwargs, partial)
    encoder = build(name, kwargs)
    state = encoder.rename_published(file.tensors)
    if not state.keys() & encoder.state_dict().keys():
        raise unknown(file)
    fit(encoder, state, weights, partial, encoder.name)
    encoder.licence = file.licence if card is None else card.get("licence")
    return encoder


def of_found(found: Found, name: str, given: dict[str, Any], partial: bool) -> Encoder:
    encoded(found)
    if not partial:
        found.whole()
    encoder = build(name, arguments(found, name, given))
    state = found.encoder()
    matched = fit(encoder, state, found.file.path, partial, encoder.name)
    counts = f"{matched} tensors matched, {len(encoder.state_dict()) - matched} missing"
    left = len(found.ours) - len(state) + found.beside
    counts += f", {len(found.unexpected) + len(state) - matched} unexpected; {left} beside the encoder left out"
    licence = f"; licence {found.licence}" if found.licence else ""
    log.info(f"{found.file.path}: {found.what}; {counts}{licence}")
    encoder.licence = found.licence
    return encoder


def encoded(found: Found) -> Net:
    """Refuse what has no encoder in it."""
    if found.net.encoder is None:
        raise UserError(
            f"{found.file.path} is {found.what}: it has no encoder and works on stored features; give it as "
            f"--objective.init, or --init, of --objective {found.net.objective}."
        )
    return found.net


def licence_of_run(checkpoint: Path) -> str | None:
    """Of the encoders that the run exported beside its checkpoints."""
    cards = [
        read_card(file) or {} for file in sorted(checkpoint.resolve().parent.parent.glob("*.json"))
    ]
    return next(
        (card["licence"] for card in cards if card.get("licence") and "kwargs" in card), None
    )


def encoder_hash(encoder: Encoder) -> str:
    """Of what determines its features: name, arguments, clip, normalisation and every weight."""
    what = repr((encoder.name, encoder.spec, encoder.mean, encoder.std))
    return hash_tensors(
        encoder, what.encode() + json.dumps(encoder.kwargs, sort_keys=True, default=str).encode()
    )
