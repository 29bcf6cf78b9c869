"""VideoPrism's checkpoints <-> our `videoprism`, its text tower and its poolers.

Layouts: the published .npz files, whose blocks are stacked in one array or not, and those of
`transformers`. Each comes as the encoder alone, as the video-text model, and as a classifier.
"""

import re
from functools import partial

import torch
from torch import Tensor

from ssvid.errors import UserError
from ssvid.weights.layout import Layout, Row, State, map_weight_and_bias
from ssvid.weights.videoprism_sizes import describe, list_parts, require_heads, split_heads

LICENCE = "Apache-2.0"
STACK = "x_layers"
# What holds the encoder in an .npz file of theirs, beside what else it holds.
ENCODER_IN = {"encoder": "", "text": "vision_encoder.", "classifier": "encoder."}
# Of `transformers`: tables that are computed and no weights.
NO_WEIGHTS = ("text_model.embeddings.position_embedding", "text_model.embeddings.position_ids")


def prepare(theirs: State) -> State:
    """The arrays of an .npz file, with one entry for each block and the axes that torch has."""
    prepared: State = {}
    for key, x in theirs.items():
        name = key.replace("/transformers_stack/", "/").replace("/", ".")
        name = re.sub(rf"\.{STACK}_(\d+)\.", rf".{STACK}.\1.", name)
        name = name.replace(".pre_layer_norm.", ".layer_norm.")
        before, stack, after = name.partition(f".{STACK}.")
        try:
            if stack and not after[0].isdigit():
                for number, part in enumerate(x):
                    prepared[f"{before}{stack}{number}.{after}"] = turn_axes(after, part)
            else:
                prepared[name] = turn_axes(name, x)
        except (IndexError, RuntimeError, TypeError) as error:
            raise UserError(
                f"its {key!r} has the shape {tuple(x.shape)}, which no such array has."
            ) from error
    return prepared


def turn_axes(name: str, x: Tensor) -> Tensor:
    """An array of theirs as torch has it. It stays a view."""
    *_, module, leaf = name.split(".")
    if module in ("query", "key", "value") and leaf == "w":  # D a d
        return x.flatten(1).T
    if module in ("query", "key", "value") and "pooling_attention" in name:
        return x.flatten()
    if module == "post" and leaf == "w":
        return x.flatten(1)
    if leaf == "kernel" and name.endswith("patch_projection.linear.kernel"):  # (p q C) D
        side = round((len(x) / 3) ** 0.5)
        return x.view(side, side, 3, x.shape[1]).permute(3, 2, 0, 1)[:, :, None]
    return x.T if leaf == "kernel" and x.ndim == 2 else x


def pack(stacked: bool, prepared: State) -> State:
    """The reverse of `prepare`."""
    theirs: State = {}
    blocks: dict[str, list[Tensor]] = {}
    hybrids = {key.partition(STACK)[0] for key in prepared if ".post_layer_norm." in key}
    for key, x in prepared.items():
        name, array = key, turn_axes_back(key, x, prepared)
        if key.partition(STACK)[0] in hybrids:
            name = name.replace(".layer_norm.", ".pre_layer_norm.")
        before, stack, after = name.partition(f".{STACK}.")
        number, _, leaf = after.partition(".")
        if stack and before.rpartition(".")[2] != "unimodal_transformer":
            before += ".transformers_stack"
        if stack and stacked:
            blocks.setdefault(f"{before}.{STACK}.{leaf}".replace(".", "/"), []).append(array)
            continue
        if stack:
            name = f"{before}.{STACK}_{number}.{leaf}"
        theirs[name.replace(".", "/")] = array.contiguous()
    for name, arrays in blocks.items():
        theirs[name] = torch.stack(arrays)
    return {name: theirs[name] for name in sorted(theirs)}


def turn_axes_back(name: str, x: Tensor, prepared: State) -> Tensor:
    parent, _, leaf = name.rpartition(".")
    attention, _, module = parent.rpartition(".")
    if module in ("query", "key", "value", "post") and (leaf == "w" or "pooling" in name):
        if attention.endswith("pooling_attention"):
            width = len(prepared[f"{attention}.per_dim_scale.per_dim_scale"])
        else:
            width = prepared[f"{attention}.query.b"].shape[1]
        if module == "post":
            return x.unflatten(1, (-1, width)) if leaf == "w" else x
        return x.T.unflatten(1, (-1, width)) if leaf == "w" else x.unflatten(0, (-1, width))
    if leaf == "kernel" and name.endswith("patch_projection.linear.kernel"):
        return x[:, :, 0].permute(2, 3, 1, 0).flatten(0, 2)
    return x.T if leaf == "kernel" else x


def map_norm(theirs: str, ours: str, optional: bool = False) -> list[Row]:
    rows = []
    for leaf in ("scale", "bias"):
        rows.append(Row(f"{theirs}.{leaf}", f"{ours}.{leaf}", optional=optional))
    return rows


