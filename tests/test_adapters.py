"""Nets of pytorchvideo and torchvision.

They are as large as published, equal to those of the library, and loaded from its files.
"""

import copy
import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torchvision.models import get_model_weights, video
from torchvision.models.video.mvit import MSBlockConfig

from ssvid import create_encoder, list_encoders, registry
from ssvid.encoder import Encoder
from ssvid.errors import UserError
from ssvid.weights.encoders import load_encoder, save_encoder
from ssvid.weights.state_dict import load_state
from tests.helpers import facts, for_each, tells

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch.jit.script, in its import
    from pytorchvideo.models import create_multiscale_vision_transformers, hub, x3d

NAMES = [
    n for n in list_encoders() if registry.encoders[n].__module__ == "ssvid.encoders.pytorchvideo"
]
TORCHVISION = [
    n for n in list_encoders() if registry.encoders[n].__module__ == "ssvid.encoders.torchvision"
]
NAMES += TORCHVISION

# Millions, with the head of 400 classes: pytorchvideo's docs/source/model_zoo.md; its README for
# MViT-B (36.6).
MILLIONS = {
    "slow_r50": 32.45,
    "c2d_r50": 24.33,
    "i3d_r50": 28.04,
    "r2plus1d_r50": 28.11,
    "csn_r101": 22.21,
    "x3d_xs": 3.79,
    "x3d_s": 3.79,
    "x3d_m": 3.79,
    "mvit_base_16x4": 36.61,
}
# Without a head: DPC's two as counted in its code, and CoCLR's S3D: the model holds three of them
# and three heads of two convolutions, 27 272 544 parameters in all.
EXACT = {
    "resnet18_2d3d": 14_057_536,
    "resnet34_2d3d": 32_422_208,
    "s3d": 27_272_544 // 3 - (1024 * 1024 + 1024) - (1024 * 128 + 128),
}
# frames, stride ("frame length x sample rate" there), size of training
ZOO = {
    "slow_r50": (8, 8, 224),
    "c2d_r50": (8, 8, 224),
    "i3d_r50": (8, 8, 224),
    "r2plus1d_r50": (16, 4, 224),
    "csn_r101": (32, 2, 224),
    "x3d_xs": (4, 12, 160),
    "x3d_s": (13, 6, 160),
    "x3d_m": (16, 5, 224),
    "mvit_base_16x4": (16, 4, 224),
}


@functools.cache
def full(name: str) -> Encoder:
    with torch.device("meta"):
        return create_encoder(name)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@for_each("name", sorted(NAMES + list(EXACT)))
def test_as_many_parameters_as_published(name: str):
    encoder = full(name)
    width, head = encoder.dim, 0
    if name.startswith("x3d"):
        width, head = 2048, encoder.dim * 2048  # its head widens before it classifies
    total = count(encoder) + head + 400 * width + 400
    if name in EXACT:
        assert count(encoder) == EXACT[name]
    elif name in TORCHVISION:
        assert total == get_model_weights(name).DEFAULT.meta["num_params"]
    else:
        assert round(total / 1e6, 2) == MILLIONS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_small", "vit_base", "vit_large", "vit_huge"])
def test_a_vit_is_as_large_as_transformers_videomae(name: str):
    transformers = pytest.importorskip("transformers")
    ours = full(name)
    config = transformers.VideoMAEConfig(
        hidden_size=ours.dim,
        num_hidden_layers=ours.depth,
        num_attention_heads=ours.blocks[0].attn.heads,
        intermediate_size=4 * ours.dim,
        use_mean_pooling=False,  # the final norm inside, as here
    )
    with torch.device("meta"):
        theirs = transformers.VideoMAEModel(config)
    assert count(ours) == count(theirs)


@for_each("name", NAMES)
def test_a_clip_is_cut_and_normalised_as_published(name: str):
    encoder = full(name)
    spec = encoder.spec
    if name not in TORCHVISION:
        assert (spec.frames, spec.stride, spec.size) == ZOO[name]
        assert (encoder.mean, encoder.std) == ((0.45,) * 3, (0.225,) * 3)
        return
    weights = get_model_weights(name).DEFAULT
    change, text = weights.transforms(), weights.meta.get("_docs", "")
    fps, frames = re.search(r"frame_rate=([\d.]+)", text), re.search(r"clip_len=(\d+)", text)
    assert fps and frames and (spec.fps, spec.frames) == (float(fps[1]), int(frames[1]))
    assert [spec.size] * 2 == change.crop_size
    assert (encoder.mean, encoder.std) == (tuple(change.mean), tuple(change.std))


@pytest.mark.parametrize("name", NAMES)
def test_the_full_size_has_the_library_s_layout(name: str):
    encoder = full(name)
    with torch.device("cpu" if name == "mvit_base_16x4" else "meta"):
        theirs = (
            getattr(video, name) if name in TORCHVISION else getattr(hub, name)
        )().state_dict()
    ours = encoder.state_dict()
    assert encoder.layout.keys() == theirs.keys()
    named = {ours_: theirs[key].shape for key, ours_ in encoder.layout.items() if ours_ is not None}
    assert named == {key: tensor.shape for key, tensor in ours.items()}
    head = {key for key, ours_ in encoder.layout.items() if ours_ is None}
    assert all(
        re.match(r"fc\.|head\.|blocks\.\d+\.(proj|pool\.post_conv)\.", key) for key in head
    ), head


