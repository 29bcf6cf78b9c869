"""Tensors in our names -> the `vit` and the `mae` they belong to.

VideoMAE, mae_st and Hugging Face share this file.
"""

import math
from functools import partial
from typing import Any

from ssvid.encoder import IMAGENET
from ssvid.errors import UserError
from ssvid.weights.layout import Net, State, count_blocks

# Width -> attention heads. No shape shows the number of heads. Nearly all nets have heads that are
# 64 wide; these widths were published with others.
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
    """The encoder and, where there is a decoder, the objective with its settings.

    `published`: settings of the objective that no tensor shows. Raises UserError if the patches are
    not square or not of three colours.
    """
    patch = ours["encoder.patch.weight"]
    if patch.ndim != 5 or patch.shape[1] != 3 or patch.shape[3] != patch.shape[4]:
        raise UserError(
            f"its patches are {tuple(patch.shape[1:])}, not 3 colours x frames x rows x as many "
            "columns."
        )
    dim, tubelet, side = patch.shape[0], patch.shape[2], patch.shape[3]
    kwargs = {
        "dim": dim,
        "depth": count_blocks(ours, "encoder.blocks."),
        **guess_heads(dim, HEADS),
        "patch": side,
        "tubelet": tubelet,
        **describe_block(ours, "encoder.blocks.0."),
        "positions": describe_positions(ours, "encoder.positions"),
        "cls": "encoder.cls" in ours,
        **describe_clip(ours, tubelet, side),
        "mean": mean,
        "std": std,
    }
    if "pixels.bridge.weight" not in ours:
        return Net("vit", kwargs)
    width = ours["pixels.bridge.weight"].shape[0]
    settings = {
        **published,
        "dec_dim": width,
        "dec_depth": count_blocks(ours, "pixels.blocks."),
        **{f"dec_{key}": value for key, value in guess_heads(width, dec_heads).items()},
        **{f"dec_{key}": value for key, value in describe_block(ours, "pixels.blocks.0.").items()},
        "dec_positions": describe_positions(ours, "pixels.positions"),
        "dec_cls": "pixels.cls" in ours,
        "bridge_bias": "pixels.bridge.bias" in ours,
    }
    if "pixels.out.weight" in ours:  # its width shows how many frames each token predicts
        frames = ours["pixels.out.weight"].shape[0] // (3 * side * side)
        if frames != tubelet:
            settings["target_frames"] = frames * kwargs.get("frames", 16) // tubelet
    return Net("vit", kwargs, "mae", settings)


describe_videomae = partial(
    describe, mean=IMAGENET[0], std=IMAGENET[1], dec_heads={640: 8}, published={}
)
describe_mae_st = partial(
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


def guess_heads(width: int, heads_of_width: dict[int, int]) -> dict[str, int]:
    """The argument `heads` of a net of this width; {} where it cannot be guessed."""
    if width in heads_of_width:
        return {"heads": heads_of_width[width]}
    return {"heads": width // 64} if width % 64 == 0 else {}


def describe_block(ours: State, prefix: str) -> dict[str, Any]:
    """The arguments that a block shows: bias, and mlp_ratio and layer_scale if it has them."""
    bias = "none"
    if f"{prefix}attn.k_bias" in ours:
        bias = "qkv"
    elif f"{prefix}attn.v_bias" in ours:
        bias = "qv"
    kwargs: dict[str, Any] = {"bias": bias}
    if f"{prefix}mlp.fc1.weight" in ours:
        rows, dim = ours[f"{prefix}mlp.fc1.weight"].shape
        ratio: float = rows / dim
        while int(dim * ratio) < rows:  # rounding must not lose a row
            ratio = math.nextafter(ratio, math.inf)
        kwargs["mlp_ratio"] = ratio
    if f"{prefix}gamma_1" in ours:
        kwargs["layer_scale"] = 0.1  # VideoMAE's first value; the tensors replace it
    return kwargs


def describe_positions(ours: State, prefix: str) -> str:
    """The kind of position embeddings: separable or joint if they are learnt, else sincos."""
    if f"{prefix}.space" in ours:
        return "separable"
    return "joint" if f"{prefix}.table" in ours else "sincos"


def describe_clip(ours: State, tubelet: int, side: int) -> dict[str, int]:
    """The `frames` and `size` of the clip that learnt positions belong to.

    The clip is taken as square. {} if the positions are not learnt, or if no square fits.
    """
    if "encoder.positions.time" in ours and "encoder.positions.space" in ours:
        n_time = ours["encoder.positions.time"].shape[1]
        n_space = ours["encoder.positions.space"].shape[1]
    elif "encoder.positions.table" in ours:
        # One table does not tell time from space, but all published tables are for 16 frames.
        n_time = 16 // tubelet
        n_space, remainder = divmod(ours["encoder.positions.table"].shape[1], max(n_time, 1))
        if remainder:
            return {}
    else:
        return {}
    edge = math.isqrt(n_space)
    return {"frames": n_time * tubelet, "size": edge * side} if edge * edge == n_space else {}
