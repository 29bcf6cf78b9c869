"""Checkpoints on disk <-> encoders. A file is known by its keys, never by its name."""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from ssvid.encoder import Encoder, create_encoder
from ssvid.errors import UserError
from ssvid.files import write_whole
from ssvid.objective import Objective
from ssvid.shapes import ClipSpec
from ssvid.weights.files import read
from ssvid.weights.layout import Net, State
from ssvid.weights.published import Found, arguments, differing, find, is_run, sized, unknown


def save_encoder(encoder: Encoder, folder: Path, stem: str, trained: dict[str, Any]) -> Path:
    """`stem.safetensors` and `stem.json` beside it: all that `load_encoder` needs. Equal encoders give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in encoder.state_dict().items()}
    data, path = save(tensors), folder / f"{stem}.safetensors"
    write_whole(path, lambda file: file.write(data))
    card = {
        "name": encoder.name,
        "kwargs": encoder.kwargs,
        "spec": vars(encoder.spec),
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "licence": encoder.licence,
        "trained": trained,
    }
    text = json.dumps(card, indent=1, sort_keys=True) + "\n"
    write_whole(path.with_suffix(".json"), lambda file: file.write(text.encode()))
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
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["kwargs"].items()}
        encoder = create_encoder(card["name"], **given)
        encoder.spec = ClipSpec(**card["spec"])
        encoder.mean, encoder.std, encoder.licence = tuple(card["mean"]), tuple(card["std"]), card["licence"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{card_file} describes no encoder: {error}.") from error
    load_weights(encoder, file.with_suffix(".safetensors"))
    return encoder.eval()


def exported_in(folder: Path) -> list[Path]:
    """Encoders alone: a run of an objective on text exports its tower beside them."""
    cards = {path: read_card(path.with_suffix(".json")) for path in sorted(folder.glob("*.safetensors"))}
    return [path for path, card in cards.items() if card is not None and "tower" not in card]


def read_card(path: Path) -> dict[str, Any] | None:
    """What `save_encoder` writes beside the weights; None where there is nothing."""
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise UserError(f"{path} describes no encoder: {error}.") from error


def published_encoder(path: Path) -> Encoder:
    """The encoder that a published file holds, from the file alone."""
    return open_published(path, f" Nor is {path.stem}.json beside it, which an exported encoder has.")[0]


def open_published(path: Path, absent: str = "") -> tuple[Encoder, State]:
    """The encoder, and all that the file holds in the names of an objective. `absent`: said of a file of no layout."""
    file = read(path)
    found = find(file)
    if found is None:
        if is_run(file):
            raise UserError(f"{path} is the checkpoint of a run: name the run's folder, which holds its encoder.")
        raise UserError(f"{unknown(file)}{absent}")
    return of_found(found, sized(encoded(found)), {}, partial=False), found.ours


def encoder_from(weights: str | Path, name: str, kwargs: dict[str, Any], partial: bool) -> Encoder:
    """The encoder `name` with the weights of a file: published, or exported from the same encoder."""
    file, card = read(Path(weights)), read_card(Path(weights).with_suffix(".json"))
    found = find(file) if card is None else None
    if found is not None:
        return of_found(found, name, kwargs, partial)
    encoder = create_encoder(name, **kwargs)
    state = encoder.published(file.tensors)
    if not state.keys() & encoder.state_dict().keys():
        raise unknown(file)
    fit(encoder, state, weights, partial)
    encoder.licence = file.licence if card is None else card.get("licence")
    return encoder


def of_found(found: Found, name: str, given: dict[str, Any], partial: bool) -> Encoder:
    encoded(found)
    if not partial:
        found.whole()
    encoder = create_encoder(name, **arguments(found, name, given))
    state = found.encoder()
    matched = fit(encoder, state, found.file.path, partial)
    counts = f"{matched} tensors matched, {len(encoder.state_dict()) - matched} missing"
    left = len(found.ours) - len(state) + found.beside
    counts += f", {len(found.unexpected) + len(state) - matched} unexpected; {left} beside the encoder left out"
    licence = f"; licence {found.licence}" if found.licence else ""
    print(f"{found.file.path}: {found.what}; {counts}{licence}", file=sys.stderr)
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


def open_encoder(text: str) -> Encoder:
    """A run folder, an exported or published file, or a registered name (random weights); `FILE@flow`: a net of flow.

    A run knows what it sees; a published file does not.
    """
    path, modality = stream_of(text)
    if modality:
        if Path(path).is_dir():
            raise UserError(f"{path} is a run, which knows what it sees: leave out @{modality}.")
        net = open_encoder(path)
        net.spec = replace(net.spec, modality=modality)
        return net
    if Path(text).exists():
        return load_encoder(text)
    if "/" in text or text.endswith((".safetensors", ".json", ".pt", ".pth", ".pyth", ".bin", ".tar")):
        raise UserError(f"There is no run folder or encoder file {text}.")
    return create_encoder(text).eval()


def stream_of(text: str) -> tuple[str, str]:
    """`FILE@flow` -> FILE, flow; "" where nothing is said."""
    path, _, modality = text.rpartition("@")
    return (text, "") if modality not in ("rgb", "flow") or Path(text).exists() else (path, modality)


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Every tensor of the module from the file, which is in our own names."""
    fit(module, read(Path(path)).tensors, path)