@pytest.mark.parametrize("name", NAMES)
def test_the_grid_of_the_full_size(name: str):
    encoder = full(name).eval()
    spec = encoder.spec
    for T, H, W in [
        (spec.frames, spec.size, spec.size),
        (spec.frames + 1, 100, 170),
        (2, 33, 64),
        (7, 65, 31),
    ]:
        features = encoder(torch.empty(1, 3, T, H, W, device="meta"))
        assert (
            features.grid == encoder.grid(T, H, W) and features.tokens.shape[1] == features.grid.n
        )


def resnet(build: Callable[..., Any]) -> Any:
    """Its head pools maps of one size, which a tiny clip has not."""
    net = build(stem_dim_out=8)
    net.blocks[-1].pool = nn.AdaptiveAvgPool3d(1)
    return net


def tiny_x3d() -> Any:
    return x3d.create_x3d(
        input_clip_length=4, input_crop_size=48, width_factor=1.0, depth_factor=1.0
    )


def tiny_mvit() -> Any:
    return create_multiscale_vision_transformers(
        spatial_size=32,
        temporal_size=4,
        depth=5,
        patch_embed_dim=8,
        embed_dim_mul=[[1, 2.0], [2, 2.0], [3, 2.0]],
        atten_head_mul=[[1, 2.0], [2, 2.0], [3, 2.0]],
        pool_q_stride_size=[[1, 1, 2, 2], [2, 1, 2, 2], [3, 1, 2, 2]],
        pool_kv_stride_adaptive=[1, 8, 8],
        pool_kvq_kernel=[3, 3, 3],
    )


def tiny_mvit_v2() -> Any:
    table = [  # heads, channels in and out, strides of queries and of keys
        (1, 8, 8, 1, 8),
        (2, 8, 16, 2, 4),
        (4, 16, 32, 2, 2),
        (8, 32, 64, 2, 1),
        (8, 64, 64, 1, 1),
    ]
    blocks = [
        MSBlockConfig(n, a, b, [3] * 3, [3] * 3, [1, q, q], [1, k, k]) for n, a, b, q, k in table
    ]
    flags = {
        "residual_pool": True,
        "residual_with_cls_embed": False,
        "rel_pos_embed": True,
        "proj_after_attn": True,
    }
    return video.MViT((32, 32), 4, blocks, **flags)


# The library's own constructors, with arguments written out here a second time.
LIBRARY: dict[str, Callable[[], Any]] = {
    "slow_r50": lambda: resnet(hub.slow_r50),
    "c2d_r50": lambda: resnet(hub.c2d_r50),
    "i3d_r50": lambda: resnet(hub.i3d_r50),
    "r2plus1d_r50": lambda: resnet(hub.r2plus1d_r50),
    "csn_r101": lambda: resnet(hub.csn_r101),
    "x3d_xs": tiny_x3d,
    "x3d_s": tiny_x3d,
    "x3d_m": tiny_x3d,
    "mvit_base_16x4": tiny_mvit,
    "mvit_v2_s": tiny_mvit_v2,
    "swin3d_t": lambda: video.SwinTransformer3d(
        [2, 4, 4], 12, [1, 1, 1, 2], [3, 6, 12, 24], [8, 7, 7]
    ),
    "r3d_18": video.r3d_18,
    "mc3_18": video.mc3_18,
    "r2plus1d_18": video.r2plus1d_18,
}


@torch.no_grad()
def scrambled(net: Any) -> Any:
    """Make every tensor random: the zeros of a new net (norms, class tokens) would hide a swap."""
    generator = torch.Generator().manual_seed(3)
    for module in net.modules():
        for name, tensor in [
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ]:
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                scale = isinstance(module, nn.BatchNorm3d | nn.LayerNorm) and name in (
                    "weight",
                    "running_var",
                )
                tensor.copy_(0.5 + noise if scale else tensor + 0.1 * (noise - 0.5))
    return net.double().eval()


