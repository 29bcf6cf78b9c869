"""A clip in blocks -> a map of features for each block, and the contrast of predicted maps.

DPC and MemDPC share this file.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from ssvid.data.decode import read_timestamps
from ssvid.data.manifest import Manifest
from ssvid.data.sampling import clip_times, describe_frames
from ssvid.encoder import Encoder
from ssvid.errors import DecodeError, UserError
from ssvid.nn.convgru import ConvGRU
from ssvid.nn.gather import Gathered, gather_rows
from ssvid.randomness import permutation
from ssvid.shapes import Clip, Views

Rows = Float[Tensor, "R D"]  # (clip, block, row, column) flattened
LOOKED_AT = 16  # videos whose length is checked
# Whose rows are negatives: those of all devices, or those of the device. The published code has the
# latter.
NEGATIVES = ("all", "process")

# What --encoder left out means, and the presets, for dpc and memdpc.
DEFAULT_FLAGS: dict[str, Any] = {
    "encoder": {"name": "resnet18_2d3d", "width": 32, "frames": 4, "size": 64},
    "clip": {"fps": 8},
    "batch_size": 32,
    "lr_batch": None,  # the rate is as it is given
}
PRESET_FLAGS: dict[str, dict[str, Any]] = {
    "laptop": {
        "objective": {"blocks": 4, "predicted": 2},  # 32 frames of a file
        "optimizer": "adam",
        "weight_decay": 1e-5,
    },
    "one_gpu": {  # as published on UCF101
        "encoder": {"name": "resnet18_2d3d", "frames": 5, "stride": 3, "size": 128},
        "optimizer": "adam",
        "betas": [0.9, 0.999],
        "weight_decay": 1e-5,
        "lr": 1e-3,
        "lr_batch": None,
        "min_lr": 1e-3,
        "warmup": 0.0,
        "epochs": 300,
    },
}


def check_blocks(name: str, blocks: int, predicted: int, negatives: str) -> None:
    """Raise UserError if the flags of an objective `name` make no sense."""
    if not 0 < predicted < blocks:
        raise UserError(
            f"{name}: predicted {predicted} of blocks {blocks}: some must be visible and some "
            "predicted."
        )
    if negatives not in NEGATIVES:
        raise UserError(
            f"{name}: there is no negatives {negatives!r}: take {' or '.join(NEGATIVES)}."
        )


def make_views(encoder: Encoder, blocks: int, augment: str) -> Views:
    """One clip of `blocks` times the frames of the encoder."""
    long = replace(encoder.spec, frames=blocks * encoder.spec.frames)
    return Views(
        clips=(long,), augment=augment, mean=encoder.mean, std=encoder.std, needs_all_frames=True
    )


def check_length(data: Manifest, views: Views) -> None:
    """Raise UserError if none of LOOKED_AT videos is long enough for all blocks.

    The last blocks of a short video would be one picture repeated.
    """
    (spec,), longest = views.clips, 0
    for row in permutation(0, 0, len(data))[:LOOKED_AT].tolist():
        try:
            table = read_timestamps(data.path(row), data.rows[row].fps)
            if not clip_times(spec, table, 0.0)[1]:
                return
        except DecodeError:
            continue
        longest = max(longest, len(table))
    if longest:
        raise UserError(
            f"{data.title}: all blocks of a clip take {describe_frames(spec)}, and the longest of "
            f"{min(LOOKED_AT, len(data))} checked videos has {longest}: give fewer "
            "--objective.blocks, or fewer frames or a smaller stride of each."
        )


def encode_blocks(
    name: str, encoder: Encoder, clip: Clip, blocks: int
) -> Float[Tensor, "B N D h w"]:
    """The features of each block, averaged over its time; before any ReLU, as they are targets.

    Raises UserError if the frames of the clip do not divide into the blocks.
    """
    if clip.shape[2] % blocks:
        raise UserError(
            f"{name}: a clip of {clip.shape[2]} frames is not {blocks} blocks of as many each: "
            "--clip.frames counts all of them; --objective.blocks and --encoder.frames make it up."
        )
    tokens, _, grid, *_ = encoder(rearrange(clip, "B C (N T) H W -> (B N) C T H W", N=blocks))
    return reduce(tokens, "(B N) (t h w) D -> B N D h w", "mean", N=blocks, t=grid.t, h=grid.h)


def roll_out(
    gru: ConvGRU,
    visible: Float[Tensor, "B N D h w"],
    steps: int,
    predict: Callable[[Tensor], Tensor],
) -> Float[Tensor, "B P D h w"]:
    """Predict so many blocks after the visible ones; each prediction is the next input."""
    _, state = gru(visible.relu())
    pred: list[Tensor] = []
    for step in range(steps):
        if step:
            _, state = gru(pred[-1].relu()[:, None], state)
        pred.append(predict(state[-1]))
    return torch.stack(pred, dim=1)


def flatten_maps(maps: Float[Tensor, "B P D h w"]) -> Rows:
    """B P D h w -> R D: one row for each position of each map."""
    return rearrange(maps, "B P D h w -> (B P h w) D")


def contrast_rows(
    pred: Rows, target: Rows, negatives: str, tops: Sequence[int] = (1, 5)
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its top-k accuracies: each prediction against the targets of all clips.

    It is the cross entropy of plain products, without a temperature. `negatives`: see NEGATIVES.
    """
    keys = gather_rows(target) if negatives == "all" else Gathered(target, 0)
    logits = pred @ keys.rows.T  # R R'
    positives = torch.arange(len(logits), device=logits.device) + keys.first
    loss = F.cross_entropy(logits, positives)
    with torch.no_grad():
        above = (logits > logits.gather(1, positives[:, None])).sum(1)  # larger than the positive
        return loss, {f"top{k}": (above < k).float().mean() for k in tops}
