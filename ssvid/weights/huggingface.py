"""Hugging Face's VideoMAE <-> our `vit` and `mae` (layout: transformers, weights CC-BY-NC-4.0).

transformers 4 wrote `q_bias` and `v_bias`; version 5 writes `query.bias` and `value.bias`. The
default epsilon of its LayerNorm is 1e-12; ours is 1e-6, with which the weights were trained. With
`use_mean_pooling` (its default) the pretraining model has no final norm. The encoder of such a
file is complete only for `partial=True`, which leaves our norm as it starts. `fc_norm` becomes our
`norm`: see videomae.py.
"""

from functools import partial

from ssvid.weights import vit
from ssvid.weights.layout import Layout, Row, map_weight_and_bias

LICENCE = "CC-BY-NC-4.0"
PATCH = "videomae.embeddings.patch_embeddings.projection.weight"
FIRST = "videomae.encoder.layer.0.attention.attention"
MODULES = {  # of a block: theirs -> ours
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
}


def map_block(version: int, theirs: str, ours: str) -> list[Row]:
    attention = f"{theirs}.attention.attention"
    rows = []
    if version == 4:
        for q in "qv":
            rows.append(Row(f"{attention}.{q}_bias", f"{ours}.attn.{q}_bias", optional=True))
    for name in ("query", "key", "value"):
        q = name[0]
        rows.append(Row(f"{attention}.{name}.weight", f"{ours}.attn.qkv.weight", q))
        if version != 4 and name != "key":
            rows.append(Row(f"{attention}.{name}.bias", f"{ours}.attn.{q}_bias", optional=True))
    for their_module, our_module in MODULES.items():
        rows += map_weight_and_bias(f"{theirs}.{their_module}", f"{ours}.{our_module}")
    return rows


def map_trunk(version: int, depth: int) -> list[Row]:
    """The patch embedding and the blocks, without the norm behind them."""
    rows = map_weight_and_bias(PATCH.removesuffix(".weight"), "encoder.patch")
    for i in range(depth):
        rows += map_block(version, f"videomae.encoder.layer.{i}", f"encoder.blocks.{i}")
    return rows


def map_pretraining(version: int, depth: int, dec_depth: int) -> list[Row]:
    rows = [Row("mask_token", "pixels.mask_token", "flat"), *map_trunk(version, depth)]
    rows += map_weight_and_bias("videomae.layernorm", "encoder.norm", optional=True)
    rows.append(Row("encoder_to_decoder.weight", "pixels.bridge.weight"))
    for i in range(dec_depth):
        rows += map_block(version, f"decoder.decoder_layers.{i}", f"pixels.blocks.{i}")
    rows += map_weight_and_bias("decoder.norm", "pixels.last")
    return rows + map_weight_and_bias("decoder.head", "pixels.out")


def map_encoder(norm: str, version: int, depth: int) -> list[Row]:
    """An encoder whose last norm is called `norm`, with or without a classifier."""
    return [
        *map_trunk(version, depth),
        *map_weight_and_bias(norm, "encoder.norm"),
        *map_weight_and_bias("classifier", "head", optional=True),
    ]


def make_layouts(version: int) -> tuple[Layout, ...]:
    """The three layouts of a version of transformers, 4 or 5."""
    suffix = "4" if version == 4 else ""
    markers = (PATCH, f"{FIRST}.q_bias" if version == 4 else f"{FIRST}.query.weight")
    model = f"Hugging Face VideoMAE{' (transformers 4)' if version == 4 else ''}"
    blocks = ("videomae.encoder.layer.", "encoder.blocks.")
    pretraining = Layout(
        name=f"huggingface{suffix}",
        title=f"{model} pretraining checkpoint",
        licence=LICENCE,
        marker_keys=(*markers, "encoder_to_decoder.weight"),
        counted_keys=(blocks, ("decoder.decoder_layers.", "pixels.blocks.")),
        make_rows=partial(map_pretraining, version),
        describe=vit.describe_videomae,
        positions=("sincos",),
    )
    encoders = []
    for name, title, norm in (
        ("finetuned", "classifier", "fc_norm"),
        ("encoder", "encoder", "videomae.layernorm"),
    ):
        encoders.append(
            Layout(
                name=f"huggingface{suffix}-{name}",
                title=f"{model} {title}",
                licence=LICENCE,
                marker_keys=(*markers, f"{norm}.weight"),
                counted_keys=(blocks,),
                make_rows=partial(map_encoder, norm, version),
                describe=vit.describe_videomae,
                positions=("sincos",),
            )
        )
    return pretraining, *encoders


LAYOUTS = (*make_layouts(4), *make_layouts(5))
