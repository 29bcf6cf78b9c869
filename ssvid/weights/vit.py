"""Tensors in our names -> the `vit` and the `mae` they are of. Shared by VideoMAE, mae_st and Hugging Face."""

import math
from functools import partial
from typing import Any

from ssvid.encoder import IMAGENET
from ssvid.errors import UserError
from ssvid.weights.layout import Net, State

# Heads are in no shape. Nearly all are 64 wide; these widths were published with others.
HEADS = {1280: 16, 1408: 16}
KINETICS = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


def describe(
    ours: State,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dec_heads: dict[int, int],
    published: dict[str, Any],
) -> Net:
    """`published`: settings of the objective that no tensor shows."""
    patch = ours["encoder.patch.weight"]
    if patch.ndim != 5 or patch.shape[1] != 3 or patch.shape[3] != patch.shape[4]:
        raise UserError(
            f"its patches are {tuple(patch.shape[1:])}, not 3 colours x frames x rows x as many columns."
        )
    dim, tubelet, side = patch.shape[0], patch.shape[2], patch.shape[3]
    kwargs = {
        "dim": dim,
        "depth": len({key.split(".")[2] for key in ours if key.startswith("encoder.blocks.")}),
        **heads(dim, HEADS),
        "patch": side,
        "tubelet": tubelet,
        **block(ours, "encoder.blocks.0."),
        "positions": positions(ours, "encoder.positions"),
        "cls": "encoder.cls" in ours,
        **lengths(ours, tubelet, side),
        "mean": mean,
        "std": std,
    }
    if "pixels.bridge.weight" not in ours:
        return Net("vit", kwargs)
    width = ours["pixels.bridge.weight"].shape[0]
    settings = {
        **published,
        "dec_dim": width,
        "dec_depth": len({key.split(".")[2] for key in ours if key.startswith("pixels.blocks.")}),
        **{f"dec_{key}": value for key, value in heads(width, dec_heads).items()},
        **{f"dec_{key}": value for key, value in block(ours, "pixels.blocks.0.").items()},
        "dec_positions": positions(ours, "pixels.positions"),
        "dec_cls": "pixels.cls" in ours,
        "bridge_bias": "pixels.bridge.bias" in ours,
    }
    if "pixels.out.weight" in ours:  # predicts so many frames of each token
        frames = ours["pixels.out.weight"].shape[0] // (3 * side * side)
        if frames != tubelet:
            settings["target_frames"] = frames * kwargs.get("frames", 16) // tubelet
    return Net("vit", kwargs, "mae", settings)


of_videomae = partial(describe, mean=IMAGENET[0], std=IMAGENET[1], dec_heads={640: 8}, published={})
of_mae_st = partial(
    describe,
    mean=KINETICS[0],
    std=KINETICS[1],
    dec_heads={512: 16},
    published={
        "mask": "random",
        "norm": "patch",
        "target": "input",
        "augment": "resized_flip",
        "repeat": 4,
    },
)


def heads(width: int, known: dict[int, int]) -> dict[str, int]:
    """Nothing where they cannot be told."""
    if width in known:
        return {"heads": known[width]}
    return {"heads": width // 64} if width % 64 == 0 else {}


def block(ours: State, at: str) -> dict[str, Any]:
    biases = [name for name in ("qkv", "qv") if f"{at}attn.{name[1]}_bias" in ours]
    found: dict[str, Any] = {"bias": biases[0] if biases else "none"}
    if f"{at}mlp.fc1.weight" in ours:
        rows, dim = ours[f"{at}mlp.fc1.weight"].shape
        ratio: float = rows / dim
        while int(dim * ratio) < rows:  # rounding must not lose a row
            ratio = math.nextafter(ratio, math.inf)
        found["mlp_ratio"] = ratio
    if f"{at}gamma_1" in ours:
        found["layer_scale"] = 0.1  # the start that VideoMAE gives it; the tensors replace it
    return found


def positions(ours: State, at: str) -> str:
    learnt = {"separable": "space", "joint": "table"}
    return next((name for name, leaf in learnt.items() if f"{at}.{leaf}" in ours), "sincos")


def lengths(ours: State, tubelet: int, side: int) -> dict[str, int]:
    """The clip that learnt positions are of, which is taken to be square."""
    if "encoder.positions.time" in ours and "encoder.positions.space" in ours:
        slots, places = (
            ours["encoder.positions.time"].shape[1],
            ours["encoder.positions.space"].shape[1],
        )
    elif "encoder.positions.table" in ours:
        slots = (
            16 // tubelet
        )  # one table does not tell time from space: all that is published has 16 frames
        places, rest = divmod(ours["encoder.positions.table"].shape[1], max(slots, 1))
        if rest:
            return {}
    else:
        return {}
    edge = math.isqrt(places)
    return {"frames": slots * tubelet, "size": edge * side} if edge * edge == places else {}
