"""BLIP's checkpoints <-> our `litevl_retrieval` and `litevl_qa`.

Layouts: salesforce/BLIP's retrieval and question answering, and both in Hugging Face's form. One
table of names per code base serves the nets and their momentum copies.
"""

from functools import partial
from typing import Any

import torch

from ssvid.weights.layout import Layout, Net, Row, State, count_blocks, map_weight_and_bias

HEAD = 64  # width of an attention head in every published net; no tensor shows it
BSD = "BSD-3-Clause"
OFFICIAL, HUGGING_FACE = "official", "huggingface"
PICTURE = {OFFICIAL: "visual_encoder", HUGGING_FACE: "vision_model"}
PICTURE_BLOCKS = {OFFICIAL: "blocks", HUGGING_FACE: "encoder.layers"}
# Modules of a picture block: theirs, in the order in which they are registered -> ours.
PICTURE_BLOCK = {
    OFFICIAL: {"norm1": "norm1", "attn.qkv": "qkv", "attn.proj": "proj", "norm2": "norm2"},
    HUGGING_FACE: {"self_attn.qkv": "qkv", "self_attn.projection": "proj", "layer_norm1": "norm1"},
}
PICTURE_BLOCK[OFFICIAL] |= {"mlp.fc1": "fc1", "mlp.fc2": "fc2"}
PICTURE_BLOCK[HUGGING_FACE] |= {"mlp.fc1": "fc1", "mlp.fc2": "fc2", "layer_norm2": "norm2"}
BERT_BLOCKS = "encoder.layer"
THIRDS = {"query": "q", "key": "k", "value": "v"}
# Numbers of positions, which are no weights.
NO_WEIGHTS = (
    "text_encoder.embeddings.position_ids",
    "text_encoder_m.embeddings.position_ids",
    "text_decoder.bert.embeddings.position_ids",
)
# Keys that only a net in training has: the file of a trained one may lack them.
TEMPERATURE, QUEUES = "temp", ("image_queue", "text_queue")


def map_picture(style: str, theirs: str, ours: str, blocks: int) -> list[Row]:
    if style == OFFICIAL:
        table = {"cls_token": ("cls", "flat"), "pos_embed": ("positions", "batched")}
        patch, norm = "patch_embed.proj", "norm"
    else:
        table = {"embeddings.class_embedding": ("cls", "flat")}
        table["embeddings.position_embedding"] = ("positions", "batched")
        patch, norm = "embeddings.patch_embedding", "post_layernorm"
    rows = [Row(f"{theirs}.{key}", f"{ours}.{name}", kind) for key, (name, kind) in table.items()]
    rows += map_weight_and_bias(f"{theirs}.{patch}", f"{ours}.patch")
    for i in range(blocks):
        block = f"{theirs}.{PICTURE_BLOCKS[style]}.{i}"
        our_block = f"{ours}.blocks.{i}"
        for their_module, our_module in PICTURE_BLOCK[style].items():
            rows += map_weight_and_bias(f"{block}.{their_module}", f"{our_block}.{our_module}")
    return rows + map_weight_and_bias(f"{theirs}.{norm}", f"{ours}.norm")


def map_bert(theirs: str, ours: str, layers: int) -> list[Row]:
    """BERT with cross-attention. Both code bases have the same names."""
    table = f"{theirs}.embeddings"
    rows = [Row(f"{table}.word_embeddings.weight", f"{ours}.table.weight")]
    rows.append(Row(f"{table}.position_embeddings.weight", f"{ours}.positions"))
    rows += map_weight_and_bias(f"{table}.LayerNorm", f"{ours}.norm")
    for i in range(layers):
        rows += map_bert_layer(f"{theirs}.{BERT_BLOCKS}.{i}", f"{ours}.layers.{i}")
    return rows


def map_bert_layer(theirs: str, ours: str) -> list[Row]:
    rows = []
    for name, third in THIRDS.items():
        for leaf in ("weight", "bias"):
            key = f"{theirs}.attention.self.{name}.{leaf}"
            rows.append(Row(key, f"{ours}.attention.qkv.{leaf}", third))
    rows += map_output(f"{theirs}.attention.output", f"{ours}.attention", "proj")
    for name, third in THIRDS.items():
        rows += map_weight_and_bias(f"{theirs}.crossattention.self.{name}", f"{ours}.cross.{third}")
    rows += map_output(f"{theirs}.crossattention.output", f"{ours}.cross", "proj")
    rows += map_weight_and_bias(f"{theirs}.intermediate.dense", f"{ours}.fc1")
    return rows + map_output(f"{theirs}.output", ours, "fc2")


def map_output(theirs: str, ours: str, linear: str) -> list[Row]:
    """The linear map at the end of a branch, and the norm behind the branch."""
    rows = map_weight_and_bias(f"{theirs}.dense", f"{ours}.{linear}")
    return rows + map_weight_and_bias(f"{theirs}.LayerNorm", f"{ours}.norm")


