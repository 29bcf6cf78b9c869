"""Similarities of a window -> a picture: how like each second (across) is to each of its sentences (down)."""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

CELL = 8  # pixels of a second, and of a sentence


def picture(found: Float[Tensor, "K T"], own: Bool[Tensor, "K T"]) -> UInt8[Tensor, "3 h w"]:
    low, high = found.aminmax()
    grey = (255 * (found - low) / (high - low).clamp(min=1e-6)).byte()
    cells = grey.expand(3, -1, -1).clone()
    best = found.argmax(1)
    rows = torch.arange(len(found), device=found.device)
    cells[:, rows, best] = cells.new_tensor([230, 30, 30])[:, None]
    big = cells.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
    for k, seconds in enumerate(own):
        if seconds.any():
            first, last = int(seconds.nonzero()[0]) * CELL, int(seconds.nonzero()[-1] + 1) * CELL
            frame = big[:, k * CELL : (k + 1) * CELL, first:last]
            for edge in (frame[:, :1], frame[:, -1:], frame[:, :, :1], frame[:, :, -1:]):
                edge.copy_(edge.new_tensor([40, 200, 80])[:, None, None].expand_as(edge))
    return big
