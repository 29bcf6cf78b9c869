"""VideoPrism: encoder with its masks, video-text model, pooler, classifier, tables and tokeniser.

A case is a folder. Its manifest says what each pair of files is of.
"""

import copy
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ssvid.encoders.videoprism import VideoPrism
from ssvid.hub import create_encoder
from ssvid.nn.patches import patches
from ssvid.nn.position import resize_grid, resize_rows
from ssvid.nn.prism import AttentionPooler
from ssvid.shapes import Features, Grid
from ssvid.text.pieces import Pieces, canonicalise
from ssvid.text.pooled import PooledSpace, make_auxiliary, normalise
from ssvid.text.videoprism import PrismText, sinusoids
from ssvid.weights.files import read_weights
from ssvid.weights.layout import Layout, count_blocks
from ssvid.weights.published import LAYOUTS, PublishedFile, identify_file, select_under
from ssvid.weights.videoprism import map_pooler, prepare
from ssvid.weights.videoprism_sizes import describe_pooler, describe_tower
from tests.reference.cases import Case, assert_close

Arrays = dict[str, Tensor]
UNCHECKED = {
    "video": "an input",
    "tokens": "an input",
    "labels": "an input",
    "frame_paddings": "an input",
    "patch_paddings": "an input",
    "text_token_ids": "an input",
    "text_paddings": "an input",
}


def recognises(case: Case) -> bool:
    return "FactorizedEncoder" in {model.get("model") for model in read_models(case).values()}


def read_models(case: Case) -> dict[str, dict[str, Any]]:
    """Name of a model -> its configuration, from the manifests of a folder."""
    models: dict[str, dict[str, Any]] = {}
    for file in sorted(case.path.glob("*.json")) if case.path.is_dir() else []:
        content = json.loads(file.read_text())
        for name, entry in content.items() if isinstance(content, dict) else ():
            if isinstance(entry, dict):
                models[name] = entry
    return models


def check(case: Case) -> None:
    for name, model in read_models(case).items():
        kind = model.get("model")
        if kind == "FactorizedEncoder":
            check_encoder(case.path, name, model)
        elif kind == "FactorizedVideoCLIP":
            check_text_model(case.path, name)
        elif kind == "FactorizedVideoClassifier":
            check_classifier(case.path, name)
        elif kind == "AttenTokenPoolingLayer":
            check_poolers(case.path, name, model)
        elif "num_params" in model:
            check_shapes(model["shapes"], model["num_params"])
        elif model.get("function", "").startswith("positional-embedding"):
            check_interpolation(read_groups(case.path / f"{name}_io.npz"))
        elif model.get("function", "").startswith("text"):
            for key, x in np.load(case.path / f"{name}_io.npz").items():
                assert_close(
                    key, sinusoids(*x.shape[1:], torch.device("cpu"))[None], as_tensor(x), "prism"
                )
    for file in case.path.glob("*.json"):
        content = json.loads(file.read_text())
        if "canonicalized" in content:
            check_tokenizer(next(case.path.glob("*.model")), content)


def as_tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(x))


def read_groups(file: Path) -> dict[str, Arrays]:
    """Case -> its arrays by name. Keys are `case/name`."""
    groups: dict[str, Arrays] = {}
    for key, x in np.load(file).items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = as_tensor(x)
    return groups


def read_published(file: Path) -> PublishedFile:
    """The tensors of a file, which are written back as they are."""
    published = identify_file(read_weights(file))
    assert published is not None
    published.require_complete()
    again = published.layout.to_theirs(published.ours)
    theirs = select_under(published.file.tensors, published.prefix)
    torch.testing.assert_close(again, theirs, rtol=0, atol=0)
    return published


def build_encoder(published: PublishedFile, config: dict[str, Any]) -> VideoPrism:
    encoder = create_encoder(str(published.net.encoder), **published.net.kwargs)
    assert isinstance(encoder, VideoPrism)
    encoder.load_state_dict(published.encoder_state())
    for attention in encoder.modules():
        if hasattr(attention, "cap"):
            attention.cap = config["atten_logit_cap"]
    return encoder.eval()


