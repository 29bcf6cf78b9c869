"""CoCLR's S3D -> our `s3d` (layout: TengdaHan/CoCLR). Each layer stands twice there; the canonical name is taken."""

from torch import Tensor

LAYERS = {"Conv_1a": "stem.0", "Conv_2b": "stem.2", "Conv_2c": "stem.3"}
PARTS = {"conv": "0", "bn": "1", "conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4"}  # places in a Sequential


def s3d_to_ours(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """`block1.* ... block5.*` name the same tensors again and are left out."""
    return {rename(k): v for k, v in theirs.items() if not k.startswith("block")}


def rename(key: str) -> str:
    layer, *inner, part, leaf = key.split(".")
    if layer.startswith("Mixed_"):
        stage, letter = layer[6], layer[7]
        layer = f"mixed{stage}.{'bcdef'.index(letter)}"
        inner = ["branches.0"] if inner[0] == "branch0" else [inner[0].replace("branch", "branches."), *inner[1:]]
    else:
        layer = LAYERS[layer]
    return ".".join([layer, *inner, PARTS[part], leaf])
