"""Sources share passes, a named encoder is the same each time, and a suite may ask for smaller clips."""

from dataclasses import replace

import pytest
import torch

from benchmarks.features.evaluated_encoder import open_evaluated_encoder
from benchmarks.features.sources import make_sources
from benchmarks.suites.runner import limit_clips
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.hub import create_encoder
from ssvid.weights.encoders import encoder_hash

NET = "tests.benchmarks.test_run:tiny_vit"


@pytest.mark.parametrize(
    "ways", [("", "/shuffled"), ("",)]
)  # one way alone: the next clip has the same name
def test_pooled_vectors_and_tokens_are_read_off_one_pass(ways: tuple[str, ...]):
    net = create_encoder(
        "vit", dim=24, depth=2, heads=2, patch=8, frames=4, stride=1, size=16
    ).eval()
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    wanted = [f"encoder{way}{form}" for way in ways for form in ("", ":tokens")]
    sources = make_sources(net, net, (1,), ("mean",), 0, wanted)
    clips = [torch.randint(0, 255, (2, 3, 4, 16, 16), dtype=torch.uint8) for _ in range(2)]
    index = torch.tensor([0, 1])
    with torch.inference_mode():
        together = [[source.run(clip, index) for source in sources] for clip in clips]
        assert len(passes) == 2 * len(ways)  # of two clips
        alone = [
            [make_sources(net, net, (1,), ("mean",), 0, [w])[0].run(clip, index) for w in wanted]
            for clip in clips
        ]
    for of, by in zip(together, alone, strict=True):
        for ours, plain in zip(of, by, strict=True):
            assert ours.keys() == plain.keys() and all(
                torch.equal(ours[name], plain[name]) for name in ours
            )


def test_a_name_is_the_same_net_each_time_and_leaves_chance_alone():
    torch.manual_seed(3)
    before = torch.rand(2)
    torch.manual_seed(3)
    one, two = (open_evaluated_encoder(NET, "a", UNCHANGED, "auto") for _ in range(2))
    assert encoder_hash(one.net) == encoder_hash(two.net) and torch.equal(torch.rand(2), before)


def test_clips_of_a_suites_own_data_are_no_larger_than_it_says():
    of = open_evaluated_encoder(NET, "a", ClipChange(frames=4), "auto")  # 16 pixels
    limit_clips(of, {"frames": 8, "size": 8})
    assert of.net.spec == replace(of.spec, size=8)
    limit_clips(of, {})
    assert of.net.spec == of.spec and of.spec.frames == 4
