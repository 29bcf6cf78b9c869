"""Batch on the host -> Batch on the device. Pixels become normalised floats here."""

from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssvid.data.augment import CHANCES, COLOUR_DRAWS, Augment, blur, colour, get_recipe
from ssvid.randomness import draw
from ssvid.shapes import Batch, Views

MOVED_KEYS = (
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
    """Move a batch to the device.

    uint8 clips become float32, get the colour jitter of the recipe and are normalised. Stored
    features become float32.
    """
    moved: Batch = {**batch}
    for key, value in batch.items():
        if key in MOVED_KEYS and isinstance(value, Tensor):
            moved[key] = value.to(device)  # type: ignore[literal-required]  # a key of a Batch
    if "features" in batch:
        moved["features"] = moved["features"].float()
    if "clips" not in batch:
        return moved
    clips = batch["clips"].to(device, non_blocking=True).float() / 255  # B V C T H W
    recipe = get_recipe(views.augment)
    if recipe.colours:
        clips = jitter_colours(batch, clips, recipe, torch.tensor(views.group_of_clip))
    mean, std = channels(views.mean, clips.device), channels(views.std, clips.device)
    moved["clips"] = (clips - mean) / std
    return moved


@lru_cache(maxsize=16)
def channels(values: tuple[float, ...], device: torch.device) -> Float[Tensor, "C 1 1 1"]:
    """Values of the colour channels on the device. They are copied once, not at every step."""
    return torch.tensor(values, device=device).view(-1, 1, 1, 1)


def jitter_colours(batch: Batch, clips: Tensor, recipe: Augment, group_of_view: Tensor) -> Tensor:
    """Jitter the colours of the clips B V C T H W and blur them, in place, and return them.

    Only the groups that `choose_groups` chooses change. Clips of one group share every draw.
    `group_of_view`: the group's number of each of the V views. All draws are made on the host, so
    that nothing waits for the device.
    """
    (B, _, _, T), M = clips.shape[:4], int(group_of_view.max()) + 1  # M groups
    shape = torch.Size((B, M, T, COLOUR_DRAWS) if recipe.per == "frame" else (B, M, COLOUR_DRAWS))
    u = draw(batch, "colour", shape[1:].numel()).view(shape)
    if recipe.per == "frame" and recipe.chance_per == "clip":
        u[..., CHANCES] = u[:, :, :1, CHANCES]  # the first frame decides for the others
    if recipe.gray == "channels":
        # The channel is drawn for each frame, even where the frames share all other draws.
        if recipe.per == "clip":
            u = u[:, :, None].repeat(1, 1, T, 1)
        u[..., -1] = draw(batch, "channel", M * T).view(B, M, T)
    u_blur = draw(batch, "blur", 2 * M).view(B, M, 2)
    is_chosen = choose_groups(batch, recipe, M)[:, group_of_view]  # B V
    video, view = is_chosen.nonzero(as_tuple=True)  # K chosen clips
    group = group_of_view[view]
    chosen_clips = video.to(clips.device), view.to(clips.device)
    coloured = colour(clips[chosen_clips][:, None], recipe, u[video, group][:, None])
    clips[chosen_clips] = blur(coloured, recipe, u_blur[video, group][:, None])[:, 0]
    return clips


def choose_groups(batch: Batch, recipe: Augment, groups: int) -> Bool[Tensor, "B M"]:
    """The groups of each video whose colours change.

    If the loader drew the same clip for all groups of a video, exactly one of them changes.
    """
    u = draw(batch, "coloured", 1 + groups)
    side, independent = (u[:, :1] * groups).long(), u[:, 1:] < recipe.p_colour
    same_clip = draw(batch, "alike", 1) < recipe.alike  # the draw that the loader makes
    return torch.where(same_clip, torch.arange(groups) == side, independent)
