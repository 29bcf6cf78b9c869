"""CLIP's, X-CLIP's and CoCa's checkpoints <-> our `clip` and `xclip`, and a start of `video_text`.

Layouts: openai/CLIP (open_clip writes the same names), microsoft/VideoX's X-CLIP, and both in
Hugging Face's form. One table of names per code base serves picture side, text side and joiner.
"""

from functools import partial
from typing import Any

from ssvid.weights.layout import Layout, Net, Row, State, count_blocks, map_weight_and_bias

HEAD = 64  # width of an attention head in nearly every published net; no tensor shows it
# Width of a picture side -> its heads, and whether its net has the exact GELU on both sides.
HUGE = {1280: 16}  # ViT-H/14 of open_clip; OpenAI published no net of that width
NOTE = "taken for one with quick GELU, as OpenAI has it, for no tensor shows which"
OPENAI, HUGGING_FACE = "openai", "huggingface"
MIT = "MIT"
# Modules of a block: theirs, in the order in which they are registered -> ours.
BLOCK = {
    OPENAI: {"ln_1": "norm1", "mlp.c_fc": "fc1", "mlp.c_proj": "fc2", "ln_2": "norm2"},
    HUGGING_FACE: {
        "layer_norm1": "norm1",
        "mlp.fc1": "fc1",
        "mlp.fc2": "fc2",
        "layer_norm2": "norm2",
    },
}
# Of OpenAI's archives and of older files of Hugging Face: numbers that are no weights.
NO_WEIGHTS = (
    "input_resolution",
    "context_length",
    "vocab_size",
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)


def map_attention(style: str, theirs: str, ours: str) -> list[Row]:
    """Attention with one product for query, key and value."""
    if style == OPENAI:
        rows = [Row(f"{theirs}.in_proj_weight", f"{ours}qkv.weight")]
        rows.append(Row(f"{theirs}.in_proj_bias", f"{ours}qkv.bias"))
    else:
        rows = []
        for name in "kvq":  # the order in which they are registered
            for leaf in ("weight", "bias"):
                rows.append(Row(f"{theirs}.{name}_proj.{leaf}", f"{ours}qkv.{leaf}", name))
    return rows + map_weight_and_bias(f"{theirs}.out_proj", f"{ours}proj")


def map_block(style: str, theirs: str, ours: str) -> list[Row]:
    attention = "attn" if style == OPENAI else "self_attn"
    rows = map_attention(style, f"{theirs}.{attention}", f"{ours}.")
    for their_module, our_module in BLOCK[style].items():
        rows += map_weight_and_bias(f"{theirs}.{their_module}", f"{ours}.{our_module}")
    return rows


def map_messages(style: str, theirs: str, ours: str) -> list[Row]:
    rows = map_weight_and_bias(f"{theirs}.message_fc", f"{ours}.fc")
    rows += map_weight_and_bias(f"{theirs}.message_ln", f"{ours}.norm")
    return rows + map_attention(style, f"{theirs}.message_attn", f"{ours}.")


def map_picture_blocks(style: str, image: str, blocks: int, messages: bool) -> list[Row]:
    """The blocks of the picture side. `image`: the prefix of our picture transformer."""
    stack = "visual.transformer.resblocks" if style == OPENAI else "vision_model.encoder.layers"
    rows = []
    for i in range(blocks):
        block = map_block(style, f"{stack}.{i}", f"{image}blocks.{i}")
        message = map_messages(style, f"{stack}.{i}", f"encoder.exchanges.{i}") if messages else []
        rows += [*message, *block] if style == OPENAI else [*block, *message]
    return rows


def map_text_blocks(style: str, blocks: int) -> list[Row]:
    stack = "transformer.resblocks" if style == OPENAI else "text_model.encoder.layers"
    rows = []
    for i in range(blocks):
        rows += map_block(style, f"{stack}.{i}", f"tower.blocks.{i}")
    return rows


def map_joiner(style: str, blocks: int) -> list[Row]:
    stack = "mit.resblocks" if style == OPENAI else "mit.encoder.layers"
    table = "mit.positional_embedding" if style == OPENAI else "mit.position_embedding"
    rows = [Row(table, "encoder.joiner.positions", "batched")]
    for i in range(blocks):
        rows += map_block(style, f"{stack}.{i}", f"encoder.joiner.blocks.{i}")
    return rows


def map_generator(style: str, blocks: int) -> list[Row]:
    """The blocks that change sentences by a clip."""
    norm = "norm" if style == OPENAI else "layernorm"
    rows = [Row("prompts_generator.alpha", "prompts.alpha")]
    rows += map_weight_and_bias(f"prompts_generator.{norm}", "prompts.norm")
    for i in range(blocks):
        theirs, ours = f"prompts_generator.decoder.{i}", f"prompts.blocks.{i}"
        for name in "qkv" if style == OPENAI else "kvq":
            rows.append(Row(f"{theirs}.cross_attn.{name}_proj.weight", f"{ours}.{name}.weight"))
        modules = {"cross_attn.proj": "proj", "norm1": "norm1", "norm3": "norm2"}
        modules |= {"mlp.0": "fc1", "mlp.3": "fc2"}
        for their_module, our_module in modules.items():
            rows += map_weight_and_bias(f"{theirs}.{their_module}", f"{ours}.{our_module}")
    return rows


