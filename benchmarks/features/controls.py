"""clip -> the same clip with something taken away; encoder -> its untrained twin.

These are the controls: rows of a result that show how much of a score needs motion, the order of
the frames, training, or a network at all.
"""

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from ssvid.encoder import Encoder
from ssvid.hub import create_untrained
from ssvid.nn.batchnorm import RawClip
from ssvid.randomness import uniform

BAG_FRAMES = 4  # at most
GREY = 128  # of 255, the value of a pixel that shows nothing
# Between the seeds of two twins, so that no twin has the seed of an encoder that is only a name.
SEED_STEP = 1000


def repeat_middle_frame(clip: RawClip, index: Int[Tensor, " B"], seed: int) -> RawClip:
    """Replace every frame by the middle one, so that nothing moves. This control draws nothing."""
    return repeat_frame(clip, clip.shape[2] // 2)


def repeat_frame(clip: RawClip, t: int) -> RawClip:
    return clip[:, :, t : t + 1].expand_as(clip)


def list_still_clips(clip: RawClip) -> list[RawClip]:
    """At most BAG_FRAMES frames, spread evenly over the clip, each repeated as a still clip."""
    T = clip.shape[2]
    count = min(T, BAG_FRAMES)
    return [repeat_frame(clip, (2 * i + 1) * T // (2 * count)) for i in range(count)]


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


def blank_frames(clip: RawClip, index: Int[Tensor, " B"], seed: int) -> RawClip:
    """Grey frames, which show nothing. This control draws nothing."""
    return torch.full_like(clip, GREY)


def create_twin(encoder: Encoder, number: int = 0) -> Encoder:
    """The same network with random weights. It shows what the architecture gives untrained.

    Twins of other numbers have other weights.
    """
    device = next(encoder.parameters()).device
    return create_untrained(encoder, number * SEED_STEP).to(device)
