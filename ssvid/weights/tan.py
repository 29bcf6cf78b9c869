"""TAN's checkpoints <-> our `tan` (layout: TengdaHan/TemporalAlignNet).

Its text tower, of word vectors, is called `bert` by one part of the release and `lang_model` by another. A co-trained
file holds student and teacher, and the student's tower once more at the top. There is no encoder in it.
"""

from functools import partial
from typing import Any

import torch

from ssvid.nn.timeline import sine
from ssvid.weights.layout import Layout, Net, Row, State, both

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
STUDENT, TEACHER = ("online.", "aligner."), ("target.", "teacher.")


def tower(name: str, at: str) -> list[Row]:
    return [
        Row(f"{name}.word_embd.weight", f"{at}tower.table.weight"),
        *both(f"{name}.fc1", f"{at}tower.first"),
        *both(f"{name}.fc2", f"{at}tower.last"),
    ]


def aligner(text: str, at: str, video: int, joint: int, head: int) -> list[Row]:
    """In their order; a sine table is a buffer, which a file has after the parameters: a file keeps its own order."""
    rows = [Row(theirs, at + ours) for theirs, ours in TABLES] + tower(text, at)
    for stack, blocks in (("video", video), ("joint", joint)):
        for i in range(blocks):
            names = f"{stack}_temporal_encoder.resblocks.{i}.", f"{at}{stack}.blocks.{i}."
            rows += [
                Row(f"{names[0]}{theirs}{leaf}", f"{names[1]}{ours}{leaf}")
                for theirs, ours in BLOCK
                for leaf in ("weight", "bias")
            ]
    rows += [Row(f"{name}_pre_proj.weight", f"{at}{name}_in.weight") for name in ("video", "text")]
    for theirs, ours in NORMS:
        rows += both(theirs, at + ours)
    return rows + both("mlp", f"{at}mlp") + both("binary_head", f"{at}head") * head


def alone(text: str, video: int, joint: int, head: int) -> list[Row]:
    return aligner(text, STUDENT[1], video, joint, head)


def twins(text: str, video: int, joint: int, head: int) -> list[Row]:
    rows = [
        row._replace(theirs=theirs + row.theirs)
        for theirs, ours in (STUDENT, TEACHER)
        for row in aligner(text, ours, video, joint, head)
    ]
    return rows + tower(text, STUDENT[1])


def describe(ours: State) -> Net:
    """Sizes. Heads, the length of a window and the words themselves leave no trace."""
    at = STUDENT[1]
    table, wide = ours[f"{at}tower.table.weight"], ours[f"{at}tower.first.weight"]
    positions = ours[f"{at}positions"]
    options = {
        "dim": len(ours[f"{at}tower.last.weight"]),
        "hidden": len(wide),
        "width": table.shape[1],
    }
    plain = {"dim": 512, "hidden": 2048, "width": 300}
    settings: dict[str, Any] = {
        "features": ours[f"{at}video_in.weight"].shape[1],
        "dim": positions.shape[1],
        **{f"{name}_layers": blocks(ours, f"{at}{name}.blocks.") for name in ("video", "joint")},
    }
    if torch.allclose(positions.float(), sine(*positions.shape), atol=1e-5):
        settings["positions"] = "sine"
    if f"{at}head.weight" in ours:
        settings["alignability"] = True
    if f"{TEACHER[1]}positions" in ours:
        settings["cotrain"] = "keep"
    if changed := {key: n for key, n in options.items() if n != plain[key]}:
        settings["options"] = changed
    told = f"{len(table) - 1} words, whose list is a file of its own; no tensor tells the heads"
    return Net(None, {}, "tan", settings, untold=told)


def blocks(ours: State, at: str) -> int:
    return len({key[len(at) :].partition(".")[0] for key in ours if key.startswith(at)})


def layout(text: str, *, cotrained: bool) -> Layout:
    theirs, ours = STUDENT if cotrained else ("", STUDENT[1])
    stacks = tuple(
        (f"{theirs}{stack}_temporal_encoder.resblocks.", f"{ours}{stack}.blocks.")
        for stack in ("video", "joint")
    )
    name = "tan" + ("" if text == "bert" else f"-{text}") + ("-cotrained" if cotrained else "")
    return Layout(
        name=name,
        title="co-trained aligner (TAN)" if cotrained else "aligner (TAN)",
        licence=None,  # the release states none of its weights
        mark=(
            f"{theirs}{text}.word_embd.weight",
            f"{theirs}joint_temporal_encoder.resblocks.0.attn.in_proj_weight",
        ),
        counted=(*stacks, (f"{theirs}binary_head.weight", f"{ours}head.weight")),
        rows=partial(twins if cotrained else alone, text),
        describe=describe,
        wrapper="state_dict",
    )


LAYOUTS = tuple(
    layout(text, cotrained=cotrained)
    for cotrained in (True, False)
    for text in ("bert", "lang_model")
)
