"""Batch norm that is frozen must have statistics of its own."""

import pytest
import torch
from torch import nn

from ssvid.encoder import Encoder
from ssvid.errors import UserError
from ssvid.hub import create_encoder
from ssvid.nn.batchnorm import calibrate, ensure_statistics, lacks_statistics, list_batch_norms
from ssvid.registry import encoders
from ssvid.shapes import ClipSpec, Features, Grid
from tests.helpers import facts


@encoders.register("test_norms")
class Norms(Encoder):
    """A batch-norm net with dropout, small enough to follow by hand."""

    dim = 4

    def __init__(self, *, track: bool = True) -> None:
        super().__init__()
        self.spec = ClipSpec(frames=4, stride=1, size=8)
        self.net = nn.Sequential(
            nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4, track_running_stats=track), nn.Dropout(0.5)
        )

    def grid(self, T, H, W):
        return Grid(T - 2, H - 2, W - 2)

    def forward(self, clip, visible=None, layers=None):
        tokens = self.net(clip).flatten(2).transpose(1, 2)
        return Features(tokens, tokens.mean(1), self.grid(*clip.shape[2:]))


def clips(rows=3, frames=6, size=8, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(256, (rows, 3, frames, size, size), generator=draw, dtype=torch.uint8)


def test_calibrate_is_a_plain_pass_of_batch_norm():
    encoder = create_encoder("test_norms").eval()
    batches = [clips(4, seed=s) for s in range(3)]
    maps = [encoder.net[0](encoder.normalise(batch)) for batch in batches]
    mean = torch.stack([m.mean((0, 2, 3, 4)) for m in maps]).mean(0)
    var = torch.stack([m.var((0, 2, 3, 4)) for m in maps]).mean(0)
    calibrate(encoder, batches)
    norm = encoder.net[1]
    torch.testing.assert_close(norm.running_mean, mean.detach())
    torch.testing.assert_close(norm.running_var, var.detach())
    assert norm.momentum == 0.1 and not any(m.training for m in encoder.modules())
    for p in encoder.parameters():
        assert p.grad is None


def test_calibrate_gives_statistics_to_a_net_that_tracked_none():
    encoder = create_encoder("test_norms", track=False).eval()
    assert lacks_statistics(encoder) and len(list_batch_norms(encoder)) == 1
    calibrate(encoder, [clips(8)])
    assert not lacks_statistics(encoder)
    alone, among = encoder(encoder.normalise(clips(1))), encoder(encoder.normalise(clips(5)))
    torch.testing.assert_close(
        alone.tokens, among.tokens[:1]
    )  # a clip no longer depends on its neighbours
    assert "net.1.running_mean" in encoder.state_dict()


def test_modes_are_put_back_each_for_itself():
    encoder = create_encoder("test_norms").train()
    encoder.net[2].eval()
    modes = [module.training for module in encoder.modules()]
    calibrate(encoder, [clips()])
    assert (
        [module.training for module in encoder.modules()] == modes
        and False in modes
        and True in modes
    )


def test_settle_refuses_measures_or_leaves_alone():
    encoder = create_encoder("test_norms", track=False).eval()
    with pytest.raises(UserError, match=facts("--calibrate_bn", "256")):
        ensure_statistics(encoder, "mine", None)
    with pytest.raises(UserError, match=facts("train")):
        ensure_statistics(encoder, "mine", [])
    encoder = create_encoder("test_norms", track=False).eval()
    ensure_statistics(encoder, "mine", [clips()])
    assert not lacks_statistics(encoder)
    before = encoder.net[1].running_mean.clone()
    ensure_statistics(encoder, "mine", [clips(seed=5)])  # it has its own by now
    assert torch.equal(encoder.net[1].running_mean, before)
