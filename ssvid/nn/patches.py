"""Clip -> the pixels of its tokens, of those alone that are wanted: what is dropped is not even copied."""

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
    """Those at `index`, in its order; all without one. A rest that fills no token is left out, as Conv3d does."""
    p, q, r = cell
    t, h, w = (length // side for length, side in zip(clip.shape[2:], cell, strict=True))
    clip = clip[:, :, : t * p, : h * q, : w * r]
    cells = rearrange(clip, "B C (t p) (h q) (w r) -> B t h w C p q r", p=p, q=q, r=r)  # a view
    if index is None:
        return cells.flatten(1, 3)
    each = torch.arange(len(clip), device=clip.device)[:, None]
    return cells[each, index // (h * w), index // w % h, index % w]


def divides(who: str, net: Encoder, frames: int, size: int) -> None:
    """Refuse a clip with a rest that fills no tubelet: it would belong to no token that can be kept or dropped."""
    assert net.tubelet is not None  # can_skip promises it
    slots, *sides = net.tubelet
    for flag, unit, value, part in (
        ("frames", "frames", frames, slots),
        ("size", "pixels", size, math.lcm(*sides)),
    ):
        if value % part:
            near = [str(n) for n in (value // part * part, (value // part + 1) * part) if n]
            raise UserError(
                f"--clip.{flag} {value}: tokens of {net.name} hold {part} {unit}, so with {who} it must be a multiple "
                f"of {part}, such as {' or '.join(near)}."
            )
