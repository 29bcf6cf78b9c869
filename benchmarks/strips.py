"""features + clips -> film strips of test clips beside their nearest train clips: what the encoder takes for alike."""

import base64
import io
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from benchmarks.probes.knn import neighbours
from ssvid.data.manifest import Manifest
from ssvid.data.sampling import eval_clips
from ssvid.shapes import ClipSpec

QUERIES, NEAR, FRAMES, SIDE = 4, 3, 5, 72  # test clips, neighbours, frames of a strip, pixels of a frame


def strips(
    data: Manifest, spec: ClipSpec, feats: Tensor, train: list[int], test: list[int], predictions: Tensor
) -> list[dict[str, Any]]:
    """For each query: its strip, label and prediction, and its neighbours nearest first. Frames are JPEG in base64."""
    labels = data.labels
    by_class = sorted(range(len(test)), key=lambda i: (int(labels[test[i]]), i))
    picked = [by_class[int((q + 0.5) * len(test) / QUERIES)] for q in range(min(QUERIES, len(test)))]
    cosine, place = neighbours(feats[[test[i] for i in picked]], feats[train], min(NEAR, len(train)))
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


def describe(data: Manifest, spec: ClipSpec, row: int) -> dict[str, Any]:
    clip = eval_clips(data.path(row), spec, 1, data.rows[row].fps)[0]  # C T H W
    return {"path": data.rows[row].path, "label": data.rows[row].label, "jpeg": jpeg(clip)}


def jpeg(clip: Tensor) -> str:
    """A few frames side by side."""
    at = torch.linspace(0, clip.shape[1] - 1, min(FRAMES, clip.shape[1])).round().long()
    frames = F.interpolate(rearrange(clip[:, at], "C T H W -> T C H W").float(), (SIDE, SIDE), mode="area")
    strip = rearrange(frames.round().to(torch.uint8), "T C H W -> H (T W) C")
    with io.BytesIO() as file:
        Image.fromarray(strip.numpy()).save(file, "jpeg", quality=80)
        return base64.b64encode(file.getvalue()).decode()