def fit(module: nn.Module, state: State, path: str | Path, partial: bool = False) -> int:
    """Load the state, or refuse with what does not fit. Gives the number of tensors that do."""
    own = module.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misfits = [k for k in sorted(own.keys() & state.keys()) if own[k].shape != state[k].shape]
    fitting = {k: v for k, v in state.items() if k in own and k not in misfits}
    if (missing or unknown or misfits) and not (partial and fitting):
        shown = [f"missing {k!r}" for k in missing[:1]] + [f"unknown {k!r}" for k in unknown[:1]]
        shown += [f"{k!r} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}" for k in misfits[:1]]
        counts = f"{len(missing)} missing, {len(unknown)} unknown and {len(misfits)} of another shape"
        what = module.name if isinstance(module, Encoder) else type(module).__name__
        raise UserError(f"{path} is of another model than {what}: {counts}, such as {'; '.join(shown)}.")
    module.load_state_dict(fitting, strict=not partial)
    return len(fitting)


def warm_start(objective: Objective, path: str) -> None:
    """An encoder, published or exported, into every one that the objective exports; or a checkpoint into all of it.

    A published pretraining checkpoint fills the whole objective where its decoder fits as well. The licence goes along.
    """
    file = None if Path(path).is_dir() or read_card(Path(path).with_suffix(".json")) else read(Path(path))
    found = find(file) if file else None
    if found is not None:
        start_from_published(objective, found)
        licence = found.licence
    elif file is not None:
        fit(objective, file.tensors, path)
        licence = licence_of_run(Path(path))
    else:
        stranger = load_encoder(path)
        licence = stranger.licence
        for encoder in objective.exported().values():
            fit(encoder, stranger.state_dict(), path)
        objective.warmed()
    for encoder in objective.exported().values():
        encoder.licence = licence


def licence_of_run(checkpoint: Path) -> str | None:
    """Of the encoders that the run exported beside its checkpoints."""
    cards = [read_card(file) or {} for file in sorted(checkpoint.resolve().parent.parent.glob("*.json"))]
    return next((card["licence"] for card in cards if card.get("licence") and "kwargs" in card), None)


def start_from_published(objective: Objective, found: Found) -> None:
    """Refused where an encoder was built otherwise than the published one: shapes alone do not tell."""
    found.whole()
    path, state = found.file.path, found.encoder()
    if found.net.encoder is None:
        fit(objective, found.ours, path)
        print(f"{path}: {found.what}; starting from the whole objective", file=sys.stderr)
        return
    for encoder in objective.exported().values():
        if wrong := differing(found, encoder.name, encoder.kwargs):
            raise UserError(f"{path} is {found.what}: start it with --encoder.{wrong}.")
        fit(encoder, state, path)
    own = objective.state_dict()
    if own.keys() == found.ours.keys() and all(own[k].shape == x.shape for k, x in found.ours.items()):
        objective.load_state_dict(found.ours)
        said = "the whole objective"
    else:
        objective.warmed()
        said = "the encoder alone; what is beside it there does not fit or is not used"
    print(f"{path}: {found.what}; starting from {said}; licence {found.licence or 'not stated'}", file=sys.stderr)


def encoder_hash(encoder: Encoder) -> str:
    """Of what determines its features: name, arguments, clip, normalisation and every weight."""
    what = repr((encoder.name, encoder.spec, encoder.mean, encoder.std))
    return _hash(encoder, what.encode() + json.dumps(encoder.kwargs, sort_keys=True, default=str).encode())


def weights_hash(net: nn.Module, what: object) -> str:
    """Of every weight, and of `what` else its answers depend on."""
    return _hash(net, repr(what).encode())


def _hash(net: nn.Module, what: bytes) -> str:
    digest = hashlib.sha256(what)
    for key, value in sorted(net.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


__all__ = [
    "encoder_from",
    "encoder_hash",
    "exported_in",
    "fit",
    "load_encoder",
    "load_weights",
    "open_encoder",
    "open_published",
    "save_encoder",
    "stream_of",
    "warm_start",
    "weights_hash",
]