def map_stack(theirs: str, ours: str, blocks: int) -> list[Row]:
    rows = []
    for i in range(blocks):
        block, mine = f"{theirs}.{STACK}.{i}", f"{ours}.{i}"
        rows += map_norm(f"{block}.layer_norm", f"{mine}.norm1")
        rows += map_norm(f"{block}.post_layer_norm", f"{mine}.norm1_after", optional=True)
        for name in ("query", "key", "value"):
            part = f"{block}.self_attention.{name}"
            rows.append(Row(f"{part}.w", f"{mine}.attn.qkv.weight", name[0]))
            rows.append(Row(f"{part}.b", f"{mine}.attn.qkv_bias", name[0]))
        rows.append(Row(f"{block}.self_attention.post.w", f"{mine}.attn.proj.weight"))
        rows.append(Row(f"{block}.self_attention.post.b", f"{mine}.attn.proj.bias"))
        rows += map_norm(f"{block}.ff_layer.layer_norm", f"{mine}.norm2")
        rows += map_norm(f"{block}.ff_layer.post_layer_norm", f"{mine}.norm2_after", optional=True)
        for number in (1, 2):
            linear = f"{block}.ff_layer.ffn_layer{number}.linear"
            rows.append(Row(f"{linear}.kernel", f"{mine}.mlp.fc{number}.weight"))
            rows.append(Row(f"{linear}.bias", f"{mine}.mlp.fc{number}.bias"))
    return rows


def map_pooler(theirs: str, ours: str) -> list[Row]:
    attention = f"{theirs}.pooling_attention"
    rows = [Row(f"{theirs}.pooling_attention_query", f"{ours}.queries")]
    for name, mine in (("query", "q"), ("key", "k"), ("value", "v"), ("post", "proj")):
        rows.append(Row(f"{attention}.{name}.w", f"{ours}.{mine}.weight"))
        rows.append(Row(f"{attention}.{name}.b", f"{ours}.{mine}.bias"))
    rows.append(Row(f"{attention}.per_dim_scale.per_dim_scale", f"{ours}.per_dim_scale"))
    rows += map_norm(f"{attention}.layer_norm_q", f"{ours}.norm_q", optional=True)
    rows += map_norm(f"{attention}.layer_norm_k", f"{ours}.norm_k", optional=True)
    return rows + map_norm(f"{theirs}.pooling_attention_layer_norm", f"{ours}.norm", optional=True)


def map_npz(kind: str, space: int, time: int, text: int = 0, auxiliary: int = 0) -> list[Row]:
    encoder = ENCODER_IN[kind]
    patch = f"{encoder}patch_projection.linear"
    rows = [Row(f"{patch}.kernel", "encoder.patch.weight")]
    rows.append(Row(f"{patch}.bias", "encoder.patch.bias"))
    for theirs, ours, blocks in (("spatial", "space", space), ("temporal", "time", time)):
        rows.append(Row(f"{encoder}{theirs}_pos_emb.emb_var", f"encoder.{ours}_positions"))
        rows += map_norm(f"{encoder}{theirs}_ln", f"encoder.norm_{ours}")
        rows += map_stack(f"{encoder}{theirs}_encoder", f"encoder.{ours}", blocks)
    if kind == "text":
        rows += map_stack("auxiliary_encoder", "auxiliary", auxiliary)
        rows += map_pooler("contrastive_vision_pooler", "pooler")
        rows.append(Row("text_encoder.token_emb.emb_var", "tower.table.weight"))
        rows.append(Row("text_encoder.cls_emb", "tower.cls", "flat"))
        rows += map_norm("text_encoder.unimodal_ln", "tower.norm")
        rows += map_stack("text_encoder.unimodal_transformer", "tower.blocks", text)
    if kind == "classifier":
        rows += map_pooler("atten_pooler", "pooler")
        rows.append(Row("projection.linear.kernel", "head.weight"))
        rows.append(Row("projection.linear.bias", "head.bias"))
    return rows


def map_renamed_norm(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}.weight", f"{ours}.scale"), Row(f"{theirs}.bias", f"{ours}.bias")]


def map_layers(theirs: str, ours: str, blocks: int) -> list[Row]:
    rows = []
    for i in range(blocks):
        layer, mine = f"{theirs}.{i}", f"{ours}.{i}"
        for name in "qkv":
            part = f"{layer}.attention.{name}_proj"
            rows.append(Row(f"{part}.weight", f"{mine}.attn.qkv.weight", name))
            rows.append(Row(f"{part}.bias", f"{mine}.attn.qkv_bias", name))
        rows += map_weight_and_bias(f"{layer}.attention.o_proj", f"{mine}.attn.proj")
        rows += map_renamed_norm(f"{layer}.layernorm_before", f"{mine}.norm1")
        rows += map_renamed_norm(f"{layer}.layernorm_after", f"{mine}.norm2")
        rows += map_weight_and_bias(f"{layer}.mlp.fc1", f"{mine}.mlp.fc1")
        rows += map_weight_and_bias(f"{layer}.mlp.fc2", f"{mine}.mlp.fc2")
    return rows