def map_retrieval(style: str, picture_blocks: int, layers: int) -> list[Row]:
    picture = PICTURE[style]
    nets = [
        *map_picture(style, picture, "encoder", picture_blocks),
        *map_bert("text_encoder", "tower.bert", layers),
    ]
    heads = [
        *map_weight_and_bias("vision_proj", "head"),
        *map_weight_and_bias("text_proj", "tower.project"),
        *map_weight_and_bias("itm_head", "matcher"),
    ]
    if style == HUGGING_FACE:
        return nets + heads
    momentum = [
        *map_picture(style, f"{picture}_m", "key_encoder", picture_blocks),
        *map_weight_and_bias("vision_proj_m", "key_head"),
        *map_bert("text_encoder_m", "key_tower.bert", layers),
        *map_weight_and_bias("text_proj_m", "key_tower.project"),
    ]
    return [
        Row(TEMPERATURE, "temperature", optional=True),
        Row("image_queue", "video_queue.keys", "turned", optional=True),
        Row("text_queue", "text_queue.keys", "turned", optional=True),
        Row("idx_queue", "video_queue.names", "batched", optional=True),
        Row("ptr_queue", "video_queue.pushed", "single", optional=True),
        Row("ptr_queue", "text_queue.pushed", "single", optional=True),
        *nets,
        *heads,
        *(row._replace(optional=True) for row in momentum),
    ]


def map_questions(style: str, picture_blocks: int, layers: int, decoder_layers: int) -> list[Row]:
    words = "text_decoder.cls.predictions"
    return [
        *map_picture(style, PICTURE[style], "encoder", picture_blocks),
        *map_bert("text_encoder", "tower.bert", layers),
        *map_bert("text_decoder.bert", "decoder.bert", decoder_layers),
        Row(f"{words}.bias", "decoder.head.bias"),
        *map_weight_and_bias(f"{words}.transform.dense", "decoder.head.transform"),
        *map_weight_and_bias(f"{words}.transform.LayerNorm", "decoder.head.norm"),
        Row(f"{words}.decoder.weight", "decoder.bert.table.weight"),
        Row(f"{words}.decoder.bias", "decoder.head.bias"),
    ]


def complete_training(ours: State) -> State:
    """The state of a training that is over, of which a file has the nets and the queues."""
    if "video_queue.pushed" not in ours:
        return ours
    return {**ours, "progress": torch.ones(())}


def wrap_pointer(ours: State) -> State:
    """The number of keys that were ever pushed, as the position that comes next."""
    wrapped = dict(ours)
    for name in ("video_queue", "text_queue"):
        if f"{name}.pushed" in ours:
            wrapped[f"{name}.pushed"] = ours[f"{name}.pushed"] % len(ours[f"{name}.keys"])
    return wrapped


def describe_picture(ours: State) -> dict[str, Any]:
    """The arguments of `blip_vit`."""
    dim, _, patch, _ = ours["encoder.patch.weight"].shape
    side = round((len(ours["encoder.positions"]) - 1) ** 0.5)
    return {
        "dim": dim,
        "depth": count_blocks(ours, "encoder.blocks."),
        "heads": max(1, dim // HEAD),
        "patch": patch,
        "size": side * patch,
    }


def describe_text(ours: State) -> dict[str, Any]:
    """The arguments of the tower `blip_text`, but for its vocabulary."""
    positions, width = ours["tower.bert.positions"].shape
    project = ours.get("tower.project.weight")
    return {
        "width": width,
        "layers": count_blocks(ours, "tower.bert.layers."),
        "heads": max(1, width // HEAD),
        "dim": None if project is None else len(project),
        "context_dim": ours["tower.bert.layers.0.cross.k.weight"].shape[1],
        "positions": positions,
        "length": min(35, positions),
    }


def describe_retrieval(ours: State) -> Net:
    return Net("blip_vit", describe_picture(ours), objective="litevl_retrieval")


def describe_questions(ours: State) -> Net:
    return Net("blip_vit", describe_picture(ours), objective="litevl_qa")


def make_layout(style: str, *, questions: bool) -> Layout:
    official = style == OFFICIAL
    counted = [
        (f"{PICTURE[style]}.{PICTURE_BLOCKS[style]}.", "encoder.blocks."),
        (f"text_encoder.{BERT_BLOCKS}.", "tower.bert.layers."),
    ]
    if questions:
        counted.append((f"text_decoder.bert.{BERT_BLOCKS}.", "decoder.bert.layers."))
    patch = "patch_embed.proj" if official else "embeddings.patch_embedding"
    last = "text_decoder.cls.predictions.bias" if questions else "itm_head.weight"
    kind = "question answering" if questions else "retrieval"
    return Layout(
        name=("blip-vqa" if questions else "blip") + ("" if official else "-huggingface"),
        title=f"BLIP {kind} checkpoint" + ("" if official else " of Hugging Face"),
        licence=BSD,
        marker_keys=(
            f"{PICTURE[style]}.{patch}.weight",
            "text_encoder.embeddings.word_embeddings.weight",
            last,
        ),
        counted_keys=tuple(counted),
        make_rows=partial(map_questions if questions else map_retrieval, style),
        describe=describe_questions if questions else describe_retrieval,
        wrapper="model" if official else None,
        ignored_keys=NO_WEIGHTS,
        after_reading=complete_training,
        before_writing=wrap_pointer,
    )


LAYOUTS = (
    make_layout(OFFICIAL, questions=True),
    make_layout(HUGGING_FACE, questions=True),
    make_layout(OFFICIAL, questions=False),
    make_layout(HUGGING_FACE, questions=False),
)
