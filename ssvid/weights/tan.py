"""TAN's checkpoints <-> our `tan` (layout: TengdaHan/TemporalAlignNet).

One part of the release calls the text tower, of word vectors, `bert`; another calls it
`lang_model`. A co-trained file holds student and teacher, and the tower of the student once more
at the top. The files hold no encoder. Here "theirs" is a name in a file of the release, and "ours"
the name of the same tensor in our objective.
"""

from functools import partial
from typing import Any

import torch

from ssvid.nn.timeline import sine
from ssvid.weights.layout import Layout, Net, Row, State, count_blocks, map_weight_and_bias

TABLES = (("temporal_pos_embed", "positions"), ("text_temporal_pos_embed", "text_positions"))
BLOCK = (
    ("attn.in_proj_", "qkv."),
    ("attn.out_proj.", "proj."),
    ("ln_1.", "norm1."),
    ("mlp.c_fc.", "fc1."),
    ("mlp.c_proj.", "fc2."),
    ("ln_2.", "norm2."),
)
NORMS = (
    ("ln_text_init", "text_norm"),
    ("ln_video_init", "video_norm"),
    ("ln_position_init", "position_norm"),
    ("ln_video_post_enc", "video.norm"),
    ("ln_joint_post_enc", "joint.norm"),
)
# Prefixes of a co-trained file: theirs, ours.
STUDENT, TEACHER = ("online.", "aligner."), ("target.", "teacher.")


def map_tower(name: str, prefix: str) -> list[Row]:
    """The text tower; `name` is the release's name of it, `prefix` goes before our names."""
    return [
        Row(f"{name}.word_embd.weight", f"{prefix}tower.table.weight"),
        *map_weight_and_bias(f"{name}.fc1", f"{prefix}tower.first"),
        *map_weight_and_bias(f"{name}.fc2", f"{prefix}tower.last"),
    ]


def map_block(theirs: str, ours: str) -> list[Row]:
    rows = []
    for their_module, our_module in BLOCK:
        for leaf in ("weight", "bias"):
            rows.append(Row(f"{theirs}.{their_module}{leaf}", f"{ours}.{our_module}{leaf}"))
    return rows


def map_aligner(
    tower: str, prefix: str, n_video_blocks: int, n_joint_blocks: int, n_align_heads: int
) -> list[Row]:
    """One aligner; `tower` is the release's name of the text tower, `prefix` goes before our names.

    The numbers count what a file has: blocks of the video encoder and of the joint encoder, and
    heads that say whether a sentence can be aligned (1 or 0). The rows are in the order of the
    release, with one exception: a sine table is a buffer, which a file has after the parameters. A
    file that is written back keeps its own order.
    """
    rows = [Row(theirs, prefix + ours) for theirs, ours in TABLES] + map_tower(tower, prefix)
    for stack, n_blocks in (("video", n_video_blocks), ("joint", n_joint_blocks)):
        for i in range(n_blocks):
            rows += map_block(
                f"{stack}_temporal_encoder.resblocks.{i}", f"{prefix}{stack}.blocks.{i}"
            )
    for name in ("video", "text"):
        rows.append(Row(f"{name}_pre_proj.weight", f"{prefix}{name}_in.weight"))
    for theirs, ours in NORMS:
        rows += map_weight_and_bias(theirs, prefix + ours)
    rows += map_weight_and_bias("mlp", f"{prefix}mlp")
    return rows + map_weight_and_bias("binary_head", f"{prefix}head") * n_align_heads


def map_single(tower: str, *counts: int) -> list[Row]:
    """A file of the first stage, which holds one aligner. `counts`: those of `map_aligner`."""
    return map_aligner(tower, STUDENT[1], *counts)


def map_cotrained(tower: str, *counts: int) -> list[Row]:
    """Student and teacher, and the tower of the student once more.

    `counts`: those of `map_aligner`.
    """
    rows = []
    for theirs, ours in (STUDENT, TEACHER):
        for row in map_aligner(tower, ours, *counts):
            rows.append(row._replace(theirs=theirs + row.theirs))
    return rows + map_tower(tower, STUDENT[1])


def describe(ours: State) -> Net:
    """The settings of the objective. Heads, window length and words leave no trace in tensors."""
    prefix = STUDENT[1]
    table, hidden = ours[f"{prefix}tower.table.weight"], ours[f"{prefix}tower.first.weight"]
    positions = ours[f"{prefix}positions"]
    options = {
        "dim": len(ours[f"{prefix}tower.last.weight"]),
        "hidden": len(hidden),
        "width": table.shape[1],
    }
    defaults = {"dim": 512, "hidden": 2048, "width": 300}
    settings: dict[str, Any] = {
        "features": ours[f"{prefix}video_in.weight"].shape[1],
        "dim": positions.shape[1],
        "video_layers": count_blocks(ours, f"{prefix}video.blocks."),
        "joint_layers": count_blocks(ours, f"{prefix}joint.blocks."),
    }
    if torch.allclose(positions.float(), sine(*positions.shape), atol=1e-5):
        settings["positions"] = "sine"
    if f"{prefix}head.weight" in ours:
        settings["alignability"] = True
    if f"{TEACHER[1]}positions" in ours:
        settings["cotrain"] = "keep"
    if changed := {key: n for key, n in options.items() if n != defaults[key]}:
        settings["options"] = changed
    note = f"{len(table) - 1} words, whose list is a file of its own; no tensor shows the heads"
    return Net(None, {}, "tan", settings, note=note)


def make_layout(tower: str, *, cotrained: bool) -> Layout:
    """The layout of a stage; `tower` is the release's name of the text tower."""
    theirs, ours = STUDENT if cotrained else ("", STUDENT[1])
    stacks = []
    for stack in ("video", "joint"):
        stacks.append((f"{theirs}{stack}_temporal_encoder.resblocks.", f"{ours}{stack}.blocks."))
    name = "tan" + ("" if tower == "bert" else f"-{tower}") + ("-cotrained" if cotrained else "")
    return Layout(
        name=name,
        title="co-trained aligner (TAN)" if cotrained else "aligner (TAN)",
        licence=None,  # the release states none for its weights
        marker_keys=(
            f"{theirs}{tower}.word_embd.weight",
            f"{theirs}joint_temporal_encoder.resblocks.0.attn.in_proj_weight",
        ),
        counted_keys=(*stacks, (f"{theirs}binary_head.weight", f"{ours}head.weight")),
        make_rows=partial(map_cotrained if cotrained else map_single, tower),
        describe=describe,
        wrapper="state_dict",
    )


LAYOUTS = (
    make_layout("bert", cotrained=True),
    make_layout("lang_model", cotrained=True),
    make_layout("bert", cotrained=False),
    make_layout("lang_model", cotrained=False),
)
