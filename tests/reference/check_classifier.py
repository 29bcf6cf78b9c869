"""CoCLR's classifier on S3D: the encoder found inside its file, and what its head makes of our
features.
"""

import hashlib
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.weights.encoders import build_published_encoder
from ssvid.weights.files import WeightsFile
from ssvid.weights.published import find_registered_name, identify_file
from tests.reference.cases import Case, assert_close
from tests.reference.rule import rule, standard_normal


def recognises(case: Case) -> bool:
    return case.arrays.keys() == {"logits", "feat"} and "use_l2_norm" in case.meta.get("kw", {})


def check(case: Case) -> None:
    arrays, meta, kw = case.arrays, case.meta, case.meta["kw"]
    theirs = state(meta)
    head = {
        key.removeprefix("final_"): x.double()
        for key, x in theirs.items()
        if key.startswith("final_")
    }
    net = encoder(theirs).double()  # so that what differs is the published side's own rounding
    assert meta["mode"] == "eval"
    with torch.no_grad():
        feat = net(clip(case).double()).pooled
        feat = F.normalize(feat, dim=1) if kw["use_l2_norm"] else feat
        assert_close("feat", feat.float(), arrays["feat"], "s3d_eval")
        logits = linear(normalised(feat, head, kw["use_final_bn"]), head, kw["use_dropout"])
    assert logits.shape[1] == meta["num_class"]
    assert_close("logits", logits.float(), arrays["logits"], "s3d_eval")


def canonical(key: str) -> str:
    """The README's first name of a tensor that has two."""

    def name(match: re.Match[str]) -> str:
        block, place = int(match[1]), int(match[2])
        return f"{'Mixed' if block > 2 else 'Conv'}_{block}{'abcdef'[place]}"

    return re.sub(r"block(\d)\.(\d)", name, key)


def state(meta: dict) -> dict[str, Tensor]:
    """The whole file by the rule, each tensor as it was listed."""
    made: dict[str, Tensor] = {}
    for key, shape, dtype, length in meta["weights"]["keys"]:
        first = canonical(key)
        made[key] = made[first] if first in made else rule(meta["seed"], first, shape)
        assert list(made[key].shape) == shape and str(made[key].dtype) == f"torch.{dtype}", key
        assert_close(key, made[key].double().norm(), torch.tensor(length).double(), "norm")
    learnt = [
        x for key, x in made.items() if key == canonical(key) and key.endswith((".weight", ".bias"))
    ]
    assert sum(x.numel() for x in learnt) == meta["weights"]["n_params"]
    return made


def encoder(theirs: dict[str, Tensor]) -> Encoder:
    found = identify_file(WeightsFile(Path("classifier.pth.tar"), theirs, "state_dict", {}))
    assert found is not None and found.layout.name == "coclr-s3d"
    assert found.n_outside == sum(key.startswith("final_") for key in theirs) > 0
    return build_published_encoder(found, find_registered_name(found.net), {}, partial=False).eval()


def clip(case: Case) -> Tensor:
    """`input` names the case that it is the clip of."""
    same = Case(case.path.with_name(f"{case.meta['input'].split()[-1]}.json")).meta
    made = standard_normal(same["seed"], f"input:{same['input_name']}", same["input_shape"])
    assert hashlib.sha256(made.numpy().tobytes()).hexdigest() == same["input_sha256"]
    return made


def normalised(feat: Tensor, head: dict[str, Tensor], wanted: bool) -> Tensor:
    assert any(key.startswith("bn.") for key in head) == wanted
    if not wanted:
        return feat
    norm = nn.BatchNorm1d(feat.shape[1]).double().eval()
    norm.load_state_dict(
        {key.removeprefix("bn."): x for key, x in head.items() if key.startswith("bn.")}
    )
    return norm(feat)


def linear(feat: Tensor, head: dict[str, Tensor], dropout: bool) -> Tensor:
    """A layer of dropout before it moves it to the next place."""
    return F.linear(feat, head[f"fc.{int(dropout)}.weight"], head[f"fc.{int(dropout)}.bias"])
