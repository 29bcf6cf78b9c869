"""Similarities of a window -> a picture: a column for each second, a row for each sentence."""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

CELL = 8  # pixels of the side of a cell


def draw_similarities(
    similarity: Float[Tensor, "K T"], targets: Bool[Tensor, "K T"]
) -> UInt8[Tensor, "3 h w"]:
    """Bright cells are similar, the red one of a row most, and green frames show the targets."""
    low, high = similarity.aminmax()
    grey = (255 * (similarity - low) / (high - low).clamp(min=1e-6)).byte()
    cells = grey.expand(3, -1, -1).clone()
    best = similarity.argmax(1)
    rows = torch.arange(len(similarity), device=similarity.device)
    cells[:, rows, best] = cells.new_tensor([230, 30, 30])[:, None]
    picture = cells.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
    for k, seconds in enumerate(targets):
        if seconds.any():
            first, last = int(seconds.nonzero()[0]) * CELL, int(seconds.nonzero()[-1] + 1) * CELL
            frame = picture[:, k * CELL : (k + 1) * CELL, first:last]
            for edge in (frame[:, :1], frame[:, -1:], frame[:, :, :1], frame[:, :, -1:]):
                edge.copy_(edge.new_tensor([40, 200, 80])[:, None, None].expand_as(edge))
    return picture
