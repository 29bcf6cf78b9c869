"""Both sides of the speed case are one computation."""

import pytest
import torch

from benchmarks.profiling.speed.cases import CASES
from benchmarks.profiling.speed.milnce import Plain
from ssvid import create_encoder

pytestmark = pytest.mark.slow  # they measure tools of developers


def test_the_plain_step_of_s3dg_is_ours():
    """Vectors and gradients, at sizes that are even and odd on the way down."""
    torch.manual_seed(0)
    encoder = create_encoder("s3dg", width=0.125).double()
    clips = torch.rand(3, 3, 12, 64, 72, dtype=torch.float64)
    ours = encoder(clips).pooled
    ours.square().sum().backward()
    mine = {name: p.grad.clone() for name, p in encoder.named_parameters()}
    encoder.zero_grad()
    theirs = Plain(encoder)(clips)
    theirs.square().sum().backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-14)
    largest = max(float(grad.abs().max()) for grad in mine.values())
    for name, grad in mine.items():
        torch.testing.assert_close(grad, encoder.get_parameter(name).grad, rtol=1e-7, atol=1e-10 * largest, msg=name)
    assert "milnce" in CASES
