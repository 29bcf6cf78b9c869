"""A TorchScript archive -> its tensors. OpenAI published CLIP in this form.

An archive holds code beside its weights. `torch.jit.load` would compile it; here only the pickle of
the modules is read, by a table of harmless names, and everything that the code defines becomes a
plain object.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DEFINED = "__torch__"  # what the names of an archive's own classes begin with
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
State = dict[str, Tensor]


class ScriptModule:
    """An object of a class that the archive defines: its attributes and nothing else."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def is_torchscript(path: Path) -> bool:
    """Whether the file is a zip that holds code of TorchScript."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def read_torchscript(path: Path) -> State:
    """Name of a parameter or buffer -> its tensor, as `state_dict` of the module names them.

    Raises pickle.UnpicklingError for a pickle that names anything but tensors and classes of the
    archive, and KeyError, ValueError or zipfile.BadZipFile for a damaged archive.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (pickled,) = (name for name in names if name.count("/") == 1 and name.endswith("/data.pkl"))
        with archive.open(pickled) as file:
            module = ModuleReader(file, archive, pickled.removesuffix("data.pkl")).load()
    tensors: State = {}
    collect_tensors(module, "", tensors)
    return tensors


def collect_tensors(module: Any, prefix: str, tensors: State) -> None:
    """Add the tensors of a module and of its children, in the order of the archive."""
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, ScriptModule):
            collect_tensors(value, f"{prefix}{name}.", tensors)


class ModuleReader(pickle.Unpickler):
    """Reads the pickle of an archive's modules. `folder`: of the pickle in the archive."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self.archive, self.folder = archive, folder
        self.storages: dict[str, torch.UntypedStorage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith(DEFINED):
            return ScriptModule
        if module == "torch" and name in DTYPES:
            return name
        if (module, name) in HARMLESS:
            return HARMLESS[module, name]
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is more than a tensor")

    def persistent_load(self, key: Any) -> Any:
        _, kind, number, _, _ = key
        if number not in self.storages:
            raw = bytearray(self.archive.read(f"{self.folder}data/{number}"))
            self.storages[number] = torch.frombuffer(raw, dtype=torch.uint8).untyped_storage()
        return torch.storage.TypedStorage(
            wrap_storage=self.storages[number], dtype=DTYPES[kind], _internal=True
        )


def build_list(values: Any) -> list[Any]:
    return list(values)


HARMLESS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch.jit._pickle", "build_intlist"): build_list,
    ("torch.jit._pickle", "build_doublelist"): build_list,
    ("torch.jit._pickle", "build_boollist"): build_list,
    ("torch.jit._pickle", "build_tensorlist"): build_list,
}
