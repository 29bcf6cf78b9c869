"""Sources share passes, an encoder that is a name is the same each time, a suite limits clips."""

from dataclasses import replace

import pytest
import torch

from benchmarks.features.evaluated_encoder import open_evaluated_encoder
from benchmarks.features.sources import FrozenNet, SourceMaker
from benchmarks.suites.runner import limit_clips
from ssvid.engine.features import Source
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.hub import create_encoder
from ssvid.weights.encoders import hash_encoder

NET = "tests.benchmarks.test_run:tiny_vit"


# With one change alone the next clip has the same name.
@pytest.mark.parametrize("changes", [("", "/shuffled"), ("",)])
def test_pooled_vectors_and_tokens_are_read_off_one_pass(changes: tuple[str, ...]):
    net = create_encoder(
        "vit", dim=24, depth=2, heads=2, patch=8, frames=4, stride=1, size=16
    ).eval()
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    names = []
    for change in changes:
        names += [f"encoder{change}", f"encoder{change}:tokens"]

    def make(names: list[str]) -> list[Source]:
        nets = {"encoder": FrozenNet("a net", lambda: net)}
        return SourceMaker(nets, (1,), ("mean",), 0).make_all(names)

    sources = make(names)
    clips = torch.randint(0, 255, (2, 2, 3, 4, 16, 16), dtype=torch.uint8).unbind(0)
    index = torch.tensor([0, 1])
    with torch.inference_mode():
        together = []
        for clip in clips:
            together += [source.run(clip, index) for source in sources]
        assert len(passes) == 2 * len(changes)  # of two clips
        alone = []
        for clip in clips:
            for name in names:
                (source,) = make([name])
                alone.append(source.run(clip, index))
    for ours, plain in zip(together, alone, strict=True):
        assert ours.keys() == plain.keys()
        for name in ours:
            assert torch.equal(ours[name], plain[name])


def test_a_name_is_the_same_net_each_time_and_leaves_chance_alone():
    torch.manual_seed(3)
    before = torch.rand(2)
    torch.manual_seed(3)
    first = open_evaluated_encoder(NET, "a", UNCHANGED, "auto")
    again = open_evaluated_encoder(NET, "a", UNCHANGED, "auto")
    assert hash_encoder(first.net) == hash_encoder(again.net) and torch.equal(torch.rand(2), before)


def test_clips_of_a_suites_own_data_are_no_larger_than_it_says():
    encoder = open_evaluated_encoder(NET, "a", ClipChange(frames=4), "auto")  # 16 pixels
    limit_clips(encoder, {"frames": 8, "size": 8})
    assert encoder.net.spec == replace(encoder.spec, size=8)
    limit_clips(encoder, {})
    assert encoder.net.spec == encoder.spec and encoder.spec.frames == 4