def map_head(theirs: str) -> list[Row]:
    rows = [Row(f"{theirs}head.per_dim_scale", "pooler.per_dim_scale")]
    rows.append(Row(f"{theirs}head.pooling_attention_query", "pooler.queries", "batched"))
    for name, ours in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "proj")):
        rows += map_weight_and_bias(f"{theirs}head.{name}_proj", f"pooler.{ours}")
    return rows + map_renamed_norm(f"{theirs}head_layernorm", "pooler.norm")


PREFIX = {"encoder": "", "text": "video_model.vision_model.", "classifier": "vision_model."}


def map_huggingface(
    kind: str, space: int, time: int, text: int = 0, auxiliary: int = 0
) -> list[Row]:
    net = PREFIX[kind]
    rows = map_renamed_norm(f"{net}layernorm1", "encoder.norm_space")
    rows += map_renamed_norm(f"{net}layernorm2", "encoder.norm_time")
    table = "embeddings.position_embeddings"
    rows.append(Row(f"{net}spatial_{table}", "encoder.space_positions", "batched"))
    patch = f"{net}spatial_embeddings.patch_embeddings.projection"
    rows += map_weight_and_bias(patch, "encoder.patch")
    rows.append(Row(f"{net}temporal_{table}", "encoder.time_positions", "batched"))
    rows += map_layers(f"{net}spatial_layers", "encoder.space", space)
    rows += map_layers(f"{net}temporal_layers", "encoder.time", time)
    if kind == "text":
        rows += map_layers("video_model.auxiliary_layers", "auxiliary", auxiliary)
        rows += map_head("video_model.")
        rows.append(Row("text_model.embeddings.cls_emb", "tower.cls", "flat"))
        rows.append(Row("text_model.embeddings.token_embedding.weight", "tower.table.weight"))
        rows += map_layers("text_model.layers", "tower.blocks", text)
        rows += map_renamed_norm("text_model.layernorm", "tower.norm")
    if kind == "classifier":
        rows += [*map_head(""), *map_weight_and_bias("classifier", "head")]
    return rows


def join_heads(ours: State) -> State:
    return {key: x.flatten() if key.endswith("attn.qkv_bias") else x for key, x in ours.items()}


TITLES = {
    "encoder": "VideoPrism checkpoint",
    "text": "VideoPrism video-text checkpoint",
    "classifier": "VideoPrism classifier",
}
SUFFIXES = {"encoder": "", "text": "-lvt", "classifier": "-classifier"}
EXTRAS = {
    "encoder": (),
    "text": ("text_encoder/cls_emb",),
    "classifier": ("projection/linear/bias",),
}
COUNTED = (
    ("spatial_encoder.x_layers.", "encoder.space."),
    ("temporal_encoder.x_layers.", "encoder.time."),
)


def make_npz_layout(kind: str, *, stacked: bool) -> Layout:
    encoder = ENCODER_IN[kind]
    counted = [(encoder + theirs, ours) for theirs, ours in COUNTED]
    if kind == "text":
        counted.append(("text_encoder.unimodal_transformer.x_layers.", "tower.blocks."))
        counted.append(("auxiliary_encoder.x_layers.", "auxiliary."))
    first = STACK if stacked else f"{STACK}_0"
    block = f"spatial_encoder/transformers_stack/{first}/self_attention/post/w"
    return Layout(
        name=f"videoprism{SUFFIXES[kind]}" + ("" if stacked else "-unstacked"),
        title=TITLES[kind],
        licence=LICENCE,
        marker_keys=(encoder.replace(".", "/") + block, *EXTRAS[kind]),
        counted_keys=tuple(counted),
        make_rows=partial(map_npz, kind),
        describe=partial(describe, kind),
        prefix="params/",
        list_parts=partial(list_parts, kind),
        before_reading=prepare,
        before_writing=require_heads,
        after_writing=partial(pack, stacked),
    )


def make_huggingface_layout(kind: str) -> Layout:
    net = PREFIX[kind]
    counted = [(f"{net}spatial_layers.", "encoder.space.")]
    counted.append((f"{net}temporal_layers.", "encoder.time."))
    if kind == "text":
        counted.append(("text_model.layers.", "tower.blocks."))
        counted.append(("video_model.auxiliary_layers.", "auxiliary."))
    extra = {
        "encoder": (),
        "text": ("text_model.layernorm.bias",),
        "classifier": ("classifier.bias",),
    }
    return Layout(
        name=f"videoprism{SUFFIXES[kind]}-huggingface",
        title=f"{TITLES[kind]} of Hugging Face",
        licence=LICENCE,
        marker_keys=(f"{net}spatial_layers.0.attention.o_proj.weight", *extra[kind]),
        counted_keys=tuple(counted),
        make_rows=partial(map_huggingface, kind),
        describe=partial(describe, kind),
        ignored_keys=NO_WEIGHTS,
        list_parts=partial(list_parts, kind),
        after_reading=split_heads,
        before_writing=join_heads,
    )


KINDS = ("classifier", "text", "encoder")
LAYOUTS = (
    *(make_npz_layout(kind, stacked=True) for kind in KINDS),
    *(make_npz_layout(kind, stacked=False) for kind in KINDS),
    *map(make_huggingface_layout, KINDS),
)
