"""CoCLR's checkpoints <-> our `s3d`, `infonce`, `coclr`.

The layout is that of TengdaHan/CoCLR; the weights are under Apache-2.0.
Each layer of the net stands in the files under two names; a trimmed file may lack the second. Our
queue counts all keys that were ever pushed. Theirs holds the position of the next key, and a mark
at each position that was filled.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ssvid.weights.layout import Layout, Net, Row, State

LICENCE = "Apache-2.0"
# The code registers the layers line by line. Behind each line it registers the same layers again,
# as block1, block2, ... "" is a pool.
LAYERS = (
    ("Conv_1a",),
    ("", "Conv_2b", "Conv_2c"),
    ("", "Mixed_3b", "Mixed_3c"),
    ("", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"),
    ("", "Mixed_5b", "Mixed_5c"),
)
STEM = {"Conv_1a": "stem.0", "Conv_2b": "stem.2", "Conv_2c": "stem.3"}
# Modules of a convolution: their name, and the position in our Sequential.
PLAIN = (("conv", "0"), ("bn", "1"))
SEPARABLE = (("conv1", "0"), ("conv2", "3"), ("bn1", "1"), ("bn2", "4"))
LEARNT = ("weight", "bias")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# A key of theirs and of ours. Every net has the first; GATES and MEAN show gates and statistics.
FIRST = ("Conv_1a.conv1.weight", "stem.0.0.weight")
GATES = ("Mixed_3b.gating_b0.fc.weight", "mixed3.0.gates.0.linear.weight")
MEAN = ("Conv_1a.bn1.running_mean", "stem.0.1.running_mean")
EMPTY = -1  # in a column of the queue: no key was pushed to this position yet


class Branch(NamedTuple):
    """The prefixes of an encoder with its projection head."""

    theirs: str  # of both
    encoder: str  # of ours
    head: str  # of ours


QUERY = Branch("encoder_q.", "encoder.", "head.")
KEY = Branch("encoder_k.", "key_encoder.", "key_head.")
SAMPLER = Branch("sampler.", "sampler.", "sampler_head.")


def map_convolution(
    theirs: str, ours: str, modules: tuple[tuple[str, str], ...], norm_leaves: tuple[str, ...]
) -> list[Row]:
    rows = []
    for module, position in modules:
        for leaf in ("weight",) if module.startswith("conv") else norm_leaves:
            rows.append(Row(f"{theirs}.{module}.{leaf}", f"{ours}.{position}.{leaf}"))
    return rows


def map_layer(theirs: str, name: str, gated: int, norm_leaves: tuple[str, ...]) -> list[Row]:
    """The rows of the layer `name`, under their name `theirs` of it."""
    if name in STEM:
        modules = PLAIN if name == "Conv_2b" else SEPARABLE
        return map_convolution(theirs, STEM[name], modules, norm_leaves)
    ours = f"mixed{name[6]}.{'bcdef'.index(name[7])}"
    rows = map_convolution(f"{theirs}.branch0.0", f"{ours}.branches.0", PLAIN, norm_leaves)
    for b in (1, 2):
        first, second = f"{theirs}.branch{b}.0", f"{theirs}.branch{b}.1"
        rows += map_convolution(first, f"{ours}.branches.{b}.0", PLAIN, norm_leaves)
        rows += map_convolution(second, f"{ours}.branches.{b}.1", SEPARABLE, norm_leaves)
    rows += map_convolution(f"{theirs}.branch3.1", f"{ours}.branches.3.1", PLAIN, norm_leaves)
    for b in range(4 * gated):
        for leaf in LEARNT:
            row = Row(f"{theirs}.gating_b{b}.fc.{leaf}", f"{ours}.gates.{b}.linear.{leaf}")
            rows.append(row)
    return rows


def map_net(theirs: str, ours: str, gated: int, has_statistics: int) -> list[Row]:
    """An S3D under both names of each layer, with a prefix for theirs and one for ours."""
    rows: list[Row] = []
    norm_leaves = LEARNT + STATISTICS * has_statistics
    for number, names in enumerate(LAYERS, 1):
        for name in filter(None, names):
            rows += map_layer(name, name, gated, norm_leaves)
        for position, name in enumerate(names):
            if name:
                for row in map_layer(f"block{number}.{position}", name, gated, norm_leaves):
                    rows.append(row._replace(optional=True))  # trimmed files lack the second names
    return [row._replace(theirs=theirs + row.theirs, ours=ours + row.ours) for row in rows]


def map_s3d(gated: int = 0, has_statistics: int = 1) -> list[Row]:
    return map_net("", "encoder.", gated, has_statistics)


def map_branch(branch: Branch, gated: int, has_statistics: int) -> list[Row]:
    """An encoder and its head. In their Sequential, 0 is the net, 1 a pool and 3 a ReLU."""
    theirs, encoder, head = branch
    rows = map_net(f"{theirs}0.", encoder, gated, has_statistics)
    for position, ours in (("2", f"{head}0"), ("4", f"{head}2")):
        rows.append(Row(f"{theirs}{position}.weight", f"{ours}.weight", "point", optional=True))
        rows.append(Row(f"{theirs}{position}.bias", f"{ours}.bias", optional=True))
    return rows


def map_pretraining(*counts: int, columns: tuple[Row, ...] = ()) -> list[Row]:
    """A pretraining checkpoint. The buffers of a module stand before its submodules.

    `counts`: gates, batch-norm statistics, key encoder and sampler, each 1 if the file has it.
    `columns`: the buffers that its queue has beside keys and pointer.
    """
    gated, has_statistics, *has_branch = counts
    rows = [
        Row("queue", "queue.keys", "turned", True),
        Row("queue_ptr", "queue.pushed", "single", True),
        *columns,
    ]
    rows += map_branch(QUERY, gated, has_statistics)
    for branch, count in zip((KEY, SAMPLER), has_branch, strict=False):
        rows += map_branch(branch, gated, has_statistics) * count
    return rows


def add_prefixes(branch: Branch, key: tuple[str, str]) -> tuple[str, str]:
    """A key of the net, as theirs and ours have it in a branch."""
    return f"{branch.theirs}0.{key[0]}", f"{branch.encoder}{key[1]}"


def mark_filled(pushed: Tensor, length: int) -> Tensor:
    """Their mark at each position of a queue of this length: 1 if filled, else EMPTY."""
    is_filled = torch.arange(length, device=pushed.device) < pushed
    return torch.where(is_filled, 1, EMPTY)


def count_pushed_keys(ours: State) -> State:
    """Turn their pointer into our count of pushed keys. The state is changed in place.

    A queue without an empty position is full, wherever its next key goes. CoCLR's marks follow from
    the count and are left out. Marks that do not follow, which no version of its code makes, stay.
    """
    marks = ours.get("queue.label", ours.get("queue.filled"))
    if marks is None or "queue.pushed" not in ours:
        return ours
    pushed = ours["queue.pushed"] + len(marks) * bool((marks != EMPTY).all())
    for key in ("queue.pushed", "second.pushed"):
        if key in ours:
            ours[key] = pushed.clone()
    if "queue.filled" in ours and torch.equal(
        mark_filled(pushed, len(marks)), ours["queue.filled"]
    ):
        del ours["queue.filled"]
    return ours


def set_pointer(ours: State) -> State:
    """Turn our count of pushed keys into their pointer to the next key, and add CoCLR's marks."""
    state = dict(ours)
    if {"queue.pushed", "queue.keys"} <= ours.keys():
        length = len(ours["queue.keys"])
        for key in ("queue.pushed", "second.pushed"):
            if key in ours:
                state[key] = ours[key] % length
        if "queue.source" in ours:
            state.setdefault("queue.filled", mark_filled(ours["queue.pushed"], length))
    return state


