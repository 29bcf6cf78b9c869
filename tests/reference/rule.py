"""Weights and inputs of the dpc, memdpc and coclr cases by their READMEs' rule: seed, name ->
tensor.
"""

import zlib

import numpy as np
import torch
from torch import Tensor


def standard_normal(seed: int, name: str, shape: list[int]) -> Tensor:
    draw = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode())).standard_normal(shape)
    return torch.from_numpy(np.asarray(draw, dtype=np.float32))


def rule(seed: int, key: str, shape: list[int]) -> Tensor:
    """The README's rule: a tensor from the seed and its name."""
    z = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode())).standard_normal(shape)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.tensor(0)
    if leaf == "running_mean":
        z = 0.1 * z
    elif leaf == "mb":
        pass
    elif leaf == "running_var":
        z = 1 + 0.1 * np.abs(z)
    elif len(shape) >= 2:
        z = z * np.sqrt(2 / (z.size / shape[0]))
    else:
        z = 1 + 0.1 * z if leaf == "weight" else 0.1 * z
    return torch.from_numpy(np.asarray(z, dtype=np.float32))


def tagged(tag: str, key: str, shape: list[int]) -> Tensor:
    """The rule of the milnce and tan cases' READMEs: a tensor from the case's tag and the key."""
    draw = np.random.RandomState(zlib.crc32(f"{tag}|{key}".encode())).standard_normal(shape)
    z = np.asarray(draw, dtype=np.float32)
    leaf, fan_in = key.rsplit(".", 1)[-1], np.sqrt(np.float32(np.prod(shape[1:])))
    if leaf == "num_batches_tracked":
        return torch.tensor(0)
    if leaf == "running_mean":
        z = np.float32(0.1) * z
    elif leaf == "running_var":
        z = np.float32(0.5) + np.abs(z)
    elif "word_embd" in key or "pos_embed" in key:
        pass
    elif len(shape) == 1:
        z = np.float32(leaf == "weight") + np.float32(0.1) * z
    else:
        z = np.float32(2 if len(shape) == 5 else 1) * z / fan_in
    return torch.from_numpy(z)
