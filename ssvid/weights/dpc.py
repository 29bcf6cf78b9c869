"""DPC's and MemDPC's checkpoints <-> our `resnet*_2d3d`, `dpc` and `memdpc`.

The layouts are those of TengdaHan/DPC and TengdaHan/MemDPC. Each GRU cell stands in the files
under two names. The first published files have batch norm without running statistics.
"""

from functools import partial

from ssvid.errors import UserError
from ssvid.weights.layout import Layout, Net, Row, State, count_blocks, map_weight_and_bias

LICENCE = "MIT"
STAGES = ("layer1", "layer2", "layer3", "layer4")
NAMES = {(2, 2, 2, 2): "resnet18_2d3d", (3, 4, 6, 3): "resnet34_2d3d"}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def map_norm(theirs: str, ours: str) -> list[Row]:
    rows = map_weight_and_bias(theirs, ours)
    for leaf in STATISTICS:
        rows.append(Row(f"{theirs}.{leaf}", f"{ours}.{leaf}", optional=True))
    return rows


def map_encoder(prefix: str, *blocks: int) -> list[Row]:
    """An encoder with so many blocks in its four stages."""
    rows = [
        Row(f"{prefix}conv1.weight", "encoder.conv1.weight"),
        *map_norm(f"{prefix}bn1", "encoder.bn1"),
    ]
    for stage, n_blocks in zip(STAGES, blocks, strict=True):
        for i in range(n_blocks):
            theirs, ours = f"{prefix}{stage}.{i}", f"encoder.{stage}.{i}"
            for k in "12":
                rows.append(Row(f"{theirs}.conv{k}.weight", f"{ours}.conv{k}.weight"))
                rows += map_norm(f"{theirs}.bn{k}", f"{ours}.bn{k}")
            if i == 0 and stage != "layer1":
                rows.append(Row(f"{theirs}.downsample.0.weight", f"{ours}.downsample.0.weight"))
                rows += map_norm(f"{theirs}.downsample.1", f"{ours}.downsample.1")
    return rows


def map_gru(theirs: str, ours: str, layers: int) -> list[Row]:
    """The cells of a GRU under both of their names; trimmed files may lack the first."""
    rows: list[Row] = []
    for cell, optional in (("ConvGRUCell_{:02}", True), ("cell_list.{}", False)):
        for i in range(layers):
            for gate in ("reset", "update", "out"):
                rows += map_weight_and_bias(
                    f"{theirs}.{cell.format(i)}.{gate}_gate",
                    f"{ours}.cells.{i}.{gate}",
                    optional=optional,
                )
    return rows


PREDICTOR = [
    *map_weight_and_bias("network_pred.0", "predict.0"),
    *map_weight_and_bias("network_pred.2", "predict.2"),
]


def map_dpc(*counts: int) -> list[Row]:
    *blocks, layers = counts
    return [*map_encoder("backbone.", *blocks), *map_gru("agg", "gru", layers), *PREDICTOR]


def map_memdpc(*counts: int) -> list[Row]:
    *blocks, layers, layers_back = counts
    return [
        Row("mb", "memory"),
        *map_encoder("backbone.", *blocks),
        *map_gru("agg_f", "gru", layers),
        *map_gru("agg_b", "gru_back", layers_back),
        *PREDICTOR,
    ]


def describe(ours: State) -> Net:
    """The encoder, and the objective if its tensors are there. UserError if no ResNet fits."""
    blocks = tuple(count_blocks(ours, f"encoder.{stage}.") for stage in STAGES)
    if blocks not in NAMES:
        raise UserError(
            f"its stages have {blocks} blocks, and there are only {', '.join(NAMES.values())} here."
        )
    width = ours["encoder.conv1.weight"].shape[0]
    kwargs = {"width": width, "running_stats": "encoder.bn1.running_mean" in ours}
    if "memory" in ours:
        return Net(NAMES[blocks], kwargs, "memdpc", {"slots": ours["memory"].shape[0]})
    return Net(NAMES[blocks], kwargs, "dpc" if "predict.0.weight" in ours else None)


def list_stages(prefix: str) -> tuple[tuple[str, str], ...]:
    """The counted keys of the four stages."""
    return tuple((f"{prefix}{stage}.", f"encoder.{stage}.") for stage in STAGES)


LAYOUTS = (
    Layout(
        name="dpc",
        title="DPC pretraining checkpoint",
        licence=LICENCE,
        marker_keys=(
            "backbone.conv1.weight",
            "agg.cell_list.0.out_gate.weight",
            "network_pred.0.weight",
        ),
        counted_keys=(*list_stages("backbone."), ("agg.cell_list.", "gru.cells.")),
        make_rows=map_dpc,
        describe=describe,
        wrapper="state_dict",
        prefix="module.",
    ),
    Layout(
        name="memdpc",
        title="MemDPC pretraining checkpoint",
        licence=LICENCE,
        marker_keys=(
            "mb",
            "backbone.conv1.weight",
            "agg_f.cell_list.0.out_gate.weight",
            "network_pred.0.weight",
        ),
        counted_keys=(
            *list_stages("backbone."),
            ("agg_f.cell_list.", "gru.cells."),
            ("agg_b.cell_list.", "gru_back.cells."),
        ),
        make_rows=map_memdpc,
        describe=describe,
        wrapper="state_dict",
    ),
    Layout(
        name="dpc-encoder",
        title="2d3d-ResNet of DPC",
        licence=LICENCE,
        marker_keys=("conv1.weight", "layer1.0.conv1.weight", "layer4.0.downsample.0.weight"),
        counted_keys=list_stages(""),
        make_rows=partial(map_encoder, ""),
        describe=describe,
        wrapper="state_dict",
    ),
)
