"""CoCLR's checkpoints <-> our `s3d`, `infonce`, `coclr` (layout: TengdaHan/CoCLR, weights Apache-2.0).

Each layer of the net stands there under two names. Of a trimmed file, what is left is read. Ours counts the keys that
were queued; theirs has the place of the next one, and a mark on each place that was filled.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ssvid.weights.layout import Layout, Net, Row, State

LICENCE = "Apache-2.0"
# Registered line by line, and behind each line its layers again, as block1, block2, ... "" is a pool.
LAYERS = (
    ("Conv_1a",),
    ("", "Conv_2b", "Conv_2c"),
    ("", "Mixed_3b", "Mixed_3c"),
    ("", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"),
    ("", "Mixed_5b", "Mixed_5c"),
)
STEM = {"Conv_1a": "stem.0", "Conv_2b": "stem.2", "Conv_2c": "stem.3"}
PLAIN = (("conv", "0"), ("bn", "1"))  # theirs, and the place in our Sequential
SEPARABLE = (("conv1", "0"), ("conv2", "3"), ("bn1", "1"), ("bn2", "4"))
LEARNT = ("weight", "bias")
TRACKED = ("running_mean", "running_var", "num_batches_tracked")
# In every net whole or not at all: a key of theirs, and of ours.
FIRST = ("Conv_1a.conv1.weight", "stem.0.0.weight")
GATES = ("Mixed_3b.gating_b0.fc.weight", "mixed3.0.gates.0.linear.weight")
STATISTICS = ("Conv_1a.bn1.running_mean", "stem.0.1.running_mean")
# Encoder and head of theirs; our encoder, our head.
QUERY, KEY, SAMPLER = (
    ("encoder_q.", "encoder.", "head."),
    ("encoder_k.", "key_encoder.", "key_head."),
    ("sampler.", "sampler.", "sampler_head."),
)
EMPTY = -1  # in a column of the queue: no key was put here yet


def leaves(
    theirs: str, ours: str, parts: tuple[tuple[str, str], ...], norm: tuple[str, ...]
) -> list[Row]:
    return [
        Row(f"{theirs}.{part}.{leaf}", f"{ours}.{place}.{leaf}")
        for part, place in parts
        for leaf in (("weight",) if part.startswith("conv") else norm)
    ]


def layer(theirs: str, name: str, gated: int, norm: tuple[str, ...]) -> list[Row]:
    if name in STEM:
        return leaves(theirs, STEM[name], PLAIN if name == "Conv_2b" else SEPARABLE, norm)
    ours = f"mixed{name[6]}.{'bcdef'.index(name[7])}"
    rows = leaves(f"{theirs}.branch0.0", f"{ours}.branches.0", PLAIN, norm)
    for b in (1, 2):
        rows += leaves(f"{theirs}.branch{b}.0", f"{ours}.branches.{b}.0", PLAIN, norm)
        rows += leaves(f"{theirs}.branch{b}.1", f"{ours}.branches.{b}.1", SEPARABLE, norm)
    rows += leaves(f"{theirs}.branch3.1", f"{ours}.branches.3.1", PLAIN, norm)
    for b in range(4 * gated):
        rows += [
            Row(f"{theirs}.gating_b{b}.fc.{leaf}", f"{ours}.gates.{b}.linear.{leaf}")
            for leaf in LEARNT
        ]
    return rows


def net(theirs: str, ours: str, gated: int, tracked: int) -> list[Row]:
    found: list[Row] = []
    norm = LEARNT + TRACKED * tracked
    for number, names in enumerate(LAYERS, 1):
        for name in filter(None, names):
            found += layer(name, name, gated, norm)
        for place, name in enumerate(names):
            again = layer(f"block{number}.{place}", name, gated, norm) if name else []
            found += [row._replace(optional=True) for row in again]  # trimmed files lack them
    return [row._replace(theirs=theirs + row.theirs, ours=ours + row.ours) for row in found]


def s3d(gated: int = 0, tracked: int = 1) -> list[Row]:
    return net("", "encoder.", gated, tracked)


def branch(names: tuple[str, str, str], gated: int, tracked: int) -> list[Row]:
    """An encoder and the head behind it: 0 is the net, 1 a pool, 3 a ReLU."""
    theirs, encoder, head = names
    rows = net(f"{theirs}0.", encoder, gated, tracked)
    for place, own in (("2", "0"), ("4", "2")):
        rows.append(Row(f"{theirs}{place}.weight", f"{head}{own}.weight", "point", optional=True))
        rows.append(Row(f"{theirs}{place}.bias", f"{head}{own}.bias", optional=True))
    return rows


def contrast(*counts: int, columns: tuple[Row, ...] = ()) -> list[Row]:
    """The buffers of a module stand before its parts."""
    gated, tracked, *there = counts
    rows = [
        Row("queue", "queue.keys", "turned", True),
        Row("queue_ptr", "queue.pushed", "single", True),
        *columns,
    ]
    rows += branch(QUERY, gated, tracked)
    for names, number in zip((KEY, SAMPLER), there, strict=False):
        rows += branch(names, gated, tracked) * number
    return rows


def at(names: tuple[str, str, str], key: tuple[str, str]) -> tuple[str, str]:
    theirs, encoder, _ = names
    return f"{theirs}0.{key[0]}", f"{encoder}{key[1]}"


def filled(pushed: Tensor, places: int) -> Tensor:
    """Their mark on each place."""
    there = torch.arange(places, device=pushed.device) < pushed
    return torch.where(there, 1, EMPTY)


def counted_up(ours: State) -> State:
    """A queue without an empty place is full, wherever the next key goes.

    CoCLR's marks follow from the count and are left out; such as do not, which no version of its code makes, stay.
    """
    marks = ours.get("queue.label", ours.get("queue.filled"))
    if marks is None or "queue.pushed" not in ours:
        return ours
    pushed = ours["queue.pushed"] + len(marks) * bool((marks != EMPTY).all())
    ours |= {key: pushed.clone() for key in ("queue.pushed", "second.pushed") if key in ours}
    if "queue.filled" in ours and torch.equal(filled(pushed, len(marks)), ours["queue.filled"]):
        del ours["queue.filled"]
    return ours


def pointed(ours: State) -> State:
    """The place of the next key, and CoCLR's marks."""
    made = dict(ours)
    if {"queue.pushed", "queue.keys"} <= ours.keys():
        places = len(ours["queue.keys"])
        made |= {
            key: ours[key] % places for key in ("queue.pushed", "second.pushed") if key in ours
        }
        if "queue.source" in ours:
            made.setdefault("queue.filled", filled(ours["queue.pushed"], places))
    return made


