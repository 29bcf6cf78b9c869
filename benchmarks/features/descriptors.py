"""raw clip -> plain descriptions of its pixels, without any network.

They are the floor of a result: what a task can be solved with by looking at pixels alone.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from benchmarks.features.pooling import SLOTS
from ssvid.nn.batchnorm import RawClip

VERSION = 2  # raise it where a value changes, so that cached descriptions are computed again
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
SIDE = 32  # pixels of a side of the frames whose shift is measured
# The largest shift that is described, in these pixels: nearly half a frame. Nearest neighbours name
# 65 % of the synthetic tours with 5 pixels, and 99.8 % with 15.
REACH = 15
DIFFERENCE_SIDE = 16  # cells of a side of the ordered differences


def describe_pixels(clip: RawClip) -> dict[str, Float[Tensor, "B D"]]:
    """Six plain descriptions of the pixels. A probe chooses among them on val, as among poolings.

    `clip` is uint8 B C T H W.
    """
    x = clip.float() / 255
    weights = x.new_tensor(GREY if x.shape[1] == 3 else [1 / x.shape[1]] * x.shape[1])
    grey = torch.einsum("bcthw,c->bthw", x, weights)
    motion = grey.diff(dim=1).abs().sum(1, keepdim=True)  # B 1 H W
    return {
        "colour8": F.adaptive_avg_pool2d(x.mean(2), 8).flatten(1),  # C*64
        "first32": F.adaptive_avg_pool2d(x[:, :, 0], 32).flatten(1),  # C*1024
        "motion": F.adaptive_avg_pool2d(motion, 32).flatten(1),  # 1024
        "cube8": F.adaptive_avg_pool2d(grey, 8).flatten(1),  # T*64
        "differences": describe_differences(grey),  # at most 8*256
        "phase": correlate_phases(grey).flatten(1),  # 961
    }


def describe_differences(grey: Float[Tensor, "B T H W"]) -> Float[Tensor, "B D"]:
    """Signed differences of neighbouring frames, in their order, in at most SLOTS slots of time."""
    small = F.adaptive_avg_pool2d(grey, DIFFERENCE_SIDE)  # B T h w
    # In a clip of one frame nothing moves.
    changes = small.diff(dim=1) if small.shape[1] > 1 else torch.zeros_like(small)
    slots = min(changes.shape[1], SLOTS)
    shape = (slots, DIFFERENCE_SIDE, DIFFERENCE_SIDE)
    return F.adaptive_avg_pool3d(changes[:, None], shape).flatten(1)


def correlate_phases(grey: Float[Tensor, "B T H W"]) -> Float[Tensor, "B y x"]:
    """Phase correlation of neighbouring frames, averaged over time: a map of shifts.

    The entry [REACH + dy, REACH + dx] is high where the picture moves by dy rows down and dx
    columns to the right from one frame to the next, in pixels of a frame of SIDE x SIDE.
    A frame of one colour has no phase, so its map is zero.
    """
    small = F.adaptive_avg_pool2d(grey, SIDE)
    small = small - small.mean((-2, -1), keepdim=True)  # light that changes is no motion
    spectrum = torch.fft.rfft2(small)
    cross = spectrum[:, 1:] * spectrum[:, :-1].conj()
    size = cross.abs()
    # Rounding gives empty frequencies a random phase: a share of the mean size holds them down.
    floor = 1e-3 * size.mean((-2, -1), keepdim=True) + 1e-12
    maps = torch.fft.irfft2(cross / (size + floor), s=(SIDE, SIDE))  # B T-1 32 32
    total = maps.sum(1) / max(1, maps.shape[1])
    centred = torch.fft.fftshift(total, dim=(-2, -1))
    middle = slice(SIDE // 2 - REACH, SIDE // 2 + REACH + 1)
    return centred[:, middle, middle]