def to_clip(video: Tensor) -> Tensor:
    return rearrange(video, "B T H W C -> B C T H W").contiguous()


def check_encoder(folder: Path, name: str, model: dict[str, Any]) -> None:
    files = sorted(folder.glob(f"{name}*_params.npz"))
    assert files
    for file in files:  # stacked and unstacked
        encoder = build_encoder(read_published(file), model["config"])
        for case, arrays in read_groups(folder / f"{name}_io.npz").items():
            check_clip(encoder, case, arrays)
    for file in folder.glob(f"{name}_*_intermediates.npz"):
        case = file.name.removeprefix(f"{name}_").removesuffix("_intermediates.npz")
        video = read_groups(folder / f"{name}_io.npz")[case]["video"]
        check_stages(encoder, video, dict(np.load(file)))


@torch.no_grad()
def check_clip(encoder: VideoPrism, case: str, arrays: Arrays) -> None:
    arrays = dict(arrays)
    clip = to_clip(arrays.pop("video"))
    grid, padding = encoder.grid(*clip.shape[2:]), None
    if "frame_paddings" in arrays:
        padding = arrays.pop("frame_paddings").bool().repeat_interleave(grid.h * grid.w, 1)
    if "patch_paddings" in arrays:
        padding = arrays.pop("patch_paddings").bool().view(len(clip), -1)
        pixels = patches(clip, encoder.tubelet)[:, :, :, 0]
        theirs = rearrange(pixels, "B (t n) C q r -> (B t) n (q r C)", t=grid.t)
        assert_close(f"{case} patches", theirs, arrays.pop("patches"), "exact")
    spatial: list[Tensor] = []
    hook = encoder.norm_space.register_forward_hook(lambda _, __, x: spatial.append(x))
    features = encoder(clip) if padding is None else encoder.encode_padded(clip, padding)
    hook.remove()
    assert_close(case, features.tokens, arrays.pop("embeddings"), "prism")
    assert_close(case, spatial[0], arrays.pop("spatial_features"), "prism")
    if padding is not None and len({int(row.sum()) for row in padding}) == 1:
        visible = (~padding).nonzero()[:, 1].view(len(clip), -1)
        tokens = encoder(clip, visible).tokens
        assert_close(case, tokens, features.tokens[~padding].view(tokens.shape), "prism")
    if "embeddings_bf16" in arrays:
        half = copy.deepcopy(encoder).bfloat16()(clip.bfloat16()).tokens
        assert_close(case, half.float(), arrays.pop("embeddings_bf16").float(), "prism_bf16")
    assert not arrays


@torch.no_grad()
def check_stages(encoder: VideoPrism, video: Tensor, theirs: dict[str, np.ndarray]) -> None:
    """What goes out of every module. Ours has rows of tokens, in the order of its groups."""
    stages: Arrays = {}

    def watch(module: nn.Module, name: str, change: Any = None) -> None:
        module.register_forward_hook(
            lambda _, __, x: stages.__setitem__(name, x if change is None else change(x))
        )

    for ours, prefix in (("space", "spatial"), ("time", "temporal")):
        for i, block in enumerate(getattr(encoder, ours)):
            name = f"{prefix}_encoder/transformers_stack/x_layers_{i}"
            watch(block, name)
            watch(block.norm1, f"{name}/layer_norm")
            weight, bias = block.attn.qkv.weight, block.attn.qkv_bias.flatten()
            query = partial(F.linear, weight=weight[: encoder.dim], bias=bias[: encoder.dim])
            watch(block.norm1, f"{name}/self_attention/query", query)
        watch(getattr(encoder, f"norm_{ours}"), f"{prefix}_ln")
    clip = to_clip(video)
    encoder(clip)
    pixels = patches(clip, encoder.tubelet).flatten(2)
    stages["patch_projection"] = F.linear(
        pixels, encoder.patch.weight.flatten(1), encoder.patch.bias
    )
    for name, x in theirs.items():
        published = as_tensor(x)
        ours = stages[name]
        if name == "temporal_ln":  # theirs has the order of groups here
            ours = rearrange(ours, "B (t n) D -> (B n) t D", t=published.shape[1])
        assert_close(name, ours.reshape(published.shape), published, "prism")


