"""clips, targets -> the same mixed in pairs: mixup (arXiv:1710.09412) and cutmix (arXiv:1905.04899).

The partner of clip i is clip n-1-i of the same micro-batch of the same process, as in timm; one in the middle has
itself. How much of it is taken is drawn for each clip from its own coordinates (timm's `elem`; VideoMAE draws once for
a batch), and the target's share is the mean of the pixels' weights, so it is what was really pasted.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ssvid.errors import UserError, within
from ssvid.randomness import draw
from ssvid.shapes import Batch, Clip

DRAWS = 5  # uniforms for a clip: mixed at all, which of the two, how much, box's row, box's column
TABLE = 1025  # entries of the beta distribution's inverse


class Mix:
    def __init__(self, mixup: float, cutmix: float, prob: float, switch: float) -> None:
        """`mixup`, `cutmix`: alpha of the beta distribution; 0: never. `switch`: share of cutmix, where both are on."""
        within(0, 2, mixup=mixup, cutmix=cutmix)  # as far as the table is exact
        within(0, 1, mix_prob=prob, switch_prob=switch)
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if 0 < alpha < 0.01:
                raise UserError(f"--{name} {alpha}: take 0 (never) or at least 0.01.")
        self.mixup, self.cutmix, self.switch = mixup, cutmix, switch
        self.prob = prob if mixup or cutmix else 0.0

    def __call__(
        self, clips: Clip, targets: Float[Tensor, "B Q"], batch: Batch, views: int = 1
    ) -> tuple[Clip, Float[Tensor, "B Q"]]:
        """`views`: clips of one sample, which stand side by side."""
        if not self.prob:
            return clips, targets
        u = draw(batch, "mix", views * DRAWS).view(-1, DRAWS)  # B n
        own = self.weights(u, *clips.shape[-2:]).to(clips.dtype)  # B H W
        share = own.mean((1, 2))[:, None]  # B 1
        own = own[:, None, None]
        return clips * own + clips.flip(0) * (1 - own), targets * share + targets.flip(0) * (
            1 - share
        )

    def weights(self, u: Float[Tensor, "B n"], height: int, width: int) -> Float[Tensor, "B H W"]:
        """How much of its own each pixel keeps."""
        cut = (
            u[:, 1] < self.switch
            if self.mixup and self.cutmix
            else torch.full_like(u[:, 1], self.cutmix).bool()
        )
        blend = (
            beta(u[:, 2], self.mixup)[:, None, None].expand(-1, height, width)
            if self.mixup
            else 1.0
        )
        boxes = box(beta(u[:, 2], self.cutmix), u[:, 3:], height, width) if self.cutmix else 1.0
        own = torch.where(cut[:, None, None], boxes, blend)
        return torch.where((u[:, 0] < self.prob)[:, None, None], own, 1.0)


def box(
    keep: Float[Tensor, " B"], centre: Float[Tensor, "B 2"], height: int, width: int
) -> Float[Tensor, "B H W"]:
    """0 in a box of about 1 - keep of the picture, 1 around it. At the border it is cut off, so it may be smaller."""
    side = (1 - keep).sqrt()  # of the picture's
    inside = []
    for length, at in ((height, centre[:, 0]), (width, centre[:, 1])):
        half, middle = (length * side).long() // 2, (at * length).long()
        place = torch.arange(length, device=keep.device)
        inside.append((place >= (middle - half)[:, None]) & (place < (middle + half)[:, None]))
    return (~(inside[0][:, :, None] & inside[1][:, None, :])).double()


def beta(u: Float[Tensor, " B"], alpha: float) -> Float[Tensor, " B"]:
    """Quantiles of Beta(alpha, alpha), by its own table: torch has none, and rejection wants draws without end.

    With y = x^alpha the density of the lower half is smooth down to 0: (1 - y^(1/alpha))^(alpha - 1).
    """
    y = torch.linspace(0, 0.5**alpha, TABLE, dtype=u.dtype, device=u.device)
    mass = torch.nn.functional.pad(
        torch.cumulative_trapezoid((1 - y ** (1 / alpha)) ** (alpha - 1), y), (1, 0)
    )
    mass = 0.5 * mass / mass[-1]
    low = torch.minimum(u, 1 - u)
    i = torch.searchsorted(mass, low, right=True).clamp(1, TABLE - 1)
    part = (low - mass[i - 1]) / (mass[i] - mass[i - 1])
    x = torch.lerp(y[i - 1], y[i], part) ** (1 / alpha)
    return torch.where(u < 0.5, x, 1 - x)
