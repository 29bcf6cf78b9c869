"""A training step is one graph: nothing waits for the device or falls back to Python."""

import shutil
from typing import Any

import pytest
import torch

from ssvid import create_encoder, registry
from ssvid.shapes import Batch
from tests import warm

STRICT = "import warnings; warnings.simplefilter('error', UserWarning)"
EACH = """
import sys
import torch
from torch._dynamo import reset, utils
from ssvid import create_encoder, registry
from ssvid.randomness import prepare_for_compile

prepare_for_compile()
for name, kwargs in eval(sys.argv[1]):
    reset(), utils.counters.clear()
    torch.manual_seed(0)
    depth = int(sys.argv[2])
    encoder = create_encoder("vit", dim=24, depth=depth, heads=2, patch=8, frames=4, size=16)
    sizes = {"dec_dim": 16, "dec_depth": depth, "dec_heads": 2}
    objective = registry.objectives[name](encoder, **sizes, **kwargs)
    zero = torch.zeros(2, dtype=torch.int64)
    batch = {"clips": torch.randn(2, 1, 3, 4, 16, 16), "seed": 0, "label": zero}
    batch |= {"index": zero + 1, "epoch": zero}
"""
BREAKS = """
    loss = torch.compile(objective, backend="eager")(batch).total
    loss.backward()
    assert all(p.grad is not None for p in objective.parameters())
    breaks = sum(utils.counters["graph_break"].values())
    graphs = utils.counters["stats"]["unique_graphs"]
    print(breaks, graphs, float((loss - objective(batch).total).detach().abs()))
"""
LABELS = {"task": "classification", "classes": 3}
STEPS = [
    *(("mae", {"mask": mask, "mask_ratio": 0.5}) for mask in ("tube", "block", "bevt")),
    (
        "mae",
        {
            "mask_ratio": 0.5,
            "norm": "patch",
            "target": "input",
            "target_frames": 2,
            "dec_cls": True,
        },
    ),
    ("partial_mae", {"drop_ratio": 0.5}),
    ("partial_mae", {"drop_ratio": 0.5, "predict_ratio": 0.25, **LABELS}),
    ("partial_mae", {"drop_ratio": 0.5, "rec_weight": 0.0, "task": "long_video", "classes": 3}),
]


@pytest.mark.parametrize(
    "steps", [STEPS[:1], pytest.param(STEPS[1:], marks=pytest.mark.slow)], ids=["mae", "rest"]
)
def test_a_step_has_no_graph_break(steps: list[Any]):
    """In a process without the shape checker, which breaks graphs by itself."""
    done = warm.run("-c", STRICT + EACH + BREAKS, repr(steps), "2")
    assert done.returncode == 0, done.stderr[-2000:]
    for step, line in zip(steps, done.stdout.splitlines(), strict=True):
        breaks, graphs, off = line.split()
        assert (breaks, graphs) == ("0", "1") and float(off) < 1e-6, step


COMPILED = """
    plain = objective(batch).total
    grads = torch.autograd.grad(plain, list(objective.parameters()))
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = torch.compile(objective)(batch).total
        mine = torch.autograd.grad(loss, list(objective.parameters()))
        if not half:
            torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-6)
            for a, b in zip(mine, grads):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_is_the_plain_one():
    steps = [
        ("mae", {"mask_ratio": 0.5}),
        ("partial_mae", {"drop_ratio": 0.5}),
        ("partial_mae", {"drop_ratio": 0.5, **LABELS}),
    ]
    done = warm.run("-c", EACH + COMPILED, repr(steps), "1")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name, kwargs", [("mae", {"mask_ratio": 0.5}), ("partial_mae", {"drop_ratio": 0.5, **LABELS})]
)
def test_a_step_on_a_gpu_waits_for_nothing(name: str, kwargs: dict[str, Any]):
    encoder = create_encoder("vit", dim=24, depth=2, heads=2, patch=8, frames=4, size=16)
    objective = registry.objectives[name](
        encoder, dec_dim=16, dec_depth=2, dec_heads=2, **kwargs
    ).cuda()
    zero = torch.zeros(2, dtype=torch.int64, device="cuda")
    clips = torch.randn(2, 1, 3, 4, 16, 16, device="cuda")
    batch: Batch = {"clips": clips, "seed": 0, "index": zero, "epoch": zero, "label": zero}
    objective(batch).total.backward()  # tables of positions are made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        objective(batch).total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
