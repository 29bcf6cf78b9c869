"""Every layout: recognised, loaded, written back, on small state dicts and on published ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from ssvid import create_encoder, load_encoder, registry
from ssvid.nn.transformer import EPS
from ssvid.weights.__main__ import weights
from ssvid.weights.files import read_weights
from ssvid.weights.published import identify_file
from tests.helpers import for_each
from tests.reference.cases import ROOT
from tests.weights.coclr_layouts import coclr, coclr_odd, infonce, s3d, ubernce
from tests.weights.layouts import (
    State,
    assert_same,
    dpc,
    huggingface,
    huggingface_finetuned,
    mae_st,
    memdpc,
    videomae,
    videomae_encoder,
    videomae_finetuned,
)
from tests.weights.test_milnce import milnce

# Name -> the entry of the file that holds the tensors, and the function that makes them.
CHECKPOINTS: dict[str, tuple[str | None, Callable[[], State]]] = {
    "videomae": ("model", videomae),
    "videomae-finetuned": ("module", videomae_finetuned),
    "videomae-encoder": ("model", videomae_encoder),
    "huggingface": (None, lambda: huggingface(5)),
    "huggingface4": (None, lambda: huggingface(4)),
    "huggingface-finetuned": (None, lambda: huggingface_finetuned(5)),
    "huggingface4-finetuned": (None, lambda: huggingface_finetuned(4)),
    "mae_st": ("model", mae_st),
    "mae_st, SlowFast": ("model_state", mae_st),
    "mae_st, no class token": ("model", lambda: mae_st(cls=False)),
    "mae_st, joint": ("model", lambda: mae_st(separable=False)),
    "mae_st, joint, no class token": ("model", lambda: mae_st(cls=False, separable=False)),
    "mae_st-finetuned": ("model", lambda: mae_st(decoder=False)),
    "dpc": ("state_dict", dpc),
    "dpc, running": ("state_dict", lambda: dpc(running=True)),
    "memdpc": ("state_dict", memdpc),
    "dpc, 34": ("state_dict", lambda: dpc((3, 4, 6, 3))),
    "coclr-s3d": ("state_dict", s3d),
    "coclr-s3d, gated": ("state_dict", lambda: s3d(gating=True)),
    "coclr-s3d, without statistics": ("state_dict", lambda: s3d(running=False)),
    "infonce": ("state_dict", infonce),
    "infonce, gated": ("state_dict", lambda: infonce(gating=True)),
    "ubernce": ("state_dict", ubernce),
    "ubernce, filling": ("state_dict", lambda: ubernce(4)),
    "coclr": ("state_dict", coclr),
    "coclr, filling": ("state_dict", lambda: coclr(4)),
    "coclr, empty": ("state_dict", lambda: coclr(0)),
    "coclr, gated, without statistics": ("state_dict", lambda: coclr(gating=True, running=False)),
    "coclr, odd": ("state_dict", coclr_odd),
    "milnce": (None, milnce),
    "milnce, plain": ("state_dict", lambda: milnce("plain")),
}

CLIP = torch.randn(2, 3, 16, 8, 8, generator=torch.Generator().manual_seed(1))


def saved(
    path: Path, name: str, dtype: torch.dtype = torch.float32, prefix: str = ""
) -> tuple[Path, State]:
    wrapper, make = CHECKPOINTS[name]
    tensors = {prefix + k: v.to(dtype) if v.is_floating_point() else v for k, v in make().items()}
    file = path / "published.pth"
    torch.save({wrapper: tensors, "epoch": 3} if wrapper else tensors, file)
    return file, tensors


@pytest.mark.parametrize("name", CHECKPOINTS)
@for_each("dtype", [torch.float32, torch.float16])
def test_written_back_as_it_was(name: str, dtype: torch.dtype, tmp_path: Path):
    file, tensors = saved(tmp_path, name, dtype)
    layout = name.partition(",")[0]
    report = weights(str(file), to=layout, out=str(tmp_path / "again.pth"))
    assert report["layout"] == layout and report["dtype"] == str(dtype).removeprefix("torch.")
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert_same(again if CHECKPOINTS[name][0] is None else again[CHECKPOINTS[name][0]], tensors)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_order_is_the_published_one_from_our_names_too(name: str, tmp_path: Path):
    file, tensors = saved(tmp_path, name)
    published = identify_file(read_weights(file))
    assert published is not None and not published.missing and not published.unexpected
    shuffled = dict(sorted(published.ours.items(), reverse=True))
    assert_same(
        {published.layout.prefix + k: v for k, v in published.layout.to_theirs(shuffled).items()},
        tensors,
    )


@for_each("prefix", ["module.", "_orig_mod.module.", "module.backbone."])
@for_each("name", ["videomae", "videomae-finetuned", "huggingface4", "mae_st", "coclr", "milnce"])
def test_prefixes_are_seen_through_and_kept(name: str, prefix: str, tmp_path: Path):
    file, tensors = saved(tmp_path, name, prefix=prefix)
    weights(str(file), to=name, out=str(tmp_path / "again.pth"))
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert_same(again if CHECKPOINTS[name][0] is None else again[CHECKPOINTS[name][0]], tensors)


def plain_vit(
    state: dict[str, Tensor], clip: Tensor, start: Tensor | None = None, first: Tensor | None = None
) -> Tensor:
    """The tokens after the last block, from VideoMAE's names, written out by hand: one head."""
    x = F.conv3d(
        clip, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=(2, 4, 4)
    )
    x = rearrange(x, "B D t h w -> B (t h w) D")
    n, d = x.shape[1:]
    if start is None:
        angle = np.arange(n)[:, None] / np.power(10000, 2 * (np.arange(d) // 2) / d)
        start = torch.from_numpy(
            np.where(np.arange(d) % 2 == 0, np.sin(angle), np.cos(angle))
        ).float()
    x = x + start
    if first is not None:
        x = torch.cat([first.expand(len(x), 1, d), x], dim=1)
    for i in range(2):
        p = {
            k.removeprefix(f"blocks.{i}."): v
            for k, v in state.items()
            if k.startswith(f"blocks.{i}.")
        }
        y = F.layer_norm(x, (d,), p["norm1.weight"], p["norm1.bias"], EPS)
        q, k, v = F.linear(y, p["attn.qkv.weight"]).chunk(3, dim=-1)
        q, k, v = q + p["attn.q_bias"], k + p.get("attn.k_bias", 0), v + p["attn.v_bias"]
        y = (q @ k.transpose(1, 2) / d**0.5).softmax(-1) @ v
        x = x + F.linear(y, p["attn.proj.weight"], p["attn.proj.bias"])
        y = F.layer_norm(x, (d,), p["norm2.weight"], p["norm2.bias"], EPS)
        y = F.gelu(F.linear(y, p["mlp.fc1.weight"], p["mlp.fc1.bias"]))
        x = x + F.linear(y, p["mlp.fc2.weight"], p["mlp.fc2.bias"])
    return x


@torch.no_grad()
@for_each("name", [n for n in CHECKPOINTS if n.startswith(("videomae", "huggingface"))])
def test_features_of_videomae_in_every_spelling(name: str, tmp_path: Path):
    state = {k.removeprefix("encoder."): v for k, v in videomae().items()}
    x = plain_vit(state, CLIP)
    tokens = F.layer_norm(x, (64,), state["norm.weight"], state["norm.bias"], EPS)
    encoder = load_encoder(saved(tmp_path, name)[0])
    features = encoder(CLIP)
    torch.testing.assert_close(features.tokens, tokens, atol=2e-5, rtol=1e-4)
    assert torch.equal(features.pooled, features.tokens.mean(1)) and encoder.mean == (
        0.485,
        0.456,
        0.406,
    )
    if "finetuned" in name:  # what their classifier sees
        theirs = F.layer_norm(x.mean(1), (64,), state["norm.weight"], state["norm.bias"], EPS)
        last = encoder(CLIP, layers=(encoder.depth,)).layers[0]
        torch.testing.assert_close(encoder.norm(last.mean(1)), theirs, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@for_each("name", [n for n in CHECKPOINTS if n.startswith("mae_st")])
def test_features_of_mae_st_in_every_form(name: str, tmp_path: Path):
    file, tensors = saved(tmp_path, name)
    state = dict(tensors)
    for i in range(2):
        prefix = f"blocks.{i}.attn"
        state[f"{prefix}.qkv.weight"] = torch.cat([tensors[f"{prefix}.{n}.weight"] for n in "qkv"])
        state |= {f"{prefix}.{n}_bias": tensors[f"{prefix}.{n}.bias"] for n in "qkv"}
    first = tensors.get("cls_token")
    if "pos_embed" in tensors:
        start = tensors["pos_embed"][:, int(first is not None) :]
        first = None if first is None else first + tensors["pos_embed"][:, :1]
    else:
        start = tensors["pos_embed_temporal"].repeat_interleave(4, 1) + tensors[
            "pos_embed_spatial"
        ].repeat(1, 8, 1)
        first = None if first is None else first + tensors["pos_embed_class"]
    x = F.layer_norm(
        plain_vit(state, CLIP, start, first),
        (64,),
        tensors["norm.weight"],
        tensors["norm.bias"],
        EPS,
    )
    encoder = load_encoder(file)
    torch.testing.assert_close(
        encoder(CLIP).tokens, x[:, int(first is not None) :], atol=2e-5, rtol=1e-4
    )
    assert (encoder.mean, encoder.spec.frames, encoder.spec.size) == ((0.45, 0.45, 0.45), 16, 8)


@torch.no_grad()
@for_each("name, built", [("dpc", "resnet18_2d3d"), ("dpc, 34", "resnet34_2d3d")])
def test_features_of_dpc(name: str, built: str, tmp_path: Path):
    file, tensors = saved(tmp_path, name)
    encoder = create_encoder(built, width=8, running_stats=False)
    theirs = {
        k.removeprefix("module.backbone."): v
        for k, v in tensors.items()
        if k.startswith("module.backbone.")
    }
    encoder.load_state_dict(theirs)  # our names are theirs inside the net
    clip = torch.randn(2, 3, 5, 64, 64)
    loaded = load_encoder(file)
    assert loaded.name == built and loaded.licence == "MIT"
    assert torch.equal(loaded(clip).tokens, encoder.eval()(clip).tokens)


@for_each(
    "name, objective",
    [
        *((name, "mae") for name in ("videomae", "mae_st", "huggingface4")),
        *((name, "infonce") for name in ("infonce", "infonce, gated", "ubernce")),
        *((name, name.partition(",")[0]) for name in ("dpc", "memdpc", "coclr", "coclr, filling")),
        *((name, "mil_nce") for name in ("milnce", "milnce, plain")),
    ],
)
def test_the_decoder_fits_the_objective_that_it_names(name: str, objective: str, tmp_path: Path):
    published = identify_file(read_weights(saved(tmp_path, name)[0]))
    assert published is not None and published.net.objective == objective
    encoder = create_encoder(published.net.encoder, **published.net.kwargs)
    kwargs = (
        {"sampler": "random"} if objective == "coclr" else {}
    )  # of the other stream: in the file too
    built = registry.objectives[objective](encoder, **published.net.settings, **kwargs)
    built.load_state_dict(published.ours)


def test_hugging_face_and_videomae_are_one_model(tmp_path: Path):
    file, tensors = saved(tmp_path, "huggingface4")
    weights(str(file), to="videomae", out=str(tmp_path / "v.pth"))
    assert_same(torch.load(tmp_path / "v.pth", weights_only=True)["model"], videomae())
    weights(str(tmp_path / "v.pth"), to="huggingface", out=str(tmp_path / "h.safetensors"))
    assert load_file(tmp_path / "h.safetensors").keys() == huggingface(5).keys()
    weights(str(tmp_path / "h.safetensors"), to="huggingface4", out=str(tmp_path / "h4.bin"))
    assert_same(torch.load(tmp_path / "h4.bin", weights_only=True), tensors)


def test_second_names_are_one_tensor_inside_and_two_in_the_file(tmp_path: Path):
    file, tensors = saved(tmp_path, "dpc")
    published = identify_file(read_weights(file))
    assert published is not None and sum(key.startswith("gru.") for key in published.ours) == 6
    weights(str(file), to="dpc", out=str(tmp_path / "again.safetensors"))
    assert load_file(tmp_path / "again.safetensors").keys() == tensors.keys()


def find_case_folder(name: str) -> Path:
    folders = [
        p.parent for p in ROOT.rglob("state_dict.safetensors") if p.parent.name.startswith(name)
    ]
    if not folders:
        pytest.skip(f"no case {name} under {ROOT}: set SSVID_REFERENCE")
    return folders[0]


@torch.no_grad()
@for_each("name", ["videomae", "mae_st"])
def test_the_published_cases(name: str, tmp_path: Path):
    folder = find_case_folder(name)
    theirs, arrays = load_file(folder / "state_dict.safetensors"), np.load(folder / "io.npz")
    file = tmp_path / "case.pth"
    torch.save({"model": theirs}, file)
    weights(str(file), to=name, out=str(tmp_path / "again.pth"))
    assert_same(torch.load(tmp_path / "again.pth", weights_only=True)["model"], theirs)
    clip = torch.from_numpy(arrays["video_u8"])
    encoder = create_encoder(
        "vit", weights=file, heads=4, frames=clip.shape[2], size=clip.shape[3]
    ).eval()
    if name == "videomae":
        tokens = encoder(encoder.normalise(clip)).tokens
        torch.testing.assert_close(
            tokens, torch.from_numpy(arrays["encoder_unmasked"]), atol=2e-5, rtol=0
        )
        keys = [key for key in theirs if key.startswith("encoder.") and "er.norm" not in key]
        tuned = {key.removeprefix("encoder."): theirs[key] for key in keys}
        tuned |= {"fc_norm.weight": torch.ones(48), "fc_norm.bias": torch.zeros(48)}
        torch.save({"module": tuned}, tmp_path / "tuned.pth")
        encoder = create_encoder("vit", weights=tmp_path / "tuned.pth", heads=4).eval()
        last = encoder(encoder.normalise(clip), layers=(3,)).layers[0]
        expected = torch.from_numpy(arrays["ft_meanpool_fcnorm"])
        torch.testing.assert_close(encoder.norm(last.mean(1)), expected, atol=2e-5, rtol=0)
    else:
        visible = torch.from_numpy(arrays["ids_keep"])
        tokens = encoder(encoder.normalise(clip), visible=visible).tokens
        torch.testing.assert_close(
            tokens, torch.from_numpy(arrays["encoder_visible"]), atol=2e-5, rtol=0
        )


@for_each(
    "dim, depth, name, heads",
    [
        (384, 12, "vit_small", 6),
        (768, 12, "vit_base", 12),
        (1024, 24, "vit_large", 16),
        (1280, 32, "vit_huge", 16),
    ],
)
def test_size_and_heads_are_told_from_the_shapes(dim: int, depth: int, name: str, heads: int):
    from ssvid.weights.published import find_registered_name
    from ssvid.weights.vit import describe_mae_st, describe_videomae

    with torch.device("meta"):
        encoder = create_encoder(name)
    ours = {f"encoder.{key}": x for key, x in encoder.state_dict().items()}
    for describe in (describe_videomae, describe_mae_st):
        net = describe(ours)
        assert (
            net.kwargs["dim"],
            net.kwargs["depth"],
            net.kwargs["heads"],
            find_registered_name(net),
        ) == (
            dim,
            depth,
            heads,
            name,
        )


@for_each(
    "make, keys",
    [(dpc, 76), (s3d, 924), (infonce, 1858), (ubernce, 1859), (coclr, 2789), (milnce, 537)],
)
def test_as_many_keys_as_the_published_nets(make: Callable[[], State], keys: int):
    assert len(make()) == keys
