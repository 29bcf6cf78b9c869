"""An .npz file of numpy arrays -> tensors.

Nothing is unpickled. Arrays that are stored as they are (numpy's own way) are mapped into memory,
so that a file is read once, and its pages need not be kept.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from ssvid.errors import UserError
from ssvid.files import write_whole
from ssvid.weights.layout import State

SUFFIX = ".npy"
LOCAL_HEADER = 30  # bytes, without the name and the extra field, whose lengths are its last numbers


def is_npz(path: Path) -> bool:
    """Whether an archive is one of arrays, whatever its name."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return path.suffix == ".npz"  # a damaged one
    return bool(names) and all(name.endswith(SUFFIX) for name in names)


def read_npz(path: Path) -> State:
    """The tensors by name. UserError for a pickled array, or one that is no number."""
    tensors = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(SUFFIX)
            with archive.open(member) as file:
                dtype, shape, is_fortran = read_header(file, path, name)
                if member.compress_type == zipfile.ZIP_STORED and not is_fortran and all(shape):
                    begin = find_content(path, member) + file.tell()
                    array: np.ndarray = np.memmap(path, dtype, "c", begin, shape)
                else:
                    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
                    array = np.frombuffer(bytearray(file.read(count)), dtype)
                    array = array.reshape(shape, order="F" if is_fortran else "C")
            tensors[name] = to_tensor(array, path, name)
    return tensors


def read_header(file: Any, path: Path, name: str) -> tuple[np.dtype, tuple[int, ...], bool]:
    """Type, shape, and whether columns come first."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise UserError(
            f"{path}: {name!r} is a pickled object and no array, which could run code when it is "
            "read: save numbers alone."
        )
    return dtype, shape, is_fortran


def find_content(path: Path, member: zipfile.ZipInfo) -> int:
    """The byte of the file where the content of a stored member begins."""
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        header = file.read(LOCAL_HEADER)
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return member.header_offset + LOCAL_HEADER + lengths


def to_tensor(array: np.ndarray, path: Path, name: str) -> Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(array) if not array.ndim else array)
    except TypeError as error:
        raise UserError(
            f"{path}: {name!r} is an array of {array.dtype}, not of numbers."
        ) from error


def write_npz(path: Path, tensors: State) -> None:
    """Write tensors as numpy does. bfloat16, which numpy lacks, becomes float32."""
    arrays: dict[str, Any] = {}
    for key, x in tensors.items():
        arrays[key] = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    write_whole(path, lambda file: np.savez(file, **arrays))