def describe(ours: State) -> Net:
    kwargs = {
        "width": ours[f"encoder.{FIRST[1]}"].shape[0] / 64,
        "gating": f"encoder.{GATES[1]}" in ours,
        "running_stats": f"encoder.{STATISTICS[1]}" in ours,
    }
    told = Net("s3d", kwargs, untold="RGB or flow: no tensor tells")
    whole = {
        "head.2.weight",
        "key_head.2.weight",
        f"key_encoder.{FIRST[1]}",
        "queue.keys",
        "queue.pushed",
    }
    if not whole <= ours.keys():
        return told
    settings: dict[str, int | str] = {
        "dim": ours["head.2.weight"].shape[0],
        "queue": len(ours["queue.keys"]),
    }
    if "queue.label" in ours:
        settings["positives"] = "label"
    return told._replace(
        objective="coclr" if "queue.source" in ours else "infonce", settings=settings
    )


MARK = tuple(f"encoder_q.0.{key}" for key in (FIRST[0], "Mixed_5c.branch0.0.conv.weight"))
COUNTED = (at(QUERY, GATES), at(QUERY, STATISTICS), at(KEY, FIRST))
S3D, INFONCE = (
    Layout(
        name="coclr-s3d",
        title="S3D of CoCLR",
        licence=LICENCE,
        mark=(FIRST[0], "Mixed_5c.branch0.0.conv.weight"),
        counted=tuple((theirs, f"encoder.{ours}") for theirs, ours in (GATES, STATISTICS)),
        rows=s3d,
        describe=describe,
        wrapper="state_dict",
    ),
    Layout(
        name="infonce",
        title="pretraining checkpoint (InfoNCE of CoCLR)",
        licence=LICENCE,
        mark=MARK,
        counted=COUNTED,
        rows=contrast,
        describe=describe,
        wrapper="state_dict",
        arrive=counted_up,
        leave=pointed,
    ),
)
UBERNCE = replace(
    INFONCE,
    name="ubernce",
    title="pretraining checkpoint (UberNCE of CoCLR)",
    mark=(*MARK, "queue_label"),
    rows=partial(contrast, columns=(Row("queue_label", "queue.label"),)),
)
MINED = (
    Row("queue_ptr", "second.pushed", "single", optional=True),
    Row("queue_second", "second.keys", "turned", optional=True),
    Row("queue_vname", "queue.source", optional=True),
    Row("queue_label", "queue.filled", optional=True),
)
COCLR = replace(
    INFONCE,
    name="coclr",
    title="pretraining checkpoint (CoCLR)",
    mark=(*MARK, f"sampler.0.{FIRST[0]}|queue_vname"),
    counted=(*COUNTED, at(SAMPLER, FIRST)),
    rows=partial(contrast, columns=MINED),
)
LAYOUTS = (S3D, COCLR, UBERNCE, INFONCE)  # the richer ones first: their marks are more