class Parts(nn.Module):
    """The video-text model of a file, with a table of as many pieces as the file has."""

    def __init__(self, published: PublishedFile, config: dict[str, Any]) -> None:
        super().__init__()
        ours, net = published.ours, published.net.kwargs
        self.encoder = build_encoder(published, config)
        sizes = describe_tower(ours)
        tower = PrismText(letters=True, cap=config["atten_logit_cap"], **sizes)
        tower.table = nn.Embedding(*ours["tower.table.weight"].shape)
        count = count_blocks(ours, "auxiliary.")
        auxiliary = make_auxiliary(count, net["dim"], net["heads"], net["hidden"])
        self.space = PooledSpace(tower, AttentionPooler(**describe_pooler(ours)), auxiliary)
        self.space.load_state_dict({k: x for k, x in ours.items() if not k.startswith("encoder.")})


@torch.no_grad()
def check_text_model(folder: Path, name: str) -> None:
    config = json.loads((folder / "manifest.json").read_text())[name]["config"]
    parts = Parts(read_published(folder / f"{name}_params.npz"), config).eval()
    for case, arrays in read_groups(folder / f"{name}_io.npz").items():
        ours = run_text_model(parts, arrays)
        for key, x in arrays.items():
            if key not in UNCHECKED:
                assert_close(f"{name} {case} {key}", ours[key], x, "prism")


def run_text_model(parts: Parts, arrays: Arrays) -> Arrays:
    space, ours = parts.space, {}
    if "video" in arrays:
        spatial: list[Tensor] = []
        hook = parts.encoder.norm_space.register_forward_hook(lambda _, __, x: spatial.append(x))
        features: Features = parts.encoder(to_clip(arrays["video"]))
        hook.remove()
        video, frames = space.pool(features.tokens), space.pool_frames(features)
        ours |= {"spatial_features": spatial[0], "spatiotemporal_features": features.tokens}
        ours |= {"video_embeddings_unnormalized": video, "video_embeddings": normalise(video)}
        ours |= {"frame_embeddings_unnormalized": frames, "frame_embeddings": normalise(frames)}
    if "text_token_ids" in arrays:
        tokens = arrays["text_token_ids"].long()
        tokens = tokens.masked_fill(arrays["text_paddings"].bool(), -1)
        text = space.tower.embed(tokens)
        ours |= {"text_embeddings_unnormalized": text, "text_embeddings": normalise(text)}
    for key in arrays:
        if match := re.fullmatch(r"similarity_temp([\d.]+)_softmax_over_texts", key):
            cosines = ours["video_embeddings"] @ ours["text_embeddings"].T
            ours[key] = (cosines / float(match[1])).softmax(1)
    return ours


def check_poolers(folder: Path, name: str, model: dict[str, Any]) -> None:
    params = read_groups(folder / f"{name}_params.npz")
    for case, arrays in read_groups(folder / f"{name}_io.npz").items():
        theirs = select_under(params[case], "params/")
        prepared = prepare({f"pooler/{key}": x for key, x in theirs.items()})
        rows = map_pooler("pooler", "pooler")
        ours = {row.ours: prepared[row.theirs] for row in rows if row.theirs in prepared}
        assert len(ours) == len(theirs)
        pooler = AttentionPooler(**describe_pooler(ours))
        pooler.load_state_dict(select_under(ours, "pooler."))
        padding = arrays.get("paddings")
        pooled = pooler(arrays["tokens"], None if padding is None else padding.bool())
        assert_close(case, pooled.detach(), arrays["pooled"], "prism")
        assert arrays.keys() <= {"tokens", "paddings", "pooled"}


