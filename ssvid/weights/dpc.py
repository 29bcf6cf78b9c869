"""DPC's and MemDPC's checkpoints <-> our `resnet*_2d3d`, `dpc`, `memdpc` (layouts: TengdaHan/DPC, TengdaHan/MemDPC).

Each GRU cell stands there under two names. The first published files have batch norm without running statistics.
"""

from functools import partial

from ssvid.errors import UserError
from ssvid.weights.layout import Layout, Net, Row, State, both

LICENCE = "MIT"
STAGES = ("layer1", "layer2", "layer3", "layer4")
NAMES = {(2, 2, 2, 2): "resnet18_2d3d", (3, 4, 6, 3): "resnet34_2d3d"}


def norm(theirs: str, ours: str, optional: bool = False) -> list[Row]:
    rows = both(theirs, ours, optional=optional)
    return rows + [
        Row(f"{theirs}.{leaf}", f"{ours}.{leaf}", optional=True)
        for leaf in ("running_mean", "running_var", "num_batches_tracked")
    ]


def net(prefix: str, *blocks: int) -> list[Row]:
    rows = [
        Row(f"{prefix}conv1.weight", "encoder.conv1.weight"),
        *norm(f"{prefix}bn1", "encoder.bn1"),
    ]
    for stage, number in zip(STAGES, blocks, strict=True):
        for i in range(number):
            theirs, ours = f"{prefix}{stage}.{i}", f"encoder.{stage}.{i}"
            for k in "12":
                rows.append(Row(f"{theirs}.conv{k}.weight", f"{ours}.conv{k}.weight"))
                rows += norm(f"{theirs}.bn{k}", f"{ours}.bn{k}")
            if i == 0 and stage != "layer1":
                rows.append(Row(f"{theirs}.downsample.0.weight", f"{ours}.downsample.0.weight"))
                rows += norm(f"{theirs}.downsample.1", f"{ours}.downsample.1")
    return rows


def gru(theirs: str, ours: str, layers: int) -> list[Row]:
    rows: list[Row] = []
    for cell, again in (("ConvGRUCell_{:02}", True), ("cell_list.{}", False)):
        for i in range(layers):
            for gate in ("reset", "update", "out"):
                rows += both(
                    f"{theirs}.{cell.format(i)}.{gate}_gate",
                    f"{ours}.cells.{i}.{gate}",
                    optional=again,
                )
    return rows


PREDICT = [*both("network_pred.0", "predict.0"), *both("network_pred.2", "predict.2")]


def whole(*counts: int) -> list[Row]:
    *blocks, layers = counts
    return [*net("backbone.", *blocks), *gru("agg", "gru", layers), *PREDICT]


def memory(*counts: int) -> list[Row]:
    *blocks, layers, layers_back = counts
    both_ways = [*gru("agg_f", "gru", layers), *gru("agg_b", "gru_back", layers_back)]
    return [Row("mb", "memory"), *net("backbone.", *blocks), *both_ways, *PREDICT]


def describe(ours: State) -> Net:
    blocks = tuple(
        len({k.split(".")[2] for k in ours if k.startswith(f"encoder.{stage}.")})
        for stage in STAGES
    )
    if blocks not in NAMES:
        raise UserError(
            f"its stages have {blocks} blocks, and there are only {', '.join(NAMES.values())} here."
        )
    width = ours["encoder.conv1.weight"].shape[0]
    kwargs = {"width": width, "running_stats": "encoder.bn1.running_mean" in ours}
    if "memory" in ours:
        return Net(NAMES[blocks], kwargs, "memdpc", {"slots": ours["memory"].shape[0]})
    return Net(NAMES[blocks], kwargs, "dpc" if "predict.0.weight" in ours else None)


def stages(prefix: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"{prefix}{stage}.", f"encoder.{stage}.") for stage in STAGES)


LAYOUTS = (
    Layout(
        name="dpc",
        title="DPC pretraining checkpoint",
        licence=LICENCE,
        mark=("backbone.conv1.weight", "agg.cell_list.0.out_gate.weight", "network_pred.0.weight"),
        counted=(*stages("backbone."), ("agg.cell_list.", "gru.cells.")),
        rows=whole,
        describe=describe,
        wrapper="state_dict",
        prefix="module.",
    ),
    Layout(
        name="memdpc",
        title="MemDPC pretraining checkpoint",
        licence=LICENCE,
        mark=(
            "mb",
            "backbone.conv1.weight",
            "agg_f.cell_list.0.out_gate.weight",
            "network_pred.0.weight",
        ),
        counted=(
            *stages("backbone."),
            ("agg_f.cell_list.", "gru.cells."),
            ("agg_b.cell_list.", "gru_back.cells."),
        ),
        rows=memory,
        describe=describe,
        wrapper="state_dict",
    ),
    Layout(
        name="dpc-encoder",
        title="2d3d-ResNet of DPC",
        licence=LICENCE,
        mark=("conv1.weight", "layer1.0.conv1.weight", "layer4.0.downsample.0.weight"),
        counted=stages(""),
        rows=partial(net, ""),
        describe=describe,
        wrapper="state_dict",
    ),
)
