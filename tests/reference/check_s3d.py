"""S3D as CoCLR has it: our `s3d` on weights and input made by the cases' rule."""

import hashlib
import zlib

import numpy as np
import torch
from torch import Tensor

from ssvid.encoders.s3d import S3D
from ssvid.weights.coclr import s3d_to_ours
from tests.reference.cases import Case, assert_close


def recognises(case: Case) -> bool:
    return case.meta.get("gating") is False and "stages_eval" in case.meta


def check(case: Case) -> None:
    keys = [k for k in case.meta["weights"]["keys"] if not k[0].startswith("block")]
    net = S3D()
    net.double()  # so that what differs is the published side's own rounding
    net.load_state_dict(s3d_to_ours({k[0]: rule(case.meta["seed"], k[0], k[1]) for k in keys}))
    clip = standard_normal(case.meta["seed"], f"input:{case.meta['input_name']}", case.meta["input_shape"])
    assert hashlib.sha256(clip.numpy().tobytes()).hexdigest() == case.meta["input_sha256"]
    assert sum(p.numel() for p in net.parameters()) == case.meta["weights"]["n_params"]
    for mode in ("eval", "train"):
        with torch.no_grad():
            stages = net.train(mode == "train").stages(clip.double())
        for number, x in enumerate(stages, 1):
            theirs = case.meta[f"stages_{mode}"][f"block{number}"]
            ours = {"mean": x.mean(), "std": x.std(), "l2": x.norm(), "absmax": x.abs().max()}
            assert list(x.shape) == theirs["shape"]
            for name, value in ours.items():
                assert abs(float(value) - theirs[name]) <= 1e-4 * abs(theirs["absmax" if name != "l2" else "l2"])
        assert_close(f"feat_{mode}", stages[-1].float(), case.arrays[f"feat_{mode}"], f"s3d_{mode}")
    assert case.arrays.keys() == {"feat_eval", "feat_train"}


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
    elif leaf == "running_var":
        z = 1 + 0.1 * np.abs(z)
    elif len(shape) >= 2:
        z = z * np.sqrt(2 / (z.size / shape[0]))
    else:
        z = 1 + 0.1 * z if leaf == "weight" else 0.1 * z
    return torch.from_numpy(np.asarray(z, dtype=np.float32))