def pools(name: str, net: Any) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The module that takes the last map (or returns the tokens), and all modules after pooling."""
    if name in ("r3d_18", "mc3_18", "r2plus1d_18"):
        return net.avgpool, net.fc
    if name == "mvit_base_16x4":
        return net.norm_embed, net.head.proj
    if name in ("mvit_v2_s", "swin3d_t"):
        return net.norm, net.head
    head = copy.deepcopy(net.blocks[-1])
    where = net.blocks[-1]
    if name.startswith("x3d"):
        head.pool.pre_conv, head.pool.pre_norm, head.pool.pre_act = nn.Identity(), None, None
        head.pool.pool, where = nn.Identity(), where.pool.pool
    return where, lambda pooled: head(pooled[..., None, None, None])


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_library_s_own_forward(name: str):
    net = scrambled(LIBRARY[name]())
    encoder = create_encoder(name, **full(name).tiny_kwargs).double().eval()
    load_state(encoder, encoder.rename_published(net.state_dict()), "the library's")
    maps: list[Tensor] = []
    where, head = pools(name, net)
    where.register_forward_hook(
        lambda _, args, out: maps.append(out if isinstance(where, nn.LayerNorm) else args[0])
    )
    spec = encoder.spec
    clip = torch.randn(2, 3, spec.frames, spec.size, spec.size, dtype=torch.float64)
    theirs, features = net(clip), encoder(clip)
    last = maps[0]
    if name == "swin3d_t":
        last = rearrange(last, "B t h w D -> B (t h w) D")
    elif last.ndim == 5:
        last = rearrange(last, "B D t h w -> B (t h w) D")
    else:
        last = last[:, 1:]  # the class token is `pooled`
    assert torch.equal(features.tokens, last)
    assert theirs.std() > 0
    torch.testing.assert_close(head(features.pooled), theirs, rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mvit_base_16x4", "mvit_v2_s", "swin3d_t", "x3d_m"])
def test_the_published_size_equals_the_library_s(name: str):
    net = (getattr(video, name) if name in TORCHVISION else getattr(hub, name))().eval()
    encoder = create_encoder(name).eval()
    load_state(encoder, encoder.rename_published(net.state_dict()), "the library's")
    spec = encoder.spec
    clip = torch.randn(1, 3, spec.frames, spec.size, spec.size)
    _, head = pools(name, net)
    torch.testing.assert_close(head(encoder(clip).pooled), net(clip), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_positions_are_interpolated_to_other_clips():
    stem = create_encoder("mvit_base_16x4", **full("mvit_base_16x4").tiny_kwargs).stem
    for parameter in (stem.patch.weight, stem.patch.bias, stem.positions.space):
        parameter.zero_()
    stem.positions.time.copy_(torch.arange(2)[:, None])
    x, grid = stem(torch.randn(1, 3, 8, 40, 70))
    assert grid == (4, 10, 18)
    slots = rearrange(x[:, 1:], "1 (t s) D -> t (s D)", t=4)
    assert torch.equal(
        slots, torch.tensor([0.0, 0.25, 0.75, 1.0])[:, None].expand_as(slots)
    )  # as torch's bilinear


@pytest.mark.parametrize("name", ["slow_r50", "swin3d_t"])
def test_a_published_file_loads_less_its_head(name: str, tmp_path, capsys):
    state = LIBRARY[name]().state_dict()
    file = tmp_path / "published.pyth"
    torch.save(state if name in TORCHVISION else {"model_state": state}, file)
    encoder = create_encoder(name, weights=file, **full(name).tiny_kwargs)
    head = [key for key, ours in encoder.layout.items() if ours is None]
    assert tells(capsys.readouterr().err, name, *head)
    ours = encoder.state_dict()
    assert all(
        torch.equal(tensor, encoder.rename_published(state)[key]) for key, tensor in ours.items()
    )
    again = load_encoder(save_encoder(encoder, tmp_path, "encoder", {}))
    assert all(torch.equal(tensor, ours[key]) for key, tensor in again.state_dict().items())
    capsys.readouterr()
    assert again.rename_published(ours).keys() == ours.keys()  # ours stays as it is
    assert capsys.readouterr().err == ""


@for_each(
    "name, stranger",
    [("slow_r50", "csn_r101"), ("i3d_r50", "slow_r50"), ("mvit_base_16x4", "mvit_v2_s")],
)
def test_another_model_s_file_and_half_a_file_are_refused(name: str, stranger: str):
    encoder = create_encoder(name, **full(name).tiny_kwargs)
    half = dict(list(LIBRARY[name]().state_dict().items())[::2])
    for state in (LIBRARY[stranger]().state_dict(), half):
        with pytest.raises(UserError, match=facts("file", "missing")):
            load_state(encoder, encoder.rename_published(state), "file", name=encoder.name)


@for_each(
    "name, kwargs, why",
    [
        ("slow_r50", {"width": 0}, "--width | 0"),
        ("mvit_base_16x4", {"depths": (1, 0, 1, 1)}, "--depths | 0"),
        ("mvit_v2_s", {"size": 16}, "--size | 16 | 32"),
        ("swin3d_t", {"width": 20}, "20 | 3"),
        ("x3d_s", {"fps": 15.0}, "cannot be made"),
    ],
)
def test_arguments_that_make_no_net_are_refused(name: str, kwargs: dict[str, Any], why: str):
    with pytest.raises(UserError, match=facts(*why.split(" | "))):
        create_encoder(name, **kwargs)
    with pytest.raises(UserError, match=facts("1", "i3d_r50")):  # too short for its pool
        create_encoder("i3d_r50", width=8)(torch.zeros(1, 3, 1, 48, 48))
