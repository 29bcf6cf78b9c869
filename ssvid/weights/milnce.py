"""MIL-NCE's checkpoints <-> our `s3dg` and `mil_nce`.

The layouts are those of antoine77340/S3D_HowTo100M and antoine77340/MIL-NCE_HowTo100M. The
released net (stem s2d) and the nets of its training code (stem plain) have the same keys. The
words are in a file of their own, in the order of the rows of the table. The first row belongs to
no word: it is padding.
"""

from typing import Any

from ssvid.encoders.s3d import MIXED
from ssvid.errors import UserError
from ssvid.weights.layout import Layout, Net, Row, State, map_weight_and_bias

LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# Channels that the first convolution takes -> the stem, and how its net was trained.
STEMS: dict[int, dict[str, Any]] = {
    24: {"stem": "s2d", "frames": 32, "fps": 10.0, "size": 200},
    3: {"stem": "plain", "frames": 16, "fps": 5.0, "size": 224},
}
FIRST, TABLE, HEAD = "encoder.stem.0.0.weight", "tower.table.weight", "head.weight"
# Branches of a Mixed block: their name, our name, and the number of convolutions.
BRANCHES = (
    ("conv_b0", "0", 1),
    ("conv_b1_a", "1.0", 1),
    ("conv_b1_b", "1.1", 2),
    ("conv_b2_a", "2.0", 1),
    ("conv_b2_b", "2.1", 2),
    ("conv_b3_b", "3.1", 1),
)


def map_convolutions(theirs: str, ours: str, count: int) -> list[Row]:
    """So many convolutions, each with its batch norm."""
    rows: list[Row] = []
    for i in range(count):
        rows.append(Row(f"{theirs}.conv{i + 1}.weight", f"{ours}.{3 * i}.weight"))
        rows += [Row(f"{theirs}.bn{i + 1}.{leaf}", f"{ours}.{3 * i + 1}.{leaf}") for leaf in LEAVES]
    return rows


def map_encoder() -> list[Row]:
    rows = map_convolutions("conv1", "encoder.stem.0", 1)
    rows += map_convolutions("conv_2b", "encoder.stem.2", 1)
    rows += map_convolutions("conv_2c", "encoder.stem.3.0", 2)
    rows += map_weight_and_bias("gating.fc", "encoder.stem.3.1.linear")
    for name in MIXED:
        theirs, ours = f"mixed_{name}", f"encoder.mixed{name[0]}.{'bcdef'.index(name[1])}"
        for their_branch, our_branch, count in BRANCHES:
            rows += map_convolutions(
                f"{theirs}.{their_branch}", f"{ours}.branches.{our_branch}", count
            )
        for b in range(4):
            rows += map_weight_and_bias(f"{theirs}.gating_b{b}.fc", f"{ours}.gates.{b}.linear")
    return rows


def map_net(has_head: int = 1, has_text: int = 1) -> list[Row]:
    """The encoder, with head and text tower if the file has them: either may have been cut off."""
    rows = map_encoder() + map_weight_and_bias("fc", "head") * has_head
    if has_text:
        rows.append(Row("text_module.word_embd.weight", TABLE))
        rows += map_weight_and_bias("text_module.fc1", "tower.first")
        rows += map_weight_and_bias("text_module.fc2", "tower.last")
    return rows


def describe(ours: State) -> Net:
    """The encoder; the objective too if it has head and text tower. UserError for another stem."""
    outs, ins = ours[FIRST].shape[:2]
    if ins not in STEMS:
        raise UserError(
            f"its first convolution takes {ins} channels, and there are only nets of 24 and of 3."
        )
    net = Net("s3dg", {"width": outs / 64, **STEMS[ins]})
    if not {HEAD, TABLE, "tower.first.weight"} <= ours.keys():
        return net
    rows, width = ours[TABLE].shape
    options = {
        "buckets": rows - 1,
        "width": width,
        "hidden": ours["tower.first.weight"].shape[0],
        "trained": False,
    }
    settings = {"dim": ours[HEAD].shape[0], "options": options}
    return net._replace(objective="mil_nce", settings=settings)


LAYOUTS = (
    Layout(
        name="milnce",
        title="S3D-G of MIL-NCE",
        licence=None,  # neither repository states one for its weights
        marker_keys=("conv1.conv1.weight", "gating.fc.weight", "mixed_5c.conv_b0.conv1.weight"),
        counted_keys=(("fc.weight", HEAD), ("text_module.word_embd.weight", TABLE)),
        make_rows=map_net,
        describe=describe,
    ),
)
