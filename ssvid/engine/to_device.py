"""Batch on the host -> Batch on the device: the one place where pixels become floats."""

from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssvid.data.augment import COLOUR_DRAWS, Augment, blur, colour, recipe
from ssvid.randomness import draw
from ssvid.shapes import Batch, Views

MOVED = (
    "index",
    "epoch",
    "label",
    "features",
    "video_padding_mask",
    "spans_s",
    "span_fractions",
    "text_padding_mask",
)


def to_device(batch: Batch, views: Views, device: torch.device) -> Batch:
    """uint8 clips to float32: coloured as the recipe draws it, then normalised. Stored features to float32."""
    there = {
        key: value.to(device)
        for key, value in batch.items()
        if key in MOVED and isinstance(value, Tensor)
    }
    moved: Batch = {**batch, **there}  # type: ignore[typeddict-item]  # keys of a Batch
    if "features" in batch:
        moved["features"] = moved["features"].float()
    if "clips" not in batch:
        return moved
    clips = batch["clips"].to(device, non_blocking=True).float() / 255  # B V C T H W
    change = recipe(views.augment)
    if change.colours:
        clips = coloured(batch, clips, change, torch.tensor(views.group_of_clip))
    mean, std = (channels(values, clips.device) for values in (views.mean, views.std))
    moved["clips"] = (clips - mean) / std
    return moved


@lru_cache(maxsize=16)
def channels(values: tuple[float, ...], device: torch.device) -> Float[Tensor, "C 1 1 1"]:
    """Copied to the device once, not at every step."""
    return torch.tensor(values, device=device).view(-1, 1, 1, 1)


def coloured(batch: Batch, clips: Tensor, change: Augment, moment: Tensor) -> Tensor:
    """Drawn on the host, so that nothing waits for the device; clips of one moment share every draw."""
    (B, _, _, T), M = clips.shape[:4], int(moment.max()) + 1
    shape = torch.Size((B, M, T, COLOUR_DRAWS) if change.per == "frame" else (B, M, COLOUR_DRAWS))
    u = draw(batch, "colour", shape[1:].numel()).view(shape)
    if change.gray == "channels":
        u = u[:, :, None].repeat(1, 1, T, 1)
        u[..., -1] = draw(batch, "channel", M * T).view(B, M, T)
    soft = draw(batch, "blur", 2 * M).view(B, M, 2)
    b, v = chosen(batch, change, M)[:, moment].nonzero(as_tuple=True)
    m, (here, view) = moment[v], (at.to(clips.device) for at in (b, v))
    some = colour(clips[here, view][:, None], change, u[b, m][:, None])
    clips[here, view] = blur(some, change, soft[b, m][:, None])[:, 0]
    return clips


def chosen(batch: Batch, change: Augment, moments: int) -> Bool[Tensor, "B M"]:
    """Which moments have colours changed. Of one moment that is given twice it is one side, by lot."""
    u = draw(batch, "coloured", 1 + moments)
    side, own = (u[:, :1] * moments).long(), u[:, 1:] < change.p_colour
    alike = draw(batch, "alike", 1) < change.alike  # as the loader draws it
    return torch.where(alike, torch.arange(moments) == side, own)
