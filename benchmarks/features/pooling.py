"""Features -> one row of numbers per clip, in several poolings of the tokens on their grid."""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ssvid.errors import UserError
from ssvid.shapes import Features, Grid, Pooled, Tokens

SLOTS = 8  # of time at most: longer clips are averaged down to it
SIDE = 3  # cells of space a side
POOLINGS = ("mean", "time", "grid")
Half = Float[Tensor, "B N D"]


def pool(
    features: Features, layers: tuple[int, ...] = (), poolings: tuple[str, ...] = POOLINGS
) -> dict[str, Pooled]:
    """`mean@last`, `time@last`, `grid@last`, and the same `@6` for each layer that the encoder was asked for."""
    unknown = set(poolings) - set(POOLINGS)
    if unknown or not poolings:
        raise UserError(
            f"There is no pooling {', '.join(sorted(unknown))!r}; there are {', '.join(POOLINGS)}."
        )
    sources = {"last": features.tokens} | dict(zip(map(str, layers), features.layers, strict=True))
    return {
        f"{pooling}@{layer}": row
        for layer, tokens in sources.items()
        for pooling, row in pool_tokens(tokens, features.grid).items()
        if pooling in poolings
    }


def tokens(features: Features, layers: tuple[int, ...] = ()) -> dict[str, Half]:
    """`tokens@last` and those of each layer, halved: a probe reads them often and they fill the disk."""
    sources = {"last": features.tokens} | dict(zip(map(str, layers), features.layers, strict=True))
    return {f"tokens@{layer}": tokens.half() for layer, tokens in sources.items()}


def pool_tokens(tokens: Tokens, grid: Grid) -> dict[str, Float[Tensor, "B D"]]:
    """A pooling that would repeat a narrower one (one slot of time, one cell of space) is left out."""
    out = {"mean": tokens.mean(1)}
    maps = rearrange(tokens, "B (t h w) D -> B D t h w", t=grid.t, h=grid.h, w=grid.w)
    slots = min(grid.t, SLOTS)
    if slots > 1:
        out["time"] = rearrange(F.adaptive_avg_pool3d(maps, (slots, 1, 1)), "B D t 1 1 -> B (t D)")
    if grid.h * grid.w > 1:
        cells = F.adaptive_avg_pool3d(maps, (slots, min(grid.h, SIDE), min(grid.w, SIDE)))
        out["grid"] = rearrange(cells, "B D t h w -> B (t h w D)")
    return out
