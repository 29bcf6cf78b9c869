"""mae_st's checkpoints <-> our `vit` and `mae`.

The layout is that of facebookresearch/mae_st; the weights are under CC-BY-NC-4.0.
Theirs has three linear maps q, k, v where ours has one product with three biases. Their one table
`pos_embed` may hold the position of the class token in its first row. SlowFast writes the same keys
under `model_state`. A fine-tuned model normalises the mean of its tokens; ours takes the mean of
normalised tokens: see videomae.py.
"""

from functools import partial

from ssvid.weights import vit
from ssvid.weights.layout import Layout, Row, map_weight_and_bias

LICENCE = "CC-BY-NC-4.0"
COUNTED_KEYS = (
    ("blocks.", "encoder.blocks."),
    ("cls_token", "encoder.cls"),
    ("pos_embed_spatial", "encoder.positions.space"),
)


def map_block(theirs: str, ours: str) -> list[Row]:
    rows = map_weight_and_bias(f"{theirs}.norm1", f"{ours}.norm1")
    for q in "qkv":
        rows.append(Row(f"{theirs}.attn.{q}.weight", f"{ours}.attn.qkv.weight", q))
        rows.append(Row(f"{theirs}.attn.{q}.bias", f"{ours}.attn.{q}_bias", optional=True))
    for module in ("attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
        rows += map_weight_and_bias(f"{theirs}.{module}", f"{ours}.{module}")
    return rows


def map_positions(theirs: str, ours: str, cls: int, separable: int) -> list[Row]:
    """One table for space, one for time and one for the class token; or one table for all."""
    if separable:
        tables = (("spatial", "space"), ("temporal", "time"), ("class", "cls"))
        return [Row(f"{theirs}_{a}", f"{ours}.{b}") for a, b in tables[: 2 + cls]]
    return [Row(theirs, ours, "joined") if cls else Row(theirs, f"{ours}.table")]


def map_net(
    has_decoder: bool, depth: int, cls: int, separable: int, dec_depth: int = 0
) -> list[Row]:
    rows = []
    if cls:
        rows.append(Row("cls_token", "encoder.cls"))
    if cls and has_decoder:
        rows.append(Row("decoder_cls_token", "pixels.cls", "flat"))
    rows += map_positions("pos_embed", "encoder.positions", cls, separable)
    if has_decoder:
        rows.append(Row("mask_token", "pixels.mask_token", "flat"))
        rows += map_positions("decoder_pos_embed", "pixels.positions", cls, separable)
    rows += map_weight_and_bias("patch_embed.proj", "encoder.patch")
    for i in range(depth):
        rows += map_block(f"blocks.{i}", f"encoder.blocks.{i}")
    rows += map_weight_and_bias("norm", "encoder.norm")
    if not has_decoder:
        return [*rows, *map_weight_and_bias("head", "head", optional=True)]
    rows += map_weight_and_bias("decoder_embed", "pixels.bridge")
    for i in range(dec_depth):
        rows += map_block(f"decoder_blocks.{i}", f"pixels.blocks.{i}")
    rows += map_weight_and_bias("decoder_norm", "pixels.last")
    return rows + map_weight_and_bias("decoder_pred", "pixels.out")


LAYOUTS = (
    Layout(
        name="mae_st",
        title="mae_st pretraining checkpoint",
        licence=LICENCE,
        marker_keys=("patch_embed.proj.weight", "blocks.0.attn.q.weight", "decoder_pred.weight"),
        counted_keys=(*COUNTED_KEYS, ("decoder_blocks.", "pixels.blocks.")),
        make_rows=partial(map_net, True),
        describe=vit.describe_mae_st,
        positions=("separable", "joint"),
        wrapper="model",
    ),
    Layout(
        name="mae_st-finetuned",
        title="fine-tuned mae_st checkpoint",
        licence=LICENCE,
        marker_keys=("patch_embed.proj.weight", "blocks.0.attn.q.weight", "norm.weight"),
        counted_keys=COUNTED_KEYS,
        make_rows=partial(map_net, False),
        describe=vit.describe_mae_st,
        positions=("separable", "joint"),
        wrapper="model",
    ),
)
