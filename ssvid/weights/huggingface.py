"""Hugging Face's VideoMAE <-> our `vit` and `mae` (layout: transformers, weights CC-BY-NC-4.0).

transformers 4 wrote `q_bias` and `v_bias`, 5 writes `query.bias` and `value.bias`. Its default LayerNorm eps is 1e-12;
ours is the 1e-6 that the weights were trained with. With `use_mean_pooling` (its default) the pretraining model has no
final norm, so its encoder is complete only for `partial=True`, which leaves our norm as it starts. `fc_norm` becomes
our `norm`: see videomae.py.
"""

from functools import partial

from ssvid.weights import vit
from ssvid.weights.layout import Layout, Row, both

LICENCE = "CC-BY-NC-4.0"
PATCH = "videomae.embeddings.patch_embeddings.projection.weight"
FIRST = "videomae.encoder.layer.0.attention.attention"


def block(version: int, theirs: str, ours: str) -> list[Row]:
    at = f"{theirs}.attention.attention"
    weights = {
        name: Row(f"{at}.{name}.weight", f"{ours}.attn.qkv.weight", name[0])
        for name in ("query", "key", "value")
    }
    if version == 4:
        rows = [
            Row(f"{at}.{name}_bias", f"{ours}.attn.{name}_bias", optional=True) for name in "qv"
        ]
        rows += weights.values()
    else:
        rows = []
        for name, weight in weights.items():
            rows.append(weight)
            if name != "key":
                rows.append(Row(f"{at}.{name}.bias", f"{ours}.attn.{name[0]}_bias", optional=True))
    parts = {
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
    }
    for part, place in parts.items():
        rows += both(f"{theirs}.{part}", f"{ours}.{place}")
    return rows


def trunk(version: int, depth: int) -> list[Row]:
    rows = both(PATCH.removesuffix(".weight"), "encoder.patch")
    for i in range(depth):
        rows += block(version, f"videomae.encoder.layer.{i}", f"encoder.blocks.{i}")
    return rows


def pretrain(version: int, depth: int, dec_depth: int) -> list[Row]:
    rows = [Row("mask_token", "pixels.mask_token", "flat"), *trunk(version, depth)]
    rows += both("videomae.layernorm", "encoder.norm", optional=True)
    rows.append(Row("encoder_to_decoder.weight", "pixels.bridge.weight"))
    for i in range(dec_depth):
        rows += block(version, f"decoder.decoder_layers.{i}", f"pixels.blocks.{i}")
    return [*rows, *both("decoder.norm", "pixels.last"), *both("decoder.head", "pixels.out")]


def headed(norm: str, version: int, depth: int) -> list[Row]:
    return [
        *trunk(version, depth),
        *both(norm, "encoder.norm"),
        *both("classifier", "head", optional=True),
    ]


def layouts(version: int) -> tuple[Layout, ...]:
    end = "4" if version == 4 else ""
    mark = (PATCH, f"{FIRST}.q_bias" if version == 4 else f"{FIRST}.query.weight")
    spelled = f"Hugging Face VideoMAE{' (transformers 4)' if version == 4 else ''}"
    trunks = ("videomae.encoder.layer.", "encoder.blocks.")
    pretraining = Layout(
        name=f"huggingface{end}",
        title=f"{spelled} pretraining checkpoint",
        licence=LICENCE,
        mark=(*mark, "encoder_to_decoder.weight"),
        counted=(trunks, ("decoder.decoder_layers.", "pixels.blocks.")),
        rows=partial(pretrain, version),
        describe=vit.of_videomae,
        positions=("sincos",),
    )
    others = (("finetuned", "classifier", "fc_norm"), ("encoder", "encoder", "videomae.layernorm"))
    return pretraining, *(
        Layout(
            name=f"huggingface{end}-{name}",
            title=f"{spelled} {what}",
            licence=LICENCE,
            mark=(*mark, f"{norm}.weight"),
            counted=(trunks,),
            rows=partial(headed, norm, version),
            describe=vit.of_videomae,
            positions=("sincos",),
        )
        for name, what, norm in others
    )


LAYOUTS = (*layouts(4), *layouts(5))
