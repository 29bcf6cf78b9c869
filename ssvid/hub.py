"""A name or a file -> Encoder. Users create and load encoders here; `import ssvid` exports it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ssvid.encoder import Encoder, build, list_encoders
from ssvid.errors import UserError
from ssvid.trust import trust_modules, trust_typed_name
from ssvid.weights.encoders import create_encoder_from_file, load_encoder

__all__ = [
    "create_encoder",
    "create_untrained",
    "list_encoders",
    "load_encoder",
    "open_encoder",
    "split_modality",
    "split_untrained",
    "trust_modules",
]
UNTRAINED = re.compile(r"(.+)@random(\d{0,6})", re.DOTALL)
# Added to N of `NAME@randomN`. No other random weights begin with such a seed: those of a name have
# the seed of their command, and the twins of benchmarks have multiples of 1000 below it.
UNTRAINED_SEED = 1_000_001
FILE_ENDINGS = (".safetensors", ".json", ".pt", ".pth", ".pyth", ".bin", ".tar")


def create_encoder(
    name: str, weights: str | Path | None = None, *, partial: bool = False, **kwargs: Any
) -> Encoder:
    """Create an encoder by its registered name.

    Its weights are random, or those of a file in any layout that ssvid.weights knows. Arguments
    that are left out are then those of the published file. `partial`: load the weights that match
    and leave the rest random; without it, a UserError names what does not match.
    """
    trust_typed_name(name)  # the caller's own word, as on the command line
    return (
        build(name, kwargs)
        if weights is None
        else create_encoder_from_file(weights, name, kwargs, partial)
    )


def open_encoder(text: str) -> Encoder:
    """Open a run folder, an exported or published file, or a registered name (random weights).

    `FILE@flow` says that a published file is a net of optical flow, which the file itself does not
    record. A run does record it, so there the suffix raises a UserError. `NAME@random` and
    `NAME@randomN` are the same network with random weights instead of its trained ones.
    """
    trained, number = split_untrained(text)
    if number is not None:
        return create_untrained(open_encoder(trained), UNTRAINED_SEED + number)
    path, modality = split_modality(text)
    if modality:
        if Path(path).is_dir():
            raise UserError(f"{path} is a run, which knows what it sees: leave out @{modality}.")
        net = open_encoder(path)
        net.spec = replace(net.spec, modality=modality)
        return net
    if Path(text).exists():
        return load_encoder(text)
    if "/" in text or text.endswith(FILE_ENDINGS):
        raise UserError(f"There is no run folder or encoder file {text}.")
    return build(text, {}).eval()


def split_modality(text: str) -> tuple[str, str]:
    """`FILE@flow` -> FILE, flow. The modality is "" if the text has no such suffix."""
    path, _, modality = text.rpartition("@")
    if modality not in ("rgb", "flow") or Path(text).exists():
        return text, ""
    return path, modality


def split_untrained(text: str) -> tuple[str, int | None]:
    """`RUN@random` -> RUN, 0; `RUN@random7` -> RUN, 7. The number is None without the suffix."""
    match = UNTRAINED.fullmatch(text)
    if match is None or Path(text).exists():
        return text, None
    return match[1], int(match[2] or 0)


def create_untrained(encoder: Encoder, seed: int) -> Encoder:
    """The same network for the same clips, with the random weights of a seed, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = build(encoder.name, encoder.kwargs)
    untrained.spec, untrained.mean, untrained.std = encoder.spec, encoder.mean, encoder.std
    return untrained.eval()
