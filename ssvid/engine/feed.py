"""Batch on the host -> Batch on the device: the one place where pixels become floats."""

import torch

from ssvid.data.augment import COLOUR_DRAWS, colour, recipe
from ssvid.randomness import draw
from ssvid.shapes import Batch, Views


def to_device(batch: Batch, views: Views, device: torch.device) -> Batch:
    """uint8 clips to float32: coloured as the recipe draws it, then normalised."""
    moved: Batch = {**batch, "index": batch["index"].to(device), "epoch": batch["epoch"].to(device)}
    clips = batch["clips"].to(device, non_blocking=True).float() / 255  # B V C T H W
    change = recipe(views.augment)
    if change.colours:
        B, V, _, T = clips.shape[:4]
        shape = torch.Size((B, V, T, COLOUR_DRAWS) if change.per == "frame" else (B, V, COLOUR_DRAWS))
        clips = colour(clips, change, draw(moved, "colour", shape[1:].numel()).view(shape))
    mean, std = (clips.new_tensor(v).view(-1, 1, 1, 1) for v in (views.mean, views.std))
    moved["clips"] = (clips - mean) / std
    return moved
