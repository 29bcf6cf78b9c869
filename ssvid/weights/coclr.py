"""CoCLR's S3D <-> our `s3d` (layout: TengdaHan/CoCLR, weights Apache-2.0). Each layer stands there under two names."""

from ssvid.weights.layout import Layout, Net, Row, State

# Registered line by line, and behind each line its layers again, as block1, block2, ... "" is a pool.
LAYERS = (
    ("Conv_1a",),
    ("", "Conv_2b", "Conv_2c"),
    ("", "Mixed_3b", "Mixed_3c"),
    ("", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"),
    ("", "Mixed_5b", "Mixed_5c"),
)
STEM = {"Conv_1a": "encoder.stem.0", "Conv_2b": "encoder.stem.2", "Conv_2c": "encoder.stem.3"}
PLAIN = (("conv", "0"), ("bn", "1"))  # theirs, and the place in our Sequential
SEPARABLE = (("conv1", "0"), ("conv2", "3"), ("bn1", "1"), ("bn2", "4"))
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def leaves(theirs: str, ours: str, parts: tuple[tuple[str, str], ...]) -> list[Row]:
    return [
        Row(f"{theirs}.{part}.{leaf}", f"{ours}.{place}.{leaf}")
        for part, place in parts
        for leaf in (("weight",) if part.startswith("conv") else NORM)
    ]


def layer(theirs: str, name: str) -> list[Row]:
    if name in STEM:
        return leaves(theirs, STEM[name], PLAIN if name == "Conv_2b" else SEPARABLE)
    ours = f"encoder.mixed{name[6]}.{'bcdef'.index(name[7])}.branches"
    rows = leaves(f"{theirs}.branch0.0", f"{ours}.0", PLAIN)
    for b in (1, 2):
        rows += leaves(f"{theirs}.branch{b}.0", f"{ours}.{b}.0", PLAIN)
        rows += leaves(f"{theirs}.branch{b}.1", f"{ours}.{b}.1", SEPARABLE)
    return rows + leaves(f"{theirs}.branch3.1", f"{ours}.3.1", PLAIN)


def rows() -> list[Row]:
    found = []
    for number, names in enumerate(LAYERS, 1):
        for name in filter(None, names):
            found += layer(name, name)
        for place, name in enumerate(names):
            again = layer(f"block{number}.{place}", name) if name else []
            found += [row._replace(optional=True) for row in again]  # trimmed files lack them
    return found


def describe(ours: State) -> Net:
    width = ours["encoder.stem.0.0.weight"].shape[0] / 64
    return Net("s3d", {} if width == 1 else {"width": width})


LAYOUTS = (
    Layout(
        name="coclr-s3d",
        title="S3D of CoCLR",
        licence="Apache-2.0",
        mark=("Conv_1a.conv1.weight", "Mixed_5c.branch0.0.conv.weight"),
        counted=(),
        rows=rows,
        describe=describe,
        wrapper="state_dict",
    ),
)
