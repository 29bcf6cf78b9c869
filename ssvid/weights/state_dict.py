"""A state dict and the module that it belongs to.

This file loads one into the other, refuses what does not fit, and hashes weights. It knows modules
and tensors alone: what an encoder is, and how a published file names its tensors, is known
elsewhere.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from ssvid.errors import UserError
from ssvid.files import read_json_mapping, write_bytes_whole, write_json_whole
from ssvid.weights.files import read_weights
from ssvid.weights.layout import State


def load_state(
    module: nn.Module,
    state: State,
    path: str | Path,
    partial: bool = False,
    name: str | None = None,
) -> int:
    """Load the state into the module, and return the number of tensors that fitted.

    `path`: the file, for the message. `partial`: load the tensors that fit, if any does. `name`:
    what the message calls the module; its class if absent. Raises UserError if the state does not
    fit.
    """
    expected = module.state_dict()
    missing = sorted(expected.keys() - state.keys())
    unknown = sorted(state.keys() - expected.keys())
    misfits = []
    for key in sorted(expected.keys() & state.keys()):
        if expected[key].shape != state[key].shape:
            misfits.append(key)
    fitting = {k: v for k, v in state.items() if k in expected and k not in misfits}
    if (missing or unknown or misfits) and not (partial and fitting):
        examples = []
        if missing:
            examples.append(f"missing {missing[0]!r}")
        if unknown:
            examples.append(f"unknown {unknown[0]!r}")
        if misfits:
            shapes = tuple(state[misfits[0]].shape), tuple(expected[misfits[0]].shape)
            examples.append(f"{misfits[0]!r} is {shapes[0]}, not {shapes[1]}")
        counts = f"{len(missing)} missing, {len(unknown)} unknown, {len(misfits)} of another shape"
        raise UserError(
            f"{path} belongs to another model than {name or type(module).__name__}: {counts}, "
            f"such as {'; '.join(examples)}."
        )
    module.load_state_dict(fitting, strict=not partial)
    return len(fitting)


def load_weights(module: nn.Module, path: str | Path, name: str | None = None) -> None:
    """Load every tensor of the module from a file in our names. UserError if it does not fit."""
    load_state(module, read_weights(Path(path)).tensors, path, name=name)


def read_card(path: Path) -> dict[str, Any] | None:
    """The JSON card that `save_with_card` writes beside weights; None if there is no such file.

    Raises UserError if the file is no JSON object.
    """
    if not path.exists():
        return None
    return read_json_mapping(path, "card")


def save_with_card(state: State, path: Path, card: dict[str, Any]) -> None:
    """Write the tensors of a module to `path`, a .safetensors file, and beside it their card.

    The card tells what the tensors are. Equal modules give equal bytes: no time and no path is
    written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: x.detach().cpu().contiguous().clone() for key, x in state.items()}
    write_bytes_whole(path, save(tensors))
    write_json_whole(path.with_suffix(".json"), card, end="\n", indent=1, sort_keys=True)


def hash_weights(net: nn.Module, settings: object) -> str:
    """A hash of every weight, and of the `settings` that the net's answers also depend on."""
    return hash_tensors(net.state_dict(), repr(settings).encode())


def hash_tensors(state: State, start: bytes) -> str:
    """16 hexadecimal digits of the SHA-256 of `start`, then of every key and tensor of a net."""
    digest = hashlib.sha256(start)
    for key, value in sorted(state.items()):
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        digest.update(key.encode() + content)
    return digest.hexdigest()[:16]
