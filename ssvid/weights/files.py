"""A file -> tensors, and back. What a pickle may hold is decided here, and nowhere else."""

import argparse
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.serialization import safe_globals

from ssvid.errors import UserError
from ssvid.files import write_bytes_whole, write_whole
from ssvid.weights.layout import State

WRAPPERS = ("model", "module", "model_state", "state_dict", "model_state_dict")
# What published training code pickles beside its tensors and cannot run anything: settings and numbers.
SCALAR = np.float64(0).__reduce__()[0]
NUMBERS = [
    type(np.dtype(name))
    for name in ("float64", "float32", "float16", "int64", "int32", "uint8", "bool")
]
HARMLESS: list[Any] = [
    argparse.Namespace,
    SCALAR,
    (SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *NUMBERS,
]


@dataclass(frozen=True)
class File:
    path: Path
    tensors: State
    wrapper: str | None  # the entry that held them
    rest: dict[str, Any]  # the other entries

    @property
    def licence(self) -> str | None:
        said = self.rest.get("licence")
        return said if isinstance(said, str) else None


def read(path: Path, trust: bool = False) -> File:
    """`trust`: unpickle whatever it holds, which may run code."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a checkpoint.")
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {path}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        raise UserError(
            f"{path} is text ({head.decode().splitlines()[0][:40]!r} ...), no checkpoint: download it anew."
        )
    raw = _unpickle(path, trust)
    wrapper = next((w for w in WRAPPERS if isinstance(raw, dict) and _tensors(raw.get(w))), None)
    tensors = _tensors(raw if wrapper is None else raw[wrapper])
    if not tensors:
        raise UserError(
            f"{path} holds no weights: a checkpoint maps names to tensors, perhaps under 'model'."
        )
    rest = {
        k: v
        for k, v in raw.items()
        if isinstance(k, str) and k != wrapper and not isinstance(v, Tensor)
    }
    return File(path, tensors, wrapper, rest)


def _read_safetensors(path: Path) -> File:
    try:
        with safe_open(path, framework="pt") as file:
            return File(
                path,
                {key: file.get_tensor(key) for key in file.keys()},  # noqa: SIM118
                None,
                dict(file.metadata() or {}),
            )
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged or no checkpoint ({' '.join(str(error).split())})."
        ) from error


def _unpickle(path: Path, trust: bool) -> Any:
    try:
        with safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        if not (named := re.search(r"(?:GLOBAL|class|call to) ([\w.]+\.\w+)", str(error))):
            raise UserError(f"{path} is damaged or no checkpoint ({_first(error)}).") from error
        raise UserError(
            f"{path} holds more than tensors ({named[1]}), which can run code when it is read: if you trust its "
            f"source, `python -m ssvid.weights {path} --trust --to LAYOUT --out NEW.pth` writes the tensors alone."
        ) from error
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{path} needs code that is not installed here: {_first(error)}."
        ) from error
    except Exception as error:  # bytes that are no pickle can fail in any way
        raise UserError(f"{path} is damaged or no checkpoint ({_first(error)}).") from error


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _tensors(raw: object) -> State:
    if not isinstance(raw, dict):
        return {}
    return {k: v.detach() for k, v in raw.items() if isinstance(k, str) and isinstance(v, Tensor)}


def write(path: Path, tensors: State, wrapper: str | None, licence: str | None) -> None:
    """`.safetensors`, else as torch.save writes it. Where there is a place for the licence, it is told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        own = {
            key: x.contiguous().clone() for key, x in tensors.items()
        }  # aliases are not allowed there
        data = save(own, metadata={"format": "pt", "licence": licence or "none"})
        write_bytes_whole(path, data)
    else:
        whole = {wrapper: tensors, "licence": licence or "none"} if wrapper else tensors
        write_whole(path, lambda file: torch.save(whole, file))
