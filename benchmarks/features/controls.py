"""clip -> the same clip with something taken away; encoder -> its untrained twin. What a score must be held against."""

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


def single_frame(clip: RawClip, index: Int[Tensor, " B"], seed: int) -> RawClip:
    """The middle frame in place of every frame: no time at all. Nothing is drawn."""
    T = clip.shape[2]
    return clip[:, :, T // 2 : T // 2 + 1].expand_as(clip)


def shuffled(clip: RawClip, index: Int[Tensor, " B"], seed: int) -> RawClip:
    """The same frames in an order of chance, drawn for each row of the manifest: no direction and no speed."""
    order = uniform(seed, "shuffle", 0, index.to(clip.device), clip.shape[2]).argsort(
        dim=-1, stable=True
    )  # B T
    return torch.take_along_dim(clip, rearrange(order, "B T -> B 1 T 1 1"), dim=2)


def reverse(clip: RawClip, index: Int[Tensor, " B"], seed: int) -> RawClip:
    """Played backwards. Nothing is drawn."""
    return clip.flip(2)


def pixels(clip: RawClip) -> dict[str, Float[Tensor, "B D"]]:
    """Four plain descriptions of the pixels; the probe picks on val as it picks a pooling."""
    x = clip.float() / 255
    weights = x.new_tensor(GREY if x.shape[1] == 3 else [1 / x.shape[1]] * x.shape[1])
    grey = torch.einsum("bcthw,c->bthw", x, weights)
    coarse = F.adaptive_avg_pool2d(grey, 8)  # B T 8 8
    moved = grey.diff(dim=1).abs().sum(1, keepdim=True)  # B 1 H W
    return {
        "colour8": F.adaptive_avg_pool2d(x.mean(2), 8).flatten(1),  # C*64
        "first32": F.adaptive_avg_pool2d(x[:, :, 0], 32).flatten(1),  # C*1024
        "motion": F.adaptive_avg_pool2d(moved, 32).flatten(1),  # 1024
        "cube8": coarse.flatten(1),  # T*64
    }


def twin(encoder: Encoder, seed: int = 0) -> Encoder:
    """The same net with random weights: what the architecture gives without any training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        other = create_encoder(encoder.name, **encoder.kwargs)
    other.spec, other.mean, other.std = encoder.spec, encoder.mean, encoder.std
    device = next(encoder.parameters()).device
    return other.to(device).eval()
