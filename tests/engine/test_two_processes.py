"""Two processes do what one does: exactly, in float64."""

import os
from pathlib import Path

import pytest
import torch

from tests.engine.two import FORMS, one_step
from tests.helpers import command


@pytest.mark.parametrize("name", FORMS)
def test_loss_gradients_and_statistics_agree(name: str, tmp_path: Path):
    """Gathered negatives carry gradient, batch norm sees all clips, each rank has its slice of the global batch."""
    one, file = one_step(name), tmp_path / "two.pt"
    launch = ["--nproc_per_node", "2", "--master_port", str(20000 + os.getpid() % 20000)]
    result = command("torch.distributed.run", *launch, "-m", "tests.engine.two", name, str(file))
    assert result.returncode == 0, result.stderr[-2000:]
    two = torch.load(file, weights_only=True)
    assert one.keys() == two.keys()
    largest = max(float(v.abs().max()) for k, v in one.items() if k.startswith("grad/"))
    for key, value in one.items():
        scale = largest if key.startswith("grad/") else float(value.abs().max())
        assert float((two[key] - value).abs().max()) <= 1e-6 * max(scale, 1e-12), key
