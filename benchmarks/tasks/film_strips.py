"""features or attention + clips -> film strips: test clips beside their nearest train clips, or what was looked at."""

import base64
import io
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from benchmarks.probes.knn import neighbours
from ssvid.data.manifest import Manifest
from ssvid.data.sampling import eval_clips
from ssvid.shapes import ClipSpec

QUERIES, NEAR, FRAMES, SIDE = (
    4,
    3,
    5,
    72,
)  # test clips, neighbours, frames of a strip, pixels of a frame
GAP = 2  # white pixels between frames
SLOTS = 8  # frames of a strip at most, where each slot of time has its own


def strips(
    data: Manifest,
    spec: ClipSpec,
    feats: Tensor,
    train: list[int],
    test: list[int],
    predictions: Tensor,
) -> list[dict[str, Any]]:
    """For each query: its strip, label and prediction, and its neighbours nearest first. Frames are JPEG in base64."""
    picked = spread(data, test)
    cosine, place = neighbours(
        feats[[test[i] for i in picked]], feats[train], min(NEAR, len(train))
    )
    return [
        {
            **describe(data, spec, test[i]),
            "predicted": data.classes[int(predictions[i])],
            "near": [
                {**describe(data, spec, train[int(p)]), "cosine": round(float(c), 3)}
                for c, p in zip(cosine[q], place[q], strict=True)
            ],
        }
        for q, i in enumerate(picked)
    ]


def attended(
    data: Manifest,
    spec: ClipSpec,
    test: list[int],  # rows
    predictions: Int[Tensor, " S"] | None,  # None: the task names no single class
    weights: Float[
        Tensor, "S t"
    ],  # of each test clip, the attention on each slot of time, summed over space
) -> dict[str, Any]:
    """What an attentive probe looks at: the mean over all test clips, and a few clips with their own weights."""
    share = weights.double() / weights.double().sum(1, keepdim=True)  # S t
    frames = share.shape[1] if 2 <= share.shape[1] <= SLOTS else FRAMES
    return {
        "mean": [round(w, 4) for w in share.mean(0).tolist()],
        "clips": [
            {
                **describe(data, spec, test[i], frames),
                "predicted": None if predictions is None else data.classes[int(predictions[i])],
                "weights": [round(w, 4) for w in share[i].tolist()],
            }
            for i in spread(data, test)
        ],
    }


def spread(data: Manifest, test: list[int]) -> list[int]:
    """A few places in `test`, of different classes as far as they go."""
    labels = data.labels
    by_class = sorted(range(len(test)), key=lambda i: (int(labels[test[i]]), i))
    return [by_class[int((q + 0.5) * len(test) / QUERIES)] for q in range(min(QUERIES, len(test)))]


def describe(data: Manifest, spec: ClipSpec, row: int, slots: int | None = None) -> dict[str, Any]:
    """`slots`: a frame from the middle of each; none: a few frames from the first to the last."""
    clip = eval_clips(data.path(row), spec, 1, data.rows[row].fps)[0]  # C T H W
    length = clip.shape[1]
    at = (
        torch.linspace(0, length - 1, min(FRAMES, length))
        if slots is None
        else middles(length, slots)
    )
    label = data.rows[row].label
    name = ", ".join(sorted(data.rows[row].classes)) if label is None else label
    return {"path": data.rows[row].path, "label": name, "jpeg": jpeg(clip[:, at.round().long()])}


def middles(length: int, slots: int) -> Float[Tensor, " t"]:
    """8 frames, 4 slots -> 1, 3, 5, 7."""
    return ((torch.arange(slots) + 0.5) * length / slots).floor()


def jpeg(clip: Tensor) -> str:
    """Frames side by side."""
    frames = F.interpolate(rearrange(clip, "C T H W -> T C H W").float(), (SIDE, SIDE), mode="area")
    apart = F.pad(frames.round(), (0, GAP), value=255.0)
    strip = rearrange(apart.to(torch.uint8), "T C H W -> H (T W) C")[:, :-GAP]
    with io.BytesIO() as file:
        Image.fromarray(strip.numpy()).save(file, "jpeg", quality=80)
        return base64.b64encode(file.getvalue()).decode()
