"""What a run of LiteVL logs as pictures: the learnt scales by block, and where words look."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from ssvid.encoder import Encoder
from ssvid.encoders.litevl import LiteVL
from ssvid.shapes import Clip, Features
from ssvid.text.grad_cam import Explanation
from ssvid.text.heat import lay_heat

Picture = UInt8[Tensor, "3 y x"]
STEP, TALL, LEFT, BELOW = 36, 150, 34, 30  # pixels: a block's width, the curve, the two margins
INK, BLUE, PALE = (31, 35, 40), (47, 111, 178), (213, 219, 225)
HIGHEST = 2.0  # scales lie between 0 and this


def draw_pictures(
    encoder: Encoder, clip: Clip, explain: Callable[[Features], Explanation | None]
) -> dict[str, Picture]:
    """The pictures by name. `explain`: what a sentence looks at in the one clip, if anything.

    The scales are those of the last batch, so they are read before the clip passes by itself.
    """
    pictures: dict[str, Picture] = {}
    scales = encoder.read_scales() if isinstance(encoder, LiteVL) else []
    if scales:
        pictures["scales"] = draw_scales(scales)
    with torch.no_grad():
        explanation = explain(encoder(clip))
    if explanation is not None:
        pictures["grad_cam"] = draw_heat(encoder, clip, explanation.heat.sentence)
    return pictures


def draw_heat(encoder: Encoder, clip: Clip, heat: Float[Tensor, "t h w"]) -> Picture:
    """The frames of a clip, and below them the same frames with the heat."""
    mean, std = (clip.new_tensor(x).view(-1, 1, 1, 1) for x in (encoder.mean, encoder.std))
    pixels = (255 * (clip[0] * std + mean).clamp(0, 1)).round().to(torch.uint8)
    frames = rearrange(pixels, "C T H W -> T C H W")
    both = torch.stack([frames, lay_heat(frames, heat)])
    return rearrange(both, "R T C H W -> C (R H) (T W)")


def draw_scales(scales: Sequence[float]) -> Picture:
    """A curve over the blocks from 0 to 2, with a pale line at 1, where training begins."""
    size = (LEFT + STEP * len(scales), TALL + BELOW)
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    for value in (0.0, 0.5, 1.0, 1.5, 2.0):
        y = find_height(value)
        pen.line([(LEFT, y), (size[0], y)], fill=PALE, width=2 if value == 1.0 else 1)
        pen.text((4, y - 6), f"{value:.1f}", fill=INK)
    points = []
    for number, scale in enumerate(scales):
        x = LEFT + STEP * (number + 0.5)
        points.append((x, find_height(scale)))
        pen.text((x - 3, TALL + 14), str(number + 1), fill=INK)
    pen.line(points, fill=BLUE, width=2)
    for x, y in points:
        pen.ellipse([(x - 3, y - 3), (x + 3, y + 3)], fill=BLUE)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def find_height(scale: float) -> float:
    """Pixels from above."""
    return 8 + (TALL - 8) * (1 - scale / HIGHEST)
