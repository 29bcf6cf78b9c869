"""Clip -> the pixels of its tokens.

Only the requested tokens are copied.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ssvid.encoder import Encoder
from ssvid.errors import UserError
from ssvid.shapes import Clip

Cell = tuple[int, int, int]  # frames, pixels, pixels of one token


def patches(
    clip: Clip, cell: Cell, index: Int[Tensor, "B K"] | None = None
) -> Float[Tensor, "B K C p q r"]:
    """The pixels of the tokens at `index`, in its order; of all tokens if it is None.

    Pixels at the border that fill no token are left out, as Conv3d does.
    """
    p, q, r = cell
    t, h, w = (length // side for length, side in zip(clip.shape[2:], cell, strict=True))
    clip = clip[:, :, : t * p, : h * q, : w * r]
    cells = rearrange(clip, "B C (t p) (h q) (w r) -> B t h w C p q r", p=p, q=q, r=r)  # a view
    if index is None:
        return cells.flatten(1, 3)
    row = torch.arange(len(clip), device=clip.device)[:, None]  # B 1
    return cells[row, index // (h * w), index // w % h, index % w]


def check_divisible(owner: str, net: Encoder, frames: int, size: int) -> None:
    """Raise UserError if tubelets do not fill a clip: the remainder would belong to no token.

    `owner`: the objective that hides tokens, for the message.
    """
    assert net.tubelet is not None  # can_skip promises it
    slots, *sides = net.tubelet
    for flag, unit, value, length in (
        ("frames", "frames", frames, slots),
        ("size", "pixels", size, math.lcm(*sides)),
    ):
        if value % length:
            below = value // length * length
            examples = f"{below} or {below + length}" if below else str(length)
            raise UserError(
                f"--clip.{flag} {value}: tokens of {net.name} hold {length} {unit}, so with "
                f"{owner} it must be a multiple of {length}, such as {examples}."
            )
