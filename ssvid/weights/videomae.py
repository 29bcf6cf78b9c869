"""VideoMAE's checkpoints <-> our `vit` and `mae` (layout: MCG-NJU/VideoMAE, weights CC-BY-NC-4.0).

A fine-tuned model normalises the mean of its tokens (`fc_norm`); our `vit` takes the mean of
normalised tokens. Their `fc_norm` becomes our `norm`, so `pooled` is not quite the input of their
classifier. To the last digit, that input is
`encoder.norm(encoder(clip, layers=(encoder.depth,)).layers[0].mean(1))`.
"""

from functools import partial

from ssvid.weights import vit
from ssvid.weights.layout import Layout, Row, map_weight_and_bias

LICENCE = "CC-BY-NC-4.0"


def map_block(theirs: str, ours: str) -> list[Row]:
    rows = []
    for leaf in ("gamma_1", "gamma_2"):
        rows.append(Row(f"{theirs}.{leaf}", f"{ours}.{leaf}", optional=True))
    rows += map_weight_and_bias(f"{theirs}.norm1", f"{ours}.norm1")
    for leaf in ("attn.q_bias", "attn.v_bias"):
        rows.append(Row(f"{theirs}.{leaf}", f"{ours}.{leaf}", optional=True))
    rows.append(Row(f"{theirs}.attn.qkv.weight", f"{ours}.attn.qkv.weight"))
    for module in ("attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
        rows += map_weight_and_bias(f"{theirs}.{module}", f"{ours}.{module}")
    return rows


def map_trunk(prefix: str, depth: int) -> list[Row]:
    """The patch embedding and the blocks, without the norm behind them."""
    rows = map_weight_and_bias(f"{prefix}patch_embed.proj", "encoder.patch")
    for i in range(depth):
        rows += map_block(f"{prefix}blocks.{i}", f"encoder.blocks.{i}")
    return rows


def map_pretraining(depth: int, dec_depth: int) -> list[Row]:
    rows = [
        Row("mask_token", "pixels.mask_token", "flat"),
        *map_trunk("encoder.", depth),
        *map_weight_and_bias("encoder.norm", "encoder.norm"),
    ]
    for i in range(dec_depth):
        rows += map_block(f"decoder.blocks.{i}", f"pixels.blocks.{i}")
    rows += map_weight_and_bias("decoder.norm", "pixels.last")
    rows += map_weight_and_bias("decoder.head", "pixels.out")
    return [*rows, Row("encoder_to_decoder.weight", "pixels.bridge.weight")]


def map_encoder(norm: str, depth: int) -> list[Row]:
    """An encoder whose last norm is called `norm`, with or without a classifier."""
    return [
        *map_trunk("", depth),
        *map_weight_and_bias(norm, "encoder.norm"),
        *map_weight_and_bias("head", "head", optional=True),
    ]


LAYOUTS = (
    Layout(
        name="videomae",
        title="VideoMAE pretraining checkpoint",
        licence=LICENCE,
        marker_keys=("encoder.patch_embed.proj.weight", "encoder_to_decoder.weight"),
        counted_keys=(
            ("encoder.blocks.", "encoder.blocks."),
            ("decoder.blocks.", "pixels.blocks."),
        ),
        make_rows=map_pretraining,
        describe=vit.describe_videomae,
        positions=("sincos",),
        wrapper="model",
    ),
    Layout(
        name="videomae-finetuned",
        title="fine-tuned VideoMAE checkpoint",
        licence=LICENCE,
        marker_keys=("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "fc_norm.weight"),
        counted_keys=(("blocks.", "encoder.blocks."),),
        make_rows=partial(map_encoder, "fc_norm"),
        describe=vit.describe_videomae,
        positions=("sincos",),
        wrapper="module",
    ),
    Layout(
        name="videomae-encoder",
        title="VideoMAE encoder",
        licence=LICENCE,
        marker_keys=("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.weight"),
        counted_keys=(("blocks.", "encoder.blocks."),),
        make_rows=partial(map_encoder, "norm"),
        describe=vit.describe_videomae,
        positions=("sincos",),
        wrapper="model",
    ),
)
