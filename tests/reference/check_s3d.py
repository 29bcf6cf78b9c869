"""S3D as CoCLR has it: our `s3d`, gated and not, on weights and input made by the cases' rule."""

import hashlib

import torch

from ssvid.encoders.s3d import S3D
from ssvid.weights.coclr import LAYOUTS
from tests.reference.cases import Case, assert_close
from tests.reference.rule import rule, standard_normal


def recognises(case: Case) -> bool:
    return "gating" in case.meta and "stages_eval" in case.meta


def check(case: Case) -> None:
    keys = [k for k in case.meta["weights"]["keys"] if not k[0].startswith("block")]
    net = S3D(gating=case.meta["gating"])
    net.double()  # so that what differs is the published side's own rounding
    ours = LAYOUTS[0].to_ours({k[0]: rule(case.meta["seed"], k[0], k[1]) for k in keys})
    net.load_state_dict({key.removeprefix("encoder."): value for key, value in ours.items()})
    clip = standard_normal(
        case.meta["seed"], f"input:{case.meta['input_name']}", case.meta["input_shape"]
    )
    assert hashlib.sha256(clip.numpy().tobytes()).hexdigest() == case.meta["input_sha256"]
    assert sum(p.numel() for p in net.parameters()) == case.meta["weights"]["n_params"]
    modes = [mode for mode in ("eval", "train") if f"stages_{mode}" in case.meta]
    for mode in modes:
        with torch.no_grad():
            stages = net.train(mode == "train").run_stages(clip.double())
        for number, x in enumerate(stages, 1):
            theirs = case.meta[f"stages_{mode}"][f"block{number}"]
            ours = {"mean": x.mean(), "std": x.std(), "l2": x.norm(), "absmax": x.abs().max()}
            assert list(x.shape) == theirs["shape"]
            for name, value in ours.items():
                assert abs(float(value) - theirs[name]) <= 1e-4 * abs(
                    theirs["absmax" if name != "l2" else "l2"]
                )
        assert_close(f"feat_{mode}", stages[-1].float(), case.arrays[f"feat_{mode}"], f"s3d_{mode}")
    assert case.arrays.keys() == {f"feat_{mode}" for mode in modes}
