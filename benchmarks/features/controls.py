"""clip -> the same clip with something taken away; encoder -> its untrained twin.

These are the controls: rows of a result that show how much of a score needs motion, the order of
the frames, training, or a network at all.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ssvid.encoder import Encoder
from ssvid.hub import create_encoder
from ssvid.nn.batchnorm import RawClip
from ssvid.randomness import uniform

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


def repeat_middle_frame(clip: RawClip, index: Int[Tensor, " B"], seed: int) -> RawClip:
    """Replace every frame by the middle one, so that nothing moves. This control draws nothing."""
    T = clip.shape[2]
    return clip[:, :, T // 2 : T // 2 + 1].expand_as(clip)


def shuffle_frames(clip: RawClip, index: Int[Tensor, " B"], seed: int) -> RawClip:
    """Put the frames into a random order, so that direction and speed are lost.

    The order is drawn for each row of the manifest (`index`), so it is the same in every run.
    """
    draws = uniform(seed, "shuffle", 0, index.to(clip.device), clip.shape[2])
    order = draws.argsort(dim=-1, stable=True)  # B T
    return torch.take_along_dim(clip, rearrange(order, "B T -> B 1 T 1 1"), dim=2)


def reverse_frames(clip: RawClip, index: Int[Tensor, " B"], seed: int) -> RawClip:
    """Play the clip backwards. This control draws nothing."""
    return clip.flip(2)


def describe_pixels(clip: RawClip) -> dict[str, Float[Tensor, "B D"]]:
    """Four plain descriptions of the pixels. A probe chooses among them on val, as among poolings.

    `clip` is uint8 B C T H W.
    """
    x = clip.float() / 255
    weights = x.new_tensor(GREY if x.shape[1] == 3 else [1 / x.shape[1]] * x.shape[1])
    grey = torch.einsum("bcthw,c->bthw", x, weights)
    coarse = F.adaptive_avg_pool2d(grey, 8)  # B T 8 8
    motion = grey.diff(dim=1).abs().sum(1, keepdim=True)  # B 1 H W
    return {
        "colour8": F.adaptive_avg_pool2d(x.mean(2), 8).flatten(1),  # C*64
        "first32": F.adaptive_avg_pool2d(x[:, :, 0], 32).flatten(1),  # C*1024
        "motion": F.adaptive_avg_pool2d(motion, 32).flatten(1),  # 1024
        "cube8": coarse.flatten(1),  # T*64
    }


def create_twin(encoder: Encoder, seed: int = 0) -> Encoder:
    """The same network with random weights. It shows what the architecture gives untrained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = create_encoder(encoder.name, **encoder.kwargs)
    twin.spec, twin.mean, twin.std = encoder.spec, encoder.mean, encoder.std
    device = next(encoder.parameters()).device
    return twin.to(device).eval()
