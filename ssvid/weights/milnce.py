"""MIL-NCE's checkpoints <-> our `s3dg`, `mil_nce` (layouts: antoine77340/S3D_HowTo100M and MIL-NCE_HowTo100M).

The released net (stem s2d) and those of its training code (stem plain) have the same keys. Words lie in a file of their
own, whose order is that of the rows of the table: the first row, of no word, is padding.
"""

from typing import Any

from ssvid.encoders.s3d import MIXED
from ssvid.errors import UserError
from ssvid.weights.layout import Layout, Net, Row, State, both

LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# Of each stem: channels that its first convolution takes, and how its net was trained.
STEMS: dict[int, dict[str, Any]] = {
    24: {"stem": "s2d", "frames": 32, "fps": 10.0, "size": 200},
    3: {"stem": "plain", "frames": 16, "fps": 5.0, "size": 224},
}
FIRST, TABLE, HEAD = "encoder.stem.0.0.weight", "tower.table.weight", "head.weight"
# A branch of a Mixed block: theirs, ours, and how many convolutions it has.
BRANCHES = (
    ("conv_b0", "0", 1),
    ("conv_b1_a", "1.0", 1),
    ("conv_b1_b", "1.1", 2),
    ("conv_b2_a", "2.0", 1),
    ("conv_b2_b", "2.1", 2),
    ("conv_b3_b", "3.1", 1),
)


def convs(theirs: str, ours: str, number: int) -> list[Row]:
    rows: list[Row] = []
    for i in range(number):
        rows.append(Row(f"{theirs}.conv{i + 1}.weight", f"{ours}.{3 * i}.weight"))
        rows += [Row(f"{theirs}.bn{i + 1}.{leaf}", f"{ours}.{3 * i + 1}.{leaf}") for leaf in LEAVES]
    return rows


def net() -> list[Row]:
    rows = [*convs("conv1", "encoder.stem.0", 1), *convs("conv_2b", "encoder.stem.2", 1)]
    rows += [
        *convs("conv_2c", "encoder.stem.3.0", 2),
        *both("gating.fc", "encoder.stem.3.1.linear"),
    ]
    for name in MIXED:
        theirs, ours = f"mixed_{name}", f"encoder.mixed{name[0]}.{'bcdef'.index(name[1])}"
        for branch, place, number in BRANCHES:
            rows += convs(f"{theirs}.{branch}", f"{ours}.branches.{place}", number)
        for b in range(4):
            rows += both(f"{theirs}.gating_b{b}.fc", f"{ours}.gates.{b}.linear")
    return rows


def whole(head: int = 1, text: int = 1) -> list[Row]:
    """An encoder alone may be written, and read where the rest was cut off."""
    rows = net() + both("fc", "head") * head
    if text:
        rows.append(Row("text_module.word_embd.weight", TABLE))
        rows += [*both("text_module.fc1", "tower.first"), *both("text_module.fc2", "tower.last")]
    return rows


def describe(ours: State) -> Net:
    outs, ins = ours[FIRST].shape[:2]
    if ins not in STEMS:
        raise UserError(
            f"its first convolution takes {ins} channels, and there are only nets of 24 and of 3."
        )
    found = Net("s3dg", {"width": outs / 64, **STEMS[ins]})
    if not {HEAD, TABLE, "tower.first.weight"} <= ours.keys():
        return found
    rows, width = ours[TABLE].shape
    text = {
        "buckets": rows - 1,
        "width": width,
        "hidden": ours["tower.first.weight"].shape[0],
        "trained": False,
    }
    return found._replace(
        objective="mil_nce", settings={"dim": ours[HEAD].shape[0], "options": text}
    )


LAYOUTS = (
    Layout(
        name="milnce",
        title="S3D-G of MIL-NCE",
        licence=None,  # neither repository states one for its weights
        mark=("conv1.conv1.weight", "gating.fc.weight", "mixed_5c.conv_b0.conv1.weight"),
        counted=(("fc.weight", HEAD), ("text_module.word_embd.weight", TABLE)),
        rows=whole,
        describe=describe,
    ),
)