def map_openai(
    video: bool,
    picture_blocks: int,
    text_blocks: int,
    joiner_blocks: int = 0,
    prompt_blocks: int = 0,
) -> list[Row]:
    """CLIP of OpenAI and open_clip, and with `video` X-CLIP, in the order of their files."""
    image = "encoder.image." if video else "encoder."
    rows = [
        Row("positional_embedding", "tower.positions"),
        Row("text_projection", "tower.project.weight", "turned"),
        Row("logit_scale", "scale"),
    ]
    if video:
        rows.append(Row("prompts_visual_proj", "prompts.project.weight", "turned"))
        rows += map_generator(OPENAI, prompt_blocks) + map_joiner(OPENAI, joiner_blocks)
    rows += [
        Row("visual.class_embedding", f"{image}cls"),
        Row("visual.positional_embedding", f"{image}positions"),
        Row("visual.proj", f"{image}project.weight", "turned"),
        Row("visual.conv1.weight", f"{image}patch.weight"),
        *map_weight_and_bias("visual.ln_pre", f"{image}norm_pre"),
        *map_picture_blocks(OPENAI, image, picture_blocks, video),
        *map_weight_and_bias("visual.ln_post", f"{image}norm"),
        *map_text_blocks(OPENAI, text_blocks),
        Row("token_embedding.weight", "tower.table.weight"),
        *map_weight_and_bias("ln_final", "tower.norm"),
    ]
    if video:
        rows += map_weight_and_bias("prompts_visual_ln", "prompts.norm_visual")
    return rows


def map_huggingface(
    video: bool,
    picture_blocks: int,
    text_blocks: int,
    joiner_blocks: int = 0,
    prompt_blocks: int = 0,
) -> list[Row]:
    """CLIPModel of Hugging Face, and with `video` XCLIPModel, in the order of their files."""
    image = "encoder.image." if video else "encoder."
    rows = [Row("logit_scale", "scale")]
    if video:
        rows.append(Row("prompts_visual_projection", "prompts.project.weight", "turned"))
    rows += [
        Row("text_model.embeddings.token_embedding.weight", "tower.table.weight"),
        Row("text_model.embeddings.position_embedding.weight", "tower.positions"),
        *map_text_blocks(HUGGING_FACE, text_blocks),
        *map_weight_and_bias("text_model.final_layer_norm", "tower.norm"),
        Row("vision_model.embeddings.class_embedding", f"{image}cls"),
        Row("vision_model.embeddings.patch_embedding.weight", f"{image}patch.weight"),
        Row("vision_model.embeddings.position_embedding.weight", f"{image}positions"),
    ]
    blocks = map_picture_blocks(HUGGING_FACE, image, picture_blocks, video)
    norm = map_weight_and_bias("vision_model.post_layernorm", f"{image}norm")
    if video:
        before = map_weight_and_bias("vision_model.pre_layernorm", f"{image}norm_pre")
        rows += [*blocks, *norm, *before]
    else:
        before = map_weight_and_bias("vision_model.pre_layrnorm", f"{image}norm_pre")
        rows += [*before, *blocks, *norm]
    rows.append(Row("visual_projection.weight", f"{image}project.weight"))
    rows.append(Row("text_projection.weight", "tower.project.weight"))
    if video:
        rows += map_weight_and_bias("prompts_visual_layernorm", "prompts.norm_visual")
        rows += map_joiner(HUGGING_FACE, joiner_blocks) + map_generator(HUGGING_FACE, prompt_blocks)
    return rows


