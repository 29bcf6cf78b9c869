"""Clips and targets -> pairs of them mixed by mixup (arXiv:1710.09412) or cutmix
(arXiv:1905.04899).

The partner of clip i is clip n-1-i of the same micro-batch and process, as in timm; a clip in the
middle is its own partner. The strength is drawn for each clip from its coordinates (timm's `elem`;
VideoMAE draws once per batch). The weight of the target is the mean weight of the pixels, so it is
what was really pasted.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ssvid.errors import UserError, check_range
from ssvid.randomness import draw
from ssvid.shapes import Batch, Clip

DRAWS = 5  # uniforms of a clip: whether, which of the two, how much, row and column of the box
TABLE = 1025  # entries of the inverse of the beta distribution


class Mix:
    """Mixes clips with probability `prob`."""

    def __init__(self, mixup: float, cutmix: float, prob: float, switch: float) -> None:
        """`mixup`, `cutmix`: alpha of the beta distribution; 0: off.

        `switch`: probability of cutmix instead of mixup, if both are on. A UserError for values
        outside their range.
        """
        check_range(0, 2, mixup=mixup, cutmix=cutmix)  # the table is exact in this range
        check_range(0, 1, mix_prob=prob, switch_prob=switch)
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if 0 < alpha < 0.01:
                raise UserError(f"--{name} {alpha}: take 0 (never) or at least 0.01.")
        self.mixup, self.cutmix, self.switch = mixup, cutmix, switch
        self.prob = prob if mixup or cutmix else 0.0

    def __call__(
        self, clips: Clip, targets: Float[Tensor, "B Q"], batch: Batch, views: int = 1
    ) -> tuple[Clip, Float[Tensor, "B Q"]]:
        """Mixed clips and targets.

        `views`: clips of one sample, which are neighbours in the batch.
        """
        if not self.prob:
            return clips, targets
        u = draw(batch, "mix", views * DRAWS).view(-1, DRAWS)  # B n
        weight = self.weights(u, *clips.shape[-2:]).to(clips.dtype)  # B H W
        target_weight = weight.mean((1, 2))[:, None]  # B 1
        weight = weight[:, None, None]
        mixed_clips = clips * weight + clips.flip(0) * (1 - weight)
        mixed_targets = targets * target_weight + targets.flip(0) * (1 - target_weight)
        return mixed_clips, mixed_targets

    def weights(self, u: Float[Tensor, "B n"], height: int, width: int) -> Float[Tensor, "B H W"]:
        """The weight of each pixel of a clip against its partner's pixel. `u`: see DRAWS."""
        is_cutmix = torch.full_like(u[:, 1], self.cutmix).bool()
        if self.mixup and self.cutmix:
            is_cutmix = u[:, 1] < self.switch
        blend = boxes = u.new_ones(1, 1, 1)
        if self.mixup:
            blend = compute_beta_quantiles(u[:, 2], self.mixup)[:, None, None].expand(
                -1, height, width
            )
        if self.cutmix:
            boxes = make_box_mask(
                compute_beta_quantiles(u[:, 2], self.cutmix), u[:, 3:], height, width
            )
        weight = torch.where(is_cutmix[:, None, None], boxes, blend)
        return torch.where((u[:, 0] < self.prob)[:, None, None], weight, 1.0)


def make_box_mask(
    outside: Float[Tensor, " B"], centre: Float[Tensor, "B 2"], height: int, width: int
) -> Float[Tensor, "B H W"]:
    """0 in a box that covers about 1 - outside of the picture, 1 around it.

    A box at the border is cut off, so it may be smaller. `centre`: 0 to 1 of height and width.
    """
    side = (1 - outside).sqrt()  # of the box, as a fraction of the picture's side
    inside = []
    for length, middle in ((height, centre[:, 0]), (width, centre[:, 1])):
        half, pixel = (length * side).long() // 2, (middle * length).long()
        pixels = torch.arange(length, device=outside.device)
        inside.append((pixels >= (pixel - half)[:, None]) & (pixels < (pixel + half)[:, None]))
    return (~(inside[0][:, :, None] & inside[1][:, None, :])).double()


def compute_beta_quantiles(u: Float[Tensor, " B"], alpha: float) -> Float[Tensor, " B"]:
    """Quantiles of Beta(alpha, alpha) for uniforms u.

    torch has no such function, and rejection sampling needs an unknown number of draws, so they are
    read off a table. With y = x^alpha the density of the lower half, (1 - y^(1/alpha))^(alpha - 1),
    is smooth down to 0.
    """
    y = torch.linspace(0, 0.5**alpha, TABLE, dtype=u.dtype, device=u.device)
    mass = F.pad(torch.cumulative_trapezoid((1 - y ** (1 / alpha)) ** (alpha - 1), y), (1, 0))
    mass = 0.5 * mass / mass[-1]
    low = torch.minimum(u, 1 - u)
    i = torch.searchsorted(mass, low, right=True).clamp(1, TABLE - 1)
    fraction = (low - mass[i - 1]) / (mass[i] - mass[i - 1])
    x = torch.lerp(y[i - 1], y[i], fraction) ** (1 / alpha)
    return torch.where(u < 0.5, x, 1 - x)


def make_smooth_targets(
    labels: Int[Tensor, " B"], classes: int, smoothing: float
) -> Float[Tensor, "B Q"]:
    """One-hot targets, of which `smoothing` is spread evenly over all classes."""
    floor = torch.full((), smoothing / classes, device=labels.device)
    return F.one_hot(labels, classes) * (1 - smoothing) + floor
