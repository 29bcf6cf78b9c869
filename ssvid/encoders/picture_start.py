"""The weights of CLIP's or CoCa's picture net -> a start for VideoPrism's blocks over space.

VideoPrism's own first stage began from a CoCa, which was not published; open_clip has others. The
nets differ (a class token, a norm before the blocks, uncapped logits, CLIP's quick GELU), so this
is a start and not the same net.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ssvid.errors import UserError
from ssvid.nn.position import resize_grid
from ssvid.shapes import Grid

State = dict[str, Tensor]
MODULES = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}  # theirs -> ours
LEFT_OUT = ("cls", "norm_pre.weight", "norm_pre.bias", "project.weight")


def is_picture_net(state: State) -> bool:
    """Whether the tensors are those of `clip_vit`."""
    return {"cls", "positions", "patch.weight", "blocks.0.qkv.weight"} <= state.keys()


def start_from_pictures(
    state: State,
    *,
    heads: int,
    depth: int,
    patch: int,
    grid: Grid,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> State:
    """The tensors of `clip_vit` in the names of `videoprism`, without its blocks over time.

    `mean`, `std`: of the pixels that the picture net saw; they go into the patches, since ours are
    not normalised. Patches and positions are resized. A UserError for another number of blocks.
    """
    blocks = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    if blocks != depth:
        raise UserError(
            f"These weights have {blocks} blocks, and this encoder {depth} over space: give "
            f"--encoder.space_depth {blocks}."
        )
    kernel = state["patch.weight"]  # D 3 p p
    if kernel.shape[-1] != patch:
        kernel = resize_kernel(kernel, patch)
    channels = torch.tensor(std).view(1, 3, 1, 1).to(kernel)
    kernel = kernel / channels
    shift = kernel * torch.tensor(mean).view(1, 3, 1, 1).to(kernel)
    table = state["positions"][1:]
    side = round(len(table) ** 0.5)
    ours = {
        "patch.weight": kernel[:, :, None],
        "patch.bias": -shift.sum((1, 2, 3)),
        "space_positions": resize_grid(table, Grid(1, side, side), grid),
        "norm_space.scale": state["norm.weight"] - 1,
        "norm_space.bias": state["norm.bias"],
    }
    for i in range(depth):
        theirs, mine = f"blocks.{i}", f"space.{i}"
        for number in (1, 2):
            ours[f"{mine}.norm{number}.scale"] = state[f"{theirs}.norm{number}.weight"] - 1
            ours[f"{mine}.norm{number}.bias"] = state[f"{theirs}.norm{number}.bias"]
        ours[f"{mine}.attn.qkv.weight"] = state[f"{theirs}.qkv.weight"]
        bias = state[f"{theirs}.qkv.bias"]
        ours[f"{mine}.attn.qkv_bias"] = bias.view(3 * heads, -1)
        for module, our_module in MODULES.items():
            for leaf in ("weight", "bias"):
                ours[f"{mine}.{our_module}.{leaf}"] = state[f"{theirs}.{module}.{leaf}"]
    return ours


def resize_kernel(kernel: Tensor, patch: int) -> Tensor:
    """A kernel for patches of another size, whose sum over a constant patch stays."""
    resized = F.interpolate(kernel, (patch, patch), mode="bicubic", align_corners=False)
    total = rearrange(kernel, "D C p q -> D C (p q)").sum(-1)
    new_total = rearrange(resized, "D C p q -> D C (p q)").sum(-1)
    return resized + ((total - new_total) / patch**2)[:, :, None, None]