def describe_picture(ours: State, image: str) -> dict[str, Any]:
    """The arguments of `clip_vit`."""
    width, _, patch, _ = ours[f"{image}patch.weight"].shape
    side = round((len(ours[f"{image}positions"]) - 1) ** 0.5)
    gelu = {"gelu": "exact"} if width in HUGE else {}
    return {
        **gelu,
        "width": width,
        "depth": count_blocks(ours, f"{image}blocks."),
        "heads": HUGE.get(width, max(1, width // HEAD)),
        "patch": patch,
        "dim": len(ours[f"{image}project.weight"]),
        "size": side * patch,
    }


def describe_text(ours: State) -> dict[str, Any]:
    """The arguments of the tower `clip_text`."""
    dim, width = ours["tower.project.weight"].shape
    picture_width = len(ours.get("encoder.cls", ()))
    gelu: dict[str, Any] = {"gelu": "exact"} if picture_width in HUGE else {}
    if "tower.cls" in ours:  # CoCa's
        gelu = {"gelu": "exact", "class_token": True}
    return {
        **gelu,
        "width": width,
        "layers": count_blocks(ours, "tower.blocks."),
        "heads": max(1, width // HEAD),
        "length": len(ours["tower.positions"]),
        "dim": dim,
    }


def describe_clip(ours: State) -> Net:
    kwargs = describe_picture(ours, "encoder.")
    return Net("clip_vit", kwargs, objective="clip", note="" if "gelu" in kwargs else NOTE)


def describe_xclip(ours: State) -> Net:
    picture = describe_picture(ours, "encoder.image.")
    size = picture.pop("size")
    kwargs = {
        "image": "clip_vit",
        "image_kwargs": picture,
        "frames": len(ours["encoder.joiner.positions"]),
        "size": size,
        "joiner_layers": count_blocks(ours, "encoder.joiner.blocks."),
    }
    return Net("xclip", kwargs, objective="xclip")


def make_layout(style: str, *, video: bool) -> Layout:
    openai = style == OPENAI
    image = "encoder.image." if video else "encoder."
    stacks = (
        ("visual.transformer.resblocks.", "transformer.resblocks.", "mit.resblocks.")
        if openai
        else ("vision_model.encoder.layers.", "text_model.encoder.layers.", "mit.encoder.layers.")
    )
    ours = (f"{image}blocks.", "tower.blocks.", "encoder.joiner.blocks.")
    counted = [*zip(stacks, ours, strict=True)][: 3 if video else 2]
    if video:
        counted.append(("prompts_generator.decoder.", "prompts.blocks."))
    picture = "visual.conv1.weight" if openai else "vision_model.embeddings.patch_embedding.weight"
    name = "X-CLIP" if video else "CLIP"
    return Layout(
        name=("xclip" if video else "clip") + ("" if openai else "-huggingface"),
        title=f"{name} checkpoint" + ("" if openai else " of Hugging Face"),
        licence=MIT,
        marker_keys=(picture, "logit_scale", *(("prompts_generator.alpha",) if video else ())),
        counted_keys=tuple(counted),
        make_rows=partial(map_openai if openai else map_huggingface, video),
        describe=describe_xclip if video else describe_clip,
        wrapper="model" if video and openai else None,
        ignored_keys=NO_WEIGHTS,
    )


def map_coca(picture_blocks: int, text_blocks: int) -> list[Row]:
    """The picture blocks and the text side of CoCa, in open_clip's names.

    The norm behind the picture blocks is that of the pooler's keys.
    """
    rows = [
        Row("logit_scale", "scale"),
        Row("text.positional_embedding", "tower.positions"),
        Row("text.text_projection", "tower.project.weight", "turned"),
        Row("text.cls_emb", "tower.cls"),
        Row("text.token_embedding.weight", "tower.table.weight"),
    ]
    for i in range(text_blocks):
        rows += map_block(OPENAI, f"text.transformer.resblocks.{i}", f"tower.blocks.{i}")
    rows += map_weight_and_bias("text.ln_final", "tower.norm")
    rows += [
        Row("visual.class_embedding", "encoder.cls"),
        Row("visual.positional_embedding", "encoder.positions"),
        Row("visual.conv1.weight", "encoder.patch.weight"),
        *map_weight_and_bias("visual.ln_pre", "encoder.norm_pre"),
        *map_picture_blocks(OPENAI, "encoder.", picture_blocks, False),
        *map_weight_and_bias("visual.attn_pool.ln_k", "encoder.norm"),
    ]
    return rows


def describe_coca(ours: State) -> Net:
    width, _, patch, _ = ours["encoder.patch.weight"].shape
    sizes = {"width": width, "patch": patch, "depth": count_blocks(ours, "encoder.blocks.")}
    return Net("clip_vit", sizes | {"gelu": "exact"}, objective="coca")


COCA = Layout(
    name="coca",
    title="CoCa checkpoint of open_clip",
    licence=MIT,
    marker_keys=("text.cls_emb", "visual.conv1.weight", "visual.attn_pool.query"),
    counted_keys=(
        ("visual.transformer.resblocks.", "encoder.blocks."),
        ("text.transformer.resblocks.", "tower.blocks."),
    ),
    make_rows=map_coca,
    describe=describe_coca,
    ignored_prefixes=("text_decoder.", "visual.attn_pool.", "visual.ln_post.", "visual.proj"),
    only_a_start="its pooler and decoder are not read, so it is no encoder here; give it as --init "
    "of --encoder videoprism_b, and as --objective.text of --objective video_text",
)

LAYOUTS = (
    make_layout(OPENAI, video=True),
    make_layout(HUGGING_FACE, video=True),
    COCA,  # before CLIP's, whose keys it has as well
    make_layout(OPENAI, video=False),
    make_layout(HUGGING_FACE, video=False),
)
