"""A state dict and the module it belongs to: fit one into the other, refuse what does not fit, hash what is there.

Knows modules and tensors alone. What an encoder is, and how a published file names its tensors, is known elsewhere.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from ssvid.errors import UserError
from ssvid.files import write_bytes_whole, write_json_whole
from ssvid.weights.files import read
from ssvid.weights.layout import State


def fit(
    module: nn.Module,
    state: State,
    path: str | Path,
    partial: bool = False,
    name: str | None = None,
) -> int:
    """Load the state, or refuse with what does not fit. Gives the number of tensors that do.

    `path`: the file, for the message. `name`: what the message calls the module; its class if absent.
    """
    own = module.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misfits = [k for k in sorted(own.keys() & state.keys()) if own[k].shape != state[k].shape]
    fitting = {k: v for k, v in state.items() if k in own and k not in misfits}
    if (missing or unknown or misfits) and not (partial and fitting):
        shown = [f"missing {k!r}" for k in missing[:1]] + [f"unknown {k!r}" for k in unknown[:1]]
        shown += [
            f"{k!r} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}" for k in misfits[:1]
        ]
        counts = (
            f"{len(missing)} missing, {len(unknown)} unknown and {len(misfits)} of another shape"
        )
        raise UserError(
            f"{path} is of another model than {name or type(module).__name__}: {counts}, such as {'; '.join(shown)}."
        )
    module.load_state_dict(fitting, strict=not partial)
    return len(fitting)


def load_weights(module: nn.Module, path: str | Path, name: str | None = None) -> None:
    """Every tensor of the module from the file, which is in our own names."""
    fit(module, read(Path(path)).tensors, path, name=name)


def read_card(path: Path) -> dict[str, Any] | None:
    """What `save_encoder` writes beside the weights; None where there is nothing."""
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise UserError(f"{path} describes no encoder: {error}.") from error


def save_with_card(module: nn.Module, path: Path, card: dict[str, Any]) -> None:
    """Write the tensors of a module to `path`, a .safetensors file, and the card that tells what they are beside it.

    Equal modules give equal bytes: no time and no path is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = save(
        {key: x.detach().cpu().contiguous().clone() for key, x in module.state_dict().items()}
    )
    write_bytes_whole(path, data)
    write_json_whole(path.with_suffix(".json"), card, end="\n", indent=1, sort_keys=True)


def weights_hash(net: nn.Module, what: object) -> str:
    """Of every weight, and of `what` else its answers depend on."""
    return hash_tensors(net, repr(what).encode())


def hash_tensors(net: nn.Module, what: bytes) -> str:
    digest = hashlib.sha256(what)
    for key, value in sorted(net.state_dict().items()):
        digest.update(
            key.encode()
            + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:16]