def check_classifier(folder: Path, name: str) -> None:
    published = read_published(folder / f"{name}_params.npz")
    config = json.loads((folder / "manifest.json").read_text())[name]["config"]
    encoder = build_encoder(published, config["encoder_params"])
    pooler = AttentionPooler(**describe_pooler(published.ours))
    head = nn.Linear(encoder.dim, len(published.ours["head.bias"]))
    trained = nn.ModuleDict({"pooler": pooler, "head": head})
    trained.load_state_dict(
        {k: x for k, x in published.ours.items() if not k.startswith("encoder.")}
    )
    arrays = {key: as_tensor(x) for key, x in np.load(folder / f"{name}_io.npz").items()}
    with torch.no_grad():
        tokens = encoder(to_clip(arrays.pop("video"))).tokens
    pooled = pooler(tokens)[:, 0]
    logits = head(pooled)
    loss = F.cross_entropy(logits, arrays.pop("labels").long())
    loss.backward()
    assert_close("tokens", tokens, arrays.pop("spatiotemporal_features"), "prism")
    assert_close("pooled", pooled.detach(), arrays.pop("global_embeddings"), "prism")
    assert_close("logits", logits.detach(), arrays.pop("logits"), "prism")
    assert_close("loss", loss.detach(), arrays.pop("loss"), "prism")
    theirs = prepare(select_under(arrays, "grad/"))
    assert len(theirs) == len(arrays)
    rows = published.layout.list_rows_of_ours(trained.state_dict())
    weights = dict(trained.named_parameters())
    for row in rows:
        if row.ours in weights:
            assert_close(row.theirs, weights[row.ours].grad, theirs.pop(row.theirs), "prism")
    assert not theirs


def check_shapes(shapes: dict[str, list[int]], count: int) -> None:
    """Every key of a release is known, and its encoder has the published number of parameters."""
    theirs = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    (layout,) = [layout for layout in LAYOUTS if is_layout(layout, theirs)]
    ours = layout.to_ours(select_under(theirs, layout.prefix))
    again = layout.to_theirs(ours)
    assert list_shapes(again) == list_shapes(select_under(theirs, layout.prefix))
    assert sum(x.numel() for x in ours.values()) == count
    net = layout.describe(ours)
    with torch.device("meta"):
        encoder = create_encoder(str(net.encoder), **net.kwargs)
    of_encoder = select_under(ours, "encoder.")
    assert list_shapes(encoder.state_dict()) == list_shapes(of_encoder)


def list_shapes(state: Arrays) -> dict[str, tuple[int, ...]]:
    return {key: tuple(x.shape) for key, x in state.items()}


def is_layout(layout: Layout, theirs: Arrays) -> bool:
    return bool(layout.prefix) and layout.matches(theirs, layout.prefix)


def check_interpolation(groups: dict[str, Arrays]) -> None:
    for case, arrays in groups.items():
        numbers = [int(number) for number in re.findall(r"\d+", case.partition("_")[2])]
        source, target = arrays["source"][0], arrays["target"][0]
        if len(numbers) == 2:
            ours = resize_rows(source, numbers[1])
        else:
            ours = resize_grid(source, Grid(1, *numbers[:2]), Grid(1, *numbers[2:]))
        assert_close(case, ours, target, "prism_table")


def check_tokenizer(model: Path, content: dict[str, Any]) -> None:
    for sentence, canonical in content["canonicalized"]:
        assert canonicalise(sentence) == canonical
    for case in content["cases"]:
        kwargs = case["kwargs"]
        pieces = Pieces(model, kwargs["max_length"])
        assert pieces.size == content["vocab_size"]
        for row, text in enumerate(case["texts"]):
            canonical = canonicalise(text) if kwargs.get("canonicalize", True) else text
            ids = pieces.split(canonical)
            if not kwargs.get("add_bos", True):
                ids = ids[1:]
            ids = ids[: kwargs["max_length"]]
            padding = kwargs["max_length"] - len(ids)
            assert ids + [0] * padding == case["ids"][row]
            assert [0.0] * len(ids) + [1.0] * padding == case["paddings"][row]
        if kwargs.keys() == {"max_length"}:
            table = pieces.encode(case["texts"])
            theirs = torch.tensor(case["ids"])[:, : table.shape[1]]
            assert torch.equal(table.clamp(min=0), theirs)
