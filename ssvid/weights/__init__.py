"""Checkpoints on disk <-> encoders. A file is known by its keys, never by its name."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssvid.encoder import Encoder, create_encoder
from ssvid.errors import UserError
from ssvid.files import write_whole
from ssvid.objective import Objective
from ssvid.shapes import ClipSpec


def save_encoder(encoder: Encoder, folder: Path, stem: str, trained: dict[str, Any]) -> Path:
    """`stem.safetensors` and `stem.json` beside it: all that `load_encoder` needs. Equal encoders give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in encoder.state_dict().items()}
    temporary = folder / f".{stem}.safetensors.tmp"
    save_file(tensors, temporary)
    data = temporary.read_bytes()
    temporary.unlink()
    path = folder / f"{stem}.safetensors"
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
    """An exported encoder, from its run folder, its .safetensors or its .json."""
    file = Path(path)
    if file.is_dir():
        found = sorted(p for p in file.glob("*.safetensors") if p.with_suffix(".json").exists())
        if len(found) != 1:
            names = ", ".join(p.name for p in found) or "none; a run writes it with each checkpoint"
            raise UserError(f"{file} should hold one exported encoder; it holds {names}.")
        file = found[0]
    card_file = file.with_suffix(".json")
    if not card_file.exists():
        raise UserError(f"{file} has no {card_file.name} beside it, which says what it is.")
    try:
        card = json.loads(card_file.read_text())
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["kwargs"].items()}
        encoder = create_encoder(card["name"], **given)
        encoder.spec = ClipSpec(**card["spec"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{card_file} describes no encoder: {error}.") from error
    encoder.mean, encoder.std, encoder.licence = tuple(card["mean"]), tuple(card["std"]), card["licence"]
    load_weights(encoder, file.with_suffix(".safetensors"))
    return encoder.eval()


def open_encoder(text: str) -> Encoder:
    """A run folder, an exported file, or a registered name (random weights)."""
    if Path(text).exists():
        return load_encoder(text)
    if "/" in text or text.endswith((".safetensors", ".json", ".pt")):
        raise UserError(f"There is no run folder or encoder file {text}.")
    return create_encoder(text).eval()


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Every tensor of the module from the file."""
    fit(module, _read(Path(path)), path)


def fit(module: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load the state, or refuse with what does not fit."""
    own = module.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misfits = [k for k in sorted(own.keys() & state.keys()) if own[k].shape != state[k].shape]
    if missing or unknown or misfits:
        shown = [f"missing {k!r}" for k in missing[:1]] + [f"unknown {k!r}" for k in unknown[:1]]
        shown += [f"{k!r} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}" for k in misfits[:1]]
        counts = f"{len(missing)} missing, {len(unknown)} unknown and {len(misfits)} of another shape"
        what = module.name if isinstance(module, Encoder) else type(module).__name__
        raise UserError(f"{path} is of another model than {what}: {counts}, such as {'; '.join(shown)}.")
    module.load_state_dict(state)


def warm_start(objective: Objective, path: str) -> None:
    """An exported encoder into every encoder the objective exports, or a whole checkpoint into the objective."""
    if Path(path).suffix == ".pt":
        return load_weights(objective, path)
    stranger = load_encoder(path)
    for encoder in objective.exported().values():
        fit(encoder, stranger.state_dict(), path)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        from ssvid.engine.checkpoint import read

        state = read(path)
        return state.get("model", state) if isinstance(state, dict) else {}
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error


def encoder_hash(encoder: Encoder) -> str:
    """Of what determines its features: name, arguments, clip, normalisation and every weight."""
    digest = hashlib.sha256(repr((encoder.name, encoder.spec, encoder.mean, encoder.std)).encode())
    digest.update(json.dumps(encoder.kwargs, sort_keys=True, default=str).encode())
    for key, value in sorted(encoder.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


__all__ = ["encoder_hash", "load_encoder", "load_weights", "open_encoder", "save_encoder", "warm_start"]
