"""The contract of every registered encoder."""

import copy
import functools

import numpy as np
import pytest
import torch

from ssvid import create_encoder, list_encoders, load_encoder, registry
from ssvid.encoder import Encoder
from ssvid.errors import UserError
from ssvid.weights.encoders import save_encoder
from tests.helpers import facts, for_each

# Ours alone: other tests register small nets of their own.
NAMES = [
    name for name in list_encoders() if registry.encoders[name].__module__.startswith("ssvid.")
]


# One name of each class; the others are the same code in other sizes, and are slow.
FAST = {"vit", "resnet18_2d3d", "s3d", "s3dg", "swin3d_t", "mvit_v2_s", "slow_r50", "x3d_xs"}
FAST |= {"blip_vit", "clip_vit", "litevl", "videoprism", "xclip"}
EVERY = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


@functools.cache
def full(name: str) -> Encoder:
    with torch.device("meta"):
        return create_encoder(name)


@functools.cache
def tiny(name: str) -> Encoder:
    torch.manual_seed(0)
    return create_encoder(name, **full(name).tiny_kwargs).eval()


@functools.cache
def skipping() -> list[str]:
    return list_encoders(can_skip=True)


@pytest.fixture(params=EVERY)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """A copy, because some nets cannot be made small and their random weights take long."""
    return copy.deepcopy(tiny(request.param))


def clip_for(encoder: Encoder, extra: int = 0, batch: int = 2) -> torch.Tensor:
    spec = encoder.spec
    generator = torch.Generator().manual_seed(1)
    extra_frames = 0 if encoder.fixed_frames else extra
    shape = (batch, 3, spec.frames + extra_frames, spec.size + 16 * extra, spec.size + 16 * extra)
    return torch.randn(shape, generator=generator)


@pytest.mark.parametrize("name", EVERY)
def test_full_size_builds_on_meta_and_declares_itself(name: str):
    encoder = full(name)
    assert encoder.name == name and encoder.dim > 0 and len(encoder.mean) == len(encoder.std) == 3
    assert encoder.can_skip == (encoder.tubelet is not None)
    assert (name in skipping()) == encoder.can_skip


@pytest.mark.slow
def test_every_class_is_among_the_fast():
    assert {type(full(name)) for name in FAST} == {type(full(name)) for name in NAMES}


@for_each(
    "clip, words",
    [
        (torch.zeros(1, 3, 4, 16, 16, dtype=torch.uint8), ("torch.uint8", "encoder.normalise")),
        (torch.zeros(1, 4, 3, 16, 16), ("4, 3, 16, 16", "transpose")),
        (torch.zeros(1, 4, 16, 16, 3), ("4, 16, 16, 3", "permute")),
        (torch.zeros(3, 4, 16, 16), ("3, 4, 16, 16", "None")),
        (torch.zeros(5, 3, 16, 16), ("5, 3, 16, 16", "pictures", "clip[:, :, None]")),
        (torch.zeros(4, 16, 16), ("4, 16, 16", "transform")),
        (np.zeros((1, 3, 4, 16, 16)), ("ndarray",)),
    ],
)
def test_what_is_no_batch_of_clips_is_one_sentence(clip, words):
    with pytest.raises(UserError, match=facts("vit", "B 3 T H W", *words)):
        tiny("vit")(clip)


def test_frames_of_an_own_loader_become_a_clip():
    net = tiny("vit")
    frames = torch.randint(0, 256, (net.spec.frames, 40, 60, 3), dtype=torch.uint8)
    clip = net.transform(frames.numpy())
    size = net.spec.size
    assert clip.shape == (3, net.spec.frames, size, size) and clip.dtype == torch.float32
    frames = torch.zeros(net.spec.frames, size, size, 3, dtype=torch.uint8)
    assert torch.allclose(net.transform(frames), net.normalise(frames.permute(3, 0, 1, 2)))
    assert net(clip[None]).pooled.shape == (1, net.dim)
    with pytest.raises(UserError, match=facts("T H W 3", "torch.float32")):
        net.transform(frames.float())


@torch.no_grad()
@for_each("extra", [0, 2])
def test_features_have_the_declared_shapes(encoder: Encoder, extra: int):
    clip = clip_for(encoder, extra)
    features = encoder(clip)
    assert features.grid == encoder.grid(*clip.shape[2:])
    assert features.tokens.shape == (2, features.grid.n, encoder.dim)
    assert features.pooled.shape == (2, encoder.dim)
    assert torch.equal(encoder(clip).tokens, features.tokens)
    first, second = (
        features.pooled
    )  # whatever their size: an S3D that is not calibrated gives 1e-19
    assert (first - second).abs().max() > 1e-3 * first.abs().max()


