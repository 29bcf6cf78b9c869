"""Both sides of the case `videoprism` are one net, and its operations are the counted ones."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.features.cost import count_gflops
from benchmarks.profiling.speed.videoprism import make_clip, make_ours, make_pass, make_theirs
from ssvid import create_encoder

# GFLOP by the facts, of a clip of so many frames of 288 pixels.
COUNTS = [
    ("videoprism_b", 16, 973),
    pytest.param("videoprism_b", 8, 486, marks=pytest.mark.slow),
    pytest.param("videoprism_l", 8, 1499, marks=pytest.mark.slow),
    pytest.param("videoprism_g", 8, 4671, marks=pytest.mark.slow),
]
SMALL = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 256}
SMALL |= {"num_spatial_layers": 2, "num_temporal_layers": 1, "image_size": 54, "num_frames": 4}


@pytest.mark.parametrize("name, frames, gflops", COUNTS)
def test_operations_are_those_of_the_publication(name: str, frames: int, gflops: float):
    """Nothing is computed: the tensors have shapes alone."""
    with torch.device("meta"):
        net = create_encoder(name, frames=frames)
    assert count_gflops(net) == pytest.approx(gflops, rel=0.01)


def test_hidden_tokens_cost_nothing():
    net = create_encoder("videoprism_tiny", frames=4, size=32)
    clip, counts = torch.rand(1, 3, 4, 32, 32), []
    for visible in (None, torch.arange(32)[None], torch.tensor([[*range(16), *range(48, 64)]])):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(clip, visible)
        counts.append(counter.get_total_flops())
    # Two whole frames of four cost half, in time a little less; so do ragged ones.
    assert counts[1] / counts[0] == pytest.approx(0.5, abs=0.01)
    assert counts[2] == counts[1]


@torch.no_grad()
def test_both_sides_give_the_same_tokens():
    pytest.importorskip("transformers")
    theirs, clip = make_theirs(**SMALL).double(), make_clip(4, 54).double()
    ours = make_ours(theirs).double()
    tokens = [make_pass(net, clip, is_ours=net is ours)() for net in (ours, theirs)]
    assert tokens[0].std() > 0.1
    torch.testing.assert_close(*tokens, rtol=1e-5, atol=1e-6)  # theirs has a float32 softmax
