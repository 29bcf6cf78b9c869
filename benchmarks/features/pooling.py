"""Features -> one vector per clip, in several poolings of the tokens on their grid."""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ssvid.errors import UserError
from ssvid.shapes import Features, Grid, Pooled, Tokens

SLOTS = 8  # of time at most; longer clips are averaged down to it
SIDE = 3  # cells along each side of the frame
POOLINGS = ("mean", "time", "grid")
Half = Float[Tensor, "B N D"]


def pool(
    features: Features, layers: tuple[int, ...] = (), poolings: tuple[str, ...] = POOLINGS
) -> dict[str, Pooled]:
    """`mean@last`, `time@last` and `grid@last`, and for each of `layers` the same as `mean@6`.

    Every value is B D, with a width D of its own. Raises a UserError for an unknown pooling.
    """
    unknown = set(poolings) - set(POOLINGS)
    if unknown or not poolings:
        raise UserError(
            f"There is no pooling {', '.join(sorted(unknown))!r}; there are {', '.join(POOLINGS)}."
        )
    pooled = {}
    for layer, tokens in name_layers(features, layers).items():
        for pooling, vectors in pool_tokens(tokens, features.grid).items():
            if pooling in poolings:
                pooled[f"{pooling}@{layer}"] = vectors
    return pooled


def halve_tokens(features: Features, layers: tuple[int, ...] = ()) -> dict[str, Half]:
    """`tokens@last` and the tokens of each layer, as float16.

    Half precision, because a probe reads the tokens often and they fill the disk.
    """
    named = name_layers(features, layers)
    return {f"tokens@{layer}": tokens.half() for layer, tokens in named.items()}


def name_layers(features: Features, layers: tuple[int, ...]) -> dict[str, Tokens]:
    """`last` -> the final tokens, and the number of each requested layer -> its tokens."""
    return {"last": features.tokens, **dict(zip(map(str, layers), features.layers, strict=True))}


def pool_tokens(tokens: Tokens, grid: Grid) -> dict[str, Float[Tensor, "B D"]]:
    """The tokens in every pooling that adds something.

    A pooling is left out where it repeats a narrower one: one slot of time, or one cell of space.
    """
    pooled = {"mean": tokens.mean(1)}
    maps = rearrange(tokens, "B (t h w) D -> B D t h w", t=grid.t, h=grid.h, w=grid.w)
    slots = min(grid.t, SLOTS)
    if slots > 1:
        over_time = F.adaptive_avg_pool3d(maps, (slots, 1, 1))
        pooled["time"] = rearrange(over_time, "B D t 1 1 -> B (t D)")
    if grid.h * grid.w > 1:
        cells = F.adaptive_avg_pool3d(maps, (slots, min(grid.h, SIDE), min(grid.w, SIDE)))
        pooled["grid"] = rearrange(cells, "B D t h w -> B (t h w D)")
    return pooled