@torch.no_grad()
def test_grid_rounds_as_the_net_does(encoder: Encoder):
    extra = 0 if encoder.fixed_frames else 3
    clip = torch.randn(
        1, 3, encoder.spec.frames + extra, encoder.spec.size + 9, encoder.spec.size + 21
    )
    assert encoder(clip).grid == encoder.grid(*clip.shape[2:])


@torch.no_grad()
def test_other_numbers_of_frames_run_or_are_refused(encoder: Encoder):
    clip = torch.randn(1, 3, encoder.spec.frames + 8, encoder.spec.size, encoder.spec.size)
    if encoder.fixed_frames:
        with pytest.raises(UserError, match=facts(f"--clip.frames {encoder.spec.frames}")):
            encoder(clip)
    else:
        assert encoder(clip).grid.t > 0


@torch.no_grad()
def test_keep_runs_only_what_is_kept(encoder: Encoder):
    clip = clip_for(encoder)
    grid = encoder.grid(*clip.shape[2:])
    visible = torch.randperm(grid.n)[: grid.n // 2].expand(2, -1)
    if not encoder.can_skip:
        with pytest.raises(UserError, match=facts(encoder.name)):
            encoder(clip, visible=visible)
        return
    tokens = encoder(clip, visible=visible).tokens
    assert tokens.shape == (2, visible.shape[1], encoder.dim)
    everything = torch.arange(grid.n).flip(0).expand(2, -1)
    torch.testing.assert_close(
        encoder(clip, visible=everything).tokens.flip(1), encoder(clip).tokens, atol=1e-5, rtol=1e-4
    )
    t, h, w = encoder.tubelet
    hidden = torch.ones(grid.n, dtype=torch.bool).index_fill(0, visible[0], False).view(*grid)
    pixels = hidden.repeat_interleave(t, 0).repeat_interleave(h, 1).repeat_interleave(w, 2)
    assert torch.equal(encoder(clip + 100 * pixels, visible=visible).tokens, tokens), (
        "a dropped pixel reached a kept token"
    )


@torch.no_grad()
def test_layers(encoder: Encoder):
    clip = clip_for(encoder)
    if not encoder.has_layers:
        with pytest.raises(UserError, match=facts(encoder.name)):
            encoder(clip, layers=(1,))
        return
    layers = encoder(clip, layers=(encoder.depth, 1)).layers
    B, N, D = encoder(clip).tokens.shape
    assert [x.shape for x in layers] == [(B, N, encoder.layer_dim or D)] * 2
    assert not torch.allclose(*layers)


def test_every_parameter_gets_a_gradient(encoder: Encoder):
    features = encoder.train()(clip_for(encoder, batch=3))
    (features.tokens.square().mean() + features.pooled.sum()).backward()
    assert [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None] == []


def test_every_parameter_has_its_layer(encoder: Encoder):
    above = encoder.count_layers_above()
    assert above.keys() == dict(encoder.named_parameters()).keys()
    assert set(above.values()) - {0} == set(range(1, max(above.values()) + 1)), (
        "a layer without parameters"
    )
    first, *_, last = above.values()  # in the order of declaration
    assert first == max(above.values()) > encoder.depth and last <= 1


@for_each(
    "name, expected",
    [
        (
            "resnet18_2d3d",
            {
                "conv1.weight": 9,
                "bn1.bias": 9,
                "layer1.0.conv1.weight": 8,
                "layer4.1.bn2.weight": 1,
            },
        ),
        (
            "r3d_18",
            {"body.0.0.weight": 5, "body.1.0.conv1.0.weight": 4, "body.4.1.conv2.0.weight": 1},
        ),
        (
            "mvit_v2_s",
            {
                "stem.patch.weight": 6,
                "blocks.0.norm1.weight": 5,
                "blocks.4.norm1.weight": 1,
                "norm.bias": 0,
            },
        ),
    ],
)
def test_layers_are_as_the_net_is_laid_out(name: str, expected: dict[str, int]):
    above = tiny(name).count_layers_above()
    assert {key: above[key] for key in expected} == expected


@torch.no_grad()
def test_saved_and_loaded(encoder: Encoder, tmp_path):
    path = save_encoder(encoder, tmp_path, "encoder", {})
    again = load_encoder(tmp_path)
    assert torch.equal(again(clip_for(encoder)).tokens, encoder(clip_for(encoder)).tokens)
    assert (
        again.spec == encoder.spec and again.mean == encoder.mean and again.kwargs == encoder.kwargs
    )
    assert save_encoder(again, tmp_path / "b", "encoder", {}).read_bytes() == path.read_bytes()


def test_embed_is_decoding_normalising_and_pooling(encoder: Encoder, videos):
    from ssvid.data.sampling import eval_clips

    path = videos / "0.mp4"
    by_hand = encoder(encoder.normalise(eval_clips(path, encoder.spec, 2))).pooled
    assert torch.equal(encoder.embed(path, clips=2), by_hand.detach())