def describe(ours: State) -> Net:
    """The encoder; the objective too if query, keys and queue are complete."""
    kwargs = {
        "width": ours[f"encoder.{FIRST[1]}"].shape[0] / 64,
        "gating": f"encoder.{GATES[1]}" in ours,
        "running_stats": f"encoder.{MEAN[1]}" in ours,
    }
    net = Net("s3d", kwargs, note="RGB or flow: no tensor shows which")
    required = {
        "head.2.weight",
        "key_head.2.weight",
        f"key_encoder.{FIRST[1]}",
        "queue.keys",
        "queue.pushed",
    }
    if not required <= ours.keys():
        return net
    settings: dict[str, int | str] = {
        "dim": ours["head.2.weight"].shape[0],
        "queue": len(ours["queue.keys"]),
    }
    if "queue.label" in ours:
        settings["positives"] = "label"
    objective = "coclr" if "queue.source" in ours else "infonce"
    return net._replace(objective=objective, settings=settings)


LAST_BLOCK = "Mixed_5c.branch0.0.conv.weight"
MARKER_KEYS = (f"encoder_q.0.{FIRST[0]}", f"encoder_q.0.{LAST_BLOCK}")
COUNTED_KEYS = (add_prefixes(QUERY, GATES), add_prefixes(QUERY, MEAN), add_prefixes(KEY, FIRST))
S3D = Layout(
    name="coclr-s3d",
    title="S3D of CoCLR",
    licence=LICENCE,
    marker_keys=(FIRST[0], LAST_BLOCK),
    counted_keys=tuple((theirs, f"encoder.{ours}") for theirs, ours in (GATES, MEAN)),
    make_rows=map_s3d,
    describe=describe,
    wrapper="state_dict",
)
INFONCE = Layout(
    name="infonce",
    title="pretraining checkpoint (InfoNCE of CoCLR)",
    licence=LICENCE,
    marker_keys=MARKER_KEYS,
    counted_keys=COUNTED_KEYS,
    make_rows=map_pretraining,
    describe=describe,
    wrapper="state_dict",
    after_reading=count_pushed_keys,
    before_writing=set_pointer,
)
UBERNCE = replace(
    INFONCE,
    name="ubernce",
    title="pretraining checkpoint (UberNCE of CoCLR)",
    marker_keys=(*MARKER_KEYS, "queue_label"),
    make_rows=partial(map_pretraining, columns=(Row("queue_label", "queue.label"),)),
)
COCLR_COLUMNS = (
    Row("queue_ptr", "second.pushed", "single", optional=True),
    Row("queue_second", "second.keys", "turned", optional=True),
    Row("queue_vname", "queue.source", optional=True),
    Row("queue_label", "queue.filled", optional=True),
)
COCLR = replace(
    INFONCE,
    name="coclr",
    title="pretraining checkpoint (CoCLR)",
    marker_keys=(*MARKER_KEYS, f"sampler.0.{FIRST[0]}|queue_vname"),
    counted_keys=(*COUNTED_KEYS, add_prefixes(SAMPLER, FIRST)),
    make_rows=partial(map_pretraining, columns=COCLR_COLUMNS),
)
# Layouts with more markers stand first, because the first layout that matches is taken.
LAYOUTS = (S3D, COCLR, UBERNCE, INFONCE)
