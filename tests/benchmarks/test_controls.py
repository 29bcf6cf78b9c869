import pytest
import torch

from benchmarks.features.controls import (
    create_twin,
    list_still_clips,
    repeat_middle_frame,
    shuffle_frames,
)
from benchmarks.features.descriptors import REACH, SIDE, correlate_phases, describe_pixels
from ssvid import registry
from ssvid.data.loader import eval_loader
from ssvid.engine.features import evaluation
from ssvid.hub import create_encoder
from ssvid.registry import probes
from ssvid.shapes import ClipSpec, Frozen
from tests.nn.test_batchnorm import clips  # which registers test_norms


def test_single_frame_is_the_middle_one():
    clip, index = clips(), torch.arange(3)
    still = repeat_middle_frame(clip, index, 0)
    assert still.shape == clip.shape and still.dtype == torch.uint8
    for t in range(6):
        assert torch.equal(still[:, :, t], clip[:, :, 3])


def list_frames(clip: torch.Tensor) -> set[bytes]:
    return {bytes(frame.contiguous().numpy()) for frame in clip.unbind(1)}


def test_shuffled_keeps_the_frames_and_only_those():
    clip, index = clips(rows=20), torch.arange(20)
    mixed = shuffle_frames(clip, index, 0)
    for before, after in zip(clip, mixed, strict=True):
        assert list_frames(after) == list_frames(before)
    moved = (clip != mixed).flatten(1).any(1)
    assert moved.float().mean() > 0.9
    assert torch.equal(
        mixed[5:9], shuffle_frames(clip[5:9], index[5:9], 0)
    )  # whatever batch a clip stands in
    assert not torch.equal(mixed, shuffle_frames(clip, index, 1))


def test_pixels_are_what_they_say():
    clip = clips(size=64)
    feats = describe_pixels(clip)
    assert {k: v.shape[1] for k, v in feats.items()} == {
        "colour8": 192,
        "first32": 3072,
        "motion": 1024,
        "cube8": 384,
        "differences": 5 * 256,
        "phase": 961,
    }
    still = describe_pixels(repeat_middle_frame(clip, torch.arange(3), 0))
    assert still["motion"].abs().max() == 0 < feats["motion"].min()
    bright = clip.float().mean((2, 3, 4)) / 255  # B C
    torch.testing.assert_close(feats["colour8"].unflatten(1, (3, 64)).mean(2), bright)
    mixed = describe_pixels(shuffle_frames(clip, torch.arange(3), 0))
    torch.testing.assert_close(mixed["colour8"], feats["colour8"])  # no order of time in it
    assert not torch.allclose(mixed["cube8"], feats["cube8"])
    backwards = describe_pixels(clip.flip(2))["differences"].unflatten(1, (5, 256))
    expected = -feats["differences"].unflatten(1, (5, 256)).flip(1)  # signed, in their order
    torch.testing.assert_close(backwards, expected)
    single = describe_pixels(clip[:, :, :1, :, :32])  # nothing moves in a single frame
    assert torch.equal(describe_pixels(clip[..., :32])["first32"], single["first32"])
    for name in ("motion", "differences", "phase"):
        assert single[name].abs().max() == 0


def test_the_phase_correlation_peaks_at_the_true_shift():
    """Noise that goes round the edges while the light grows; a frame of one colour has no peak."""
    for down, right in ((0, 0), (3, -2), (-7, 11)):
        frames = [torch.rand(SIDE, SIDE, generator=torch.manual_seed(0))]
        for _ in range(3):
            frames.append(frames[-1].roll((down, right), (0, 1)))
        light = torch.linspace(0, 0.5, 4)[:, None, None]
        shifts = correlate_phases(torch.stack(frames)[None] + light)[0]
        row, column = divmod(int(shifts.argmax()), shifts.shape[1])
        assert (row - REACH, column - REACH) == (down, right) and shifts.max() > 0.9
    assert correlate_phases(torch.full((1, 4, 48, 64), 0.4)).abs().max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 64])
def test_phase_correlation_names_the_tours(size: int, tmp_path_factory: pytest.TempPathFactory):
    """The numbers of docs/protocols/index.md: without any net, by nearest neighbours."""
    root = str(tmp_path_factory.getbasetemp() / "tours")
    data = registry.datasets["synthetic"](root, train=192)
    samples = evaluation(data, ClipSpec(frames=8, stride=1, size=size), 1, "pad")
    (batch,) = eval_loader(samples, range(len(data)), len(data), 0)
    described = describe_pixels(batch["clips"][:, 0])
    for name, least in (("phase", 0.99), ("differences", 0.97)):
        splits = []
        for split in ("train", "val", "test"):
            rows = torch.tensor([row.split == split for row in data.rows])
            groups = [""] * int(rows.sum())  # a probe has no use for them
            splits.append(Frozen({name: described[name][rows]}, data.labels[rows], groups))
        top1 = probes["knn"]().run(*splits, 0).metrics["test/top1"]
        assert top1 > least, f"{name}: {top1:.3f}"


def test_a_bag_holds_frames_spread_evenly():
    clip = torch.arange(16, dtype=torch.uint8).view(1, 1, 16, 1, 1).expand(2, 3, 16, 4, 4)
    for frames, expected in ((clip, [2, 6, 10, 14]), (clip[:, :, :3], [0, 1, 2])):
        for still, t in zip(list_still_clips(frames), expected, strict=True):
            assert still.shape == frames.shape and (still == t).all()


def test_twin_is_the_same_net_untrained():
    encoder = create_encoder("test_norms", track=True)
    with torch.no_grad():
        encoder.net[0].weight.fill_(7.0)
    encoder.spec, encoder.mean = ClipSpec(frames=9, fps=2.0, size=16), (0.0, 0.0, 0.0)
    before = torch.random.get_rng_state()
    first, second = create_twin(encoder), create_twin(encoder)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.net[0].weight, second.net[0].weight) and first.net[0].weight.max() < 1
    assert not torch.equal(create_twin(encoder, 1).net[0].weight, first.net[0].weight)
    assert (first.spec, first.mean, first.std) == (encoder.spec, encoder.mean, encoder.std)
    assert not first.training
