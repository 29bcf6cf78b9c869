"""mae_st's checkpoints <-> our `vit` and `mae` (layout: facebookresearch/mae_st, weights CC-BY-NC-4.0).

Theirs has three linears q, k, v where ours has one product with three biases; and one table `pos_embed` may hold the
class token's position in its first row. SlowFast writes the same keys under `model_state`. A fine-tuned model
normalises the mean of its tokens, ours takes the mean of normalised tokens: see videomae.py.
"""

from functools import partial

from ssvid.weights import vit
from ssvid.weights.layout import Layout, Row, both

LICENCE = "CC-BY-NC-4.0"
COUNTED = (
    ("blocks.", "encoder.blocks."),
    ("cls_token", "encoder.cls"),
    ("pos_embed_spatial", "encoder.positions.space"),
)


def block(theirs: str, ours: str) -> list[Row]:
    rows = both(f"{theirs}.norm1", f"{ours}.norm1")
    for part in "qkv":
        rows.append(Row(f"{theirs}.attn.{part}.weight", f"{ours}.attn.qkv.weight", part))
        rows.append(Row(f"{theirs}.attn.{part}.bias", f"{ours}.attn.{part}_bias", optional=True))
    for part in ("attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
        rows += both(f"{theirs}.{part}", f"{ours}.{part}")
    return rows


def positions(theirs: str, ours: str, cls: int, separable: int) -> list[Row]:
    """One of space, one of time and one for the class token; or one table."""
    if separable:
        parts = (("spatial", "space"), ("temporal", "time"), ("class", "cls"))
        return [Row(f"{theirs}_{a}", f"{ours}.{b}") for a, b in parts[: 2 + cls]]
    return [Row(theirs, ours, "joined") if cls else Row(theirs, f"{ours}.table")]


def rows(decoder: bool, depth: int, cls: int, separable: int, dec_depth: int = 0) -> list[Row]:
    found = [Row("cls_token", "encoder.cls")] if cls else []
    found += [Row("decoder_cls_token", "pixels.cls", "flat")] if cls and decoder else []
    found += positions("pos_embed", "encoder.positions", cls, separable)
    if decoder:
        found.append(Row("mask_token", "pixels.mask_token", "flat"))
        found += positions("decoder_pos_embed", "pixels.positions", cls, separable)
    found += both("patch_embed.proj", "encoder.patch")
    for i in range(depth):
        found += block(f"blocks.{i}", f"encoder.blocks.{i}")
    found += both("norm", "encoder.norm")
    if not decoder:
        return [*found, *both("head", "head", optional=True)]
    found += both("decoder_embed", "pixels.bridge")
    for i in range(dec_depth):
        found += block(f"decoder_blocks.{i}", f"pixels.blocks.{i}")
    return [*found, *both("decoder_norm", "pixels.last"), *both("decoder_pred", "pixels.out")]


LAYOUTS = (
    Layout(
        name="mae_st",
        title="mae_st pretraining checkpoint",
        licence=LICENCE,
        mark=("patch_embed.proj.weight", "blocks.0.attn.q.weight", "decoder_pred.weight"),
        counted=(*COUNTED, ("decoder_blocks.", "pixels.blocks.")),
        rows=partial(rows, True),
        describe=vit.of_mae_st,
        positions=("separable", "joint"),
        wrapper="model",
    ),
    Layout(
        name="mae_st-finetuned",
        title="fine-tuned mae_st checkpoint",
        licence=LICENCE,
        mark=("patch_embed.proj.weight", "blocks.0.attn.q.weight", "norm.weight"),
        counted=COUNTED,
        rows=partial(rows, False),
        describe=vit.of_mae_st,
        positions=("separable", "joint"),
        wrapper="model",
    ),
)
