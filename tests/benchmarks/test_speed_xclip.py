"""Both sides of the case `xclip` are one net, and its multiply-adds are the published ones."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.features.cost import count_gflops
from benchmarks.profiling.speed.xclip import Ours, Recorder, make_sides, make_task, make_text
from ssvid import create_encoder
from ssvid.nn import linear
from ssvid.nn.prompts import VideoPrompts
from tests.helpers import for_each

# GMAC by the facts, attention included: of the video side alone, and with prompts of 400 classes.
COUNTS = [
    ("xclip_b32", 8, 36.02, 38.2),
    ("xclip_b32", 16, 72.04, 74.2),
    ("xclip_b16", 8, 141.88, 144.4),
    ("xclip_b16", 16, 283.76, 286.2),
]
SMALL = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 512}


@for_each("name, frames, video, total", COUNTS)
def test_multiply_adds_are_those_of_the_publication(name, frames, video, total):
    """Nothing is computed: the tensors have shapes alone. A FLOP is half a multiply-add."""
    with torch.device("meta"):
        encoder = create_encoder(name, frames=frames)
        net = Ours(encoder, VideoPrompts(encoder.image.width, encoder.dim))
        clip, text = torch.zeros(1, 3, frames, 224, 224), torch.zeros(400, encoder.dim)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(clip, text)
    assert counter.get_total_flops() / 2e9 == pytest.approx(total, rel=0.01)
    # The projection of the patches to the prompts' width belongs to the published video side.
    assert count_gflops(encoder) / 2 == pytest.approx(video, rel=0.01)


def test_the_runner_counts_the_products_of_attention_on_this_cpu():
    """Of one block, by hand: 7 x 7 patches and a class token, one message more as key."""
    with torch.device("meta"):
        on_meta = create_encoder("xclip_b32")
    assert count_gflops(create_encoder("xclip_tiny")) == pytest.approx(
        count_gflops(create_encoder("xclip_tiny").to("meta")), rel=1e-12
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_meta(torch.zeros(1, 3, 8, 224, 224, device="meta"))
    counts = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    blocks = 12 * 8 * (50 * 51 * 768 + 8 * 768) * 2 * 2  # frames and messages; scores and sums
    assert counts["aten.bmm"] == blocks + (8 * 8 * 512) * 2 * 2  # the joiner's


@pytest.mark.slow
def test_both_sides_give_the_same_logits():
    pytest.importorskip("transformers")
    text = make_text(128, 5)
    sides = make_sides(text.double(), **SMALL)
    frames = torch.randn(2, 8, 3, 224, 224, dtype=torch.float64)
    logits = []
    for side in sides:
        side.net.double()
        logits.append(side.run(frames))
    assert logits[0].std() > 0.1
    torch.testing.assert_close(*logits, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_the_floor_has_the_products_of_a_pass_and_no_other(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(linear, "LARGE", float("inf"))  # torch counts no product of oneDNN
    ours, _ = make_sides(make_text(128, 5), **SMALL)
    run = make_task(ours, "pass")
    recorder = Recorder()
    with recorder:
        run()
    with FlopCounterMode(display=False) as floor:
        recorder.run()
    with FlopCounterMode(display=False) as whole, torch.no_grad():
        ours.run(torch.randn(1, 8, 3, 224, 224))
    # The logits' einsum takes another operator in inference.
    assert floor.get_total_flops() == pytest.approx(whole.get_total_flops(), rel=1e-5)
