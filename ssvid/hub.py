"""A name or a file -> Encoder: the door through which users make and load encoders; `import ssvid` exports it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ssvid.encoder import Encoder, build, list_encoders
from ssvid.errors import UserError
from ssvid.weights.encoders import encoder_from, load_encoder

__all__ = ["create_encoder", "list_encoders", "load_encoder", "open_encoder", "stream_of"]


def create_encoder(
    name: str, weights: str | Path | None = None, *, partial: bool = False, **kwargs: Any
) -> Encoder:
    """An encoder by its registered name, with random weights or those of a file in any layout that ssvid.weights knows.

    Of a published file the arguments that you leave out are as it has them. `partial`: take what matches.
    """
    return build(name, kwargs) if weights is None else encoder_from(weights, name, kwargs, partial)


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
    if "/" in text or text.endswith(
        (".safetensors", ".json", ".pt", ".pth", ".pyth", ".bin", ".tar")
    ):
        raise UserError(f"There is no run folder or encoder file {text}.")
    return build(text, {}).eval()


def stream_of(text: str) -> tuple[str, str]:
    """`FILE@flow` -> FILE, flow; "" where nothing is said."""
    path, _, modality = text.rpartition("@")
    return (
        (text, "") if modality not in ("rgb", "flow") or Path(text).exists() else (path, modality)
    )
