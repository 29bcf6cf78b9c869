"""Frames and a map -> frames with the heat over them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

COOL, HOT = (255.0, 226.0, 92.0), (208.0, 16.0, 16.0)  # colours of little and of most heat
COVER = 0.7  # of a pixel that the most heat covers
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue


def lay_heat(
    frames: UInt8[Tensor, "T 3 H W"], heat: Float[Tensor, "t h w"]
) -> UInt8[Tensor, "T 3 H W"]:
    """The frames in grey with the heat over them, so that all colour is heat.

    The hottest place of all frames has the full colour. Where a slot of time holds several frames,
    all of them have its heat.
    """
    top = heat.max()
    share = heat / top if top > 0 else heat
    share = repeat_slots(share, len(frames))[:, None].float()
    size = (frames.shape[2], frames.shape[3])
    share = F.interpolate(share, size, mode="bilinear", align_corners=False)
    cool, hot, luma = (share.new_tensor(x).view(1, 3, 1, 1) for x in (COOL, HOT, LUMA))
    grey = (luma * frames).sum(1, keepdim=True)
    colour = cool + (hot - cool) * share
    cover = COVER * share
    return ((1 - cover) * grey + cover * colour).round().to(torch.uint8)


def repeat_slots(heat: Float[Tensor, "t h w"], frames: int) -> Float[Tensor, "T h w"]:
    """The heat of the slot of each frame."""
    slots = torch.arange(frames, device=heat.device) * len(heat) // frames
    return heat[slots]
