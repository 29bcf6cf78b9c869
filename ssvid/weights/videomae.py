"""VideoMAE's checkpoints <-> our `vit` and `mae` (layout: MCG-NJU/VideoMAE, weights CC-BY-NC-4.0).

A fine-tuned model normalises the mean of its tokens (`fc_norm`), our `vit` takes the mean of normalised tokens. Their
`fc_norm` becomes our `norm`: so `pooled` is not quite what their classifier saw, which is
`encoder.norm(encoder(clip, layers=(encoder.depth,)).layers[0].mean(1))`, to the last digit.
"""

from ssvid.weights import vit
from ssvid.weights.layout import Layout, Row, both

LICENCE = "CC-BY-NC-4.0"


def block(theirs: str, ours: str) -> list[Row]:
    def same(leaf: str, optional: bool = False) -> Row:
        return Row(f"{theirs}.{leaf}", f"{ours}.{leaf}", optional=optional)

    rows = [same("gamma_1", True), same("gamma_2", True), *both(f"{theirs}.norm1", f"{ours}.norm1")]
    rows += [same("attn.q_bias", True), same("attn.v_bias", True), same("attn.qkv.weight")]
    for part in ("attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
        rows += both(f"{theirs}.{part}", f"{ours}.{part}")
    return rows


def trunk(prefix: str, depth: int) -> list[Row]:
    rows = both(f"{prefix}patch_embed.proj", "encoder.patch")
    for i in range(depth):
        rows += block(f"{prefix}blocks.{i}", f"encoder.blocks.{i}")
    return rows


def pretrain(depth: int, dec_depth: int) -> list[Row]:
    rows = [
        Row("mask_token", "pixels.mask_token", "flat"),
        *trunk("encoder.", depth),
        *both("encoder.norm", "encoder.norm"),
    ]
    for i in range(dec_depth):
        rows += block(f"decoder.blocks.{i}", f"pixels.blocks.{i}")
    rows += [*both("decoder.norm", "pixels.last"), *both("decoder.head", "pixels.out")]
    return [*rows, Row("encoder_to_decoder.weight", "pixels.bridge.weight")]


def finetuned(depth: int) -> list[Row]:
    return [
        *trunk("", depth),
        *both("fc_norm", "encoder.norm"),
        *both("head", "head", optional=True),
    ]


def encoder(depth: int) -> list[Row]:
    return [*trunk("", depth), *both("norm", "encoder.norm"), *both("head", "head", optional=True)]


LAYOUTS = (
    Layout(
        name="videomae",
        title="VideoMAE pretraining checkpoint",
        licence=LICENCE,
        mark=("encoder.patch_embed.proj.weight", "encoder_to_decoder.weight"),
        counted=(("encoder.blocks.", "encoder.blocks."), ("decoder.blocks.", "pixels.blocks.")),
        rows=pretrain,
        describe=vit.of_videomae,
        positions=("sincos",),
        wrapper="model",
    ),
    Layout(
        name="videomae-finetuned",
        title="fine-tuned VideoMAE checkpoint",
        licence=LICENCE,
        mark=("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "fc_norm.weight"),
        counted=(("blocks.", "encoder.blocks."),),
        rows=finetuned,
        describe=vit.of_videomae,
        positions=("sincos",),
        wrapper="module",
    ),
    Layout(
        name="videomae-encoder",
        title="VideoMAE encoder",
        licence=LICENCE,
        mark=("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.weight"),
        counted=(("blocks.", "encoder.blocks."),),
        rows=encoder,
        describe=vit.of_videomae,
        positions=("sincos",),
        wrapper="model",
    ),
)
