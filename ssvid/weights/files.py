"""A file -> tensors, and back.

This file alone decides what a pickle may hold.
"""

import argparse
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.serialization import safe_globals

from ssvid.commands import phrase_command
from ssvid.errors import UserError
from ssvid.files import require_file, write_bytes_whole, write_whole
from ssvid.weights.layout import State
from ssvid.weights.npz import is_npz, read_npz, write_npz
from ssvid.weights.torchscript import is_torchscript, read_torchscript

WRAPPERS = ("model", "module", "model_state", "state_dict", "model_state_dict")
ARCHIVE = b"PK\3\4"  # the first bytes of a zip archive
MAX_DEPTH = 3  # of an entry in an entry that is looked for
# Published training code pickles settings and numbers beside its tensors. These cannot run any
# code.
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
class WeightsFile:
    """What a checkpoint holds, under the names that the file uses."""

    path: Path
    tensors: State
    wrapper: str | None  # the entry that held the tensors
    other_entries: dict[str, Any]  # less the tensors among them

    @property
    def licence(self) -> str | None:
        licence = self.other_entries.get("licence")
        return licence if isinstance(licence, str) else None


def read_weights(path: Path, trust: bool = False, entry: str | None = None) -> WeightsFile:
    """Read a .safetensors file, an .npz file or a pickle of torch.save, which its content tells.

    `trust`: unpickle any object, which may run code. `entry`: the entry whose tensors are read, of
    those that `list_entries` names; None: the usual ones. Raises UserError if the file is absent,
    damaged, holds no tensors, or holds other objects and is not trusted.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a checkpoint.")
    try:
        require_file(path)
        with open(path, "rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {path}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if head[8:9] == b"{":
        if entry is not None:
            raise UserError(
                f"{path} is a .safetensors file, which has no entries: leave out --entry."
            )
        return _read_safetensors(path)
    if head and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        raise UserError(
            f"{path} is text ({head.decode().splitlines()[0][:40]!r} ...) and no checkpoint: "
            "download it again."
        )
    if is_archive(path, head) and is_npz(path):
        return _read_npz(path, entry)
    raw = _unpickle(path, trust)
    if entry is not None:
        return WeightsFile(path, _select_entry(path, raw, entry), None, {})
    wrapper = _find_wrapper(raw)
    tensors = _select_tensors(raw if wrapper is None else raw[wrapper])
    if not tensors:
        raise UserError(
            f"{path} holds no weights at its top or under "
            f"{', '.join(map(repr, WRAPPERS))}.{hint_at_entries(path, raw)}"
        )
    other_entries = {
        key: value
        for key, value in raw.items()
        if isinstance(key, str) and key != wrapper and not isinstance(value, Tensor)
    }
    return WeightsFile(path, tensors, wrapper, other_entries)


def is_archive(path: Path, head: bytes) -> bool:
    """Whether the file is a zip archive, as .npz files and those of torch.save are.

    `head`: its first bytes. Raises UserError if it is one whose end is missing.
    """
    has_end = is_zipfile(path)
    if head.startswith(ARCHIVE) and not has_end:
        raise UserError(
            f"{path} is damaged: it begins as an archive, and the list of its contents, which "
            "stands at the end, is missing. Copy or download it again."
        )
    return has_end


def list_entries(raw: object, prefix: str = "") -> dict[str, State]:
    """Name of an entry -> its tensors, for the entries of a checkpoint that hold any.

    An entry in an entry has both names, as in `ema.module`.
    """
    entries: dict[str, State] = {}
    for key, value in raw.items() if isinstance(raw, dict) else ():
        if not isinstance(key, str) or not isinstance(value, dict):
            continue
        if tensors := _select_tensors(value):
            entries[prefix + key] = tensors
        elif prefix.count(".") < MAX_DEPTH:
            entries |= list_entries(value, f"{prefix}{key}.")
    return entries


def hint_at_entries(path: Path, raw: object) -> str:
    """What an error says of the entries that hold tensors; empty if none does.

    Nobody can guess which one is meant: the moving average or the net, the encoder or its target.
    """
    entries = list_entries(raw)
    if not entries:
        return ""
    names = " and ".join(f"{name!r} ({len(tensors)})" for name, tensors in entries.items())
    return (
        f" There are tensors under {names}: `{phrase_command('weights')} {path} --entry "
        f"{next(iter(entries))}` says what they are, and with --to LAYOUT --out NEW.pth it writes "
        "them as a file of their own."
    )


def _select_entry(path: Path, raw: object, entry: str) -> State:
    entries = list_entries(raw)
    if entry not in entries:
        raise UserError(
            f"{path} has no tensors under --entry {entry}: there are some under "
            f"{', '.join(entries) or 'none'}."
        )
    return entries[entry]


def _find_wrapper(raw: object) -> str | None:
    """The entry that holds the tensors; None if they stand at the top."""
    if isinstance(raw, dict):
        for wrapper in WRAPPERS:
            if _select_tensors(raw.get(wrapper)):
                return wrapper
    return None


def _read_safetensors(path: Path) -> WeightsFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if not tensors:
                raise UserError(f"{path} holds no tensors: name another file.")
            return WeightsFile(path, tensors, None, dict(file.metadata() or {}))
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged or no checkpoint ({' '.join(str(error).split())})."
        ) from error


def _read_npz(path: Path, entry: str | None) -> WeightsFile:
    if entry is not None:
        raise UserError(f"{path} is an .npz file, which has no entries: leave out --entry.")
    try:
        tensors = read_npz(path)
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        raise UserError(
            f"{path} is damaged: parts of this .npz file are missing or have changed. Copy or "
            "download it again."
        ) from error
    return WeightsFile(path, tensors, None, {})


def _unpickle(path: Path, trust: bool) -> Any:
    try:
        if is_torchscript(path):
            return read_torchscript(path)
        with safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        if not (named := re.search(r"(?:GLOBAL|class|call to) ([\w.]+\.\w+)", str(error))):
            raise UserError(
                f"{path} is damaged or no checkpoint ({_first_line(error)})."
            ) from error
        raise UserError(
            f"{path} holds more than tensors ({named[1]}), which can run code when it is read. "
            f"If you trust its source, `{phrase_command('weights')} {path} --trust --to LAYOUT "
            "--out NEW.pth` writes the tensors alone."
        ) from error
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{path} needs code that is not installed here: {_first_line(error)}."
        ) from error
    except Exception as error:  # bytes that are no pickle can fail in any way
        raise UserError(f"{path} is damaged or no checkpoint ({_first_line(error)}).") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _select_tensors(raw: object) -> State:
    if not isinstance(raw, dict):
        return {}
    return {k: v.detach() for k, v in raw.items() if isinstance(k, str) and isinstance(v, Tensor)}


def write_weights(path: Path, tensors: State, wrapper: str | None, licence: str | None) -> None:
    """Write a .safetensors or .npz file if the suffix says so, else a pickle of torch.save.

    The licence is written too, except where there is no place for it: an .npz file, or a pickle
    without a wrapper.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        # The format does not allow two names of one storage, so each tensor is copied.
        copies = {key: x.contiguous().clone() for key, x in tensors.items()}
        data = save(copies, metadata={"format": "pt", "licence": licence or "none"})
        write_bytes_whole(path, data)
    elif path.suffix == ".npz":
        write_npz(path, tensors)
    else:
        content = {wrapper: tensors, "licence": licence or "none"} if wrapper else tensors
        write_whole(path, lambda file: torch.save(content, file))
