"""features or attention + clips -> film strips: pictures of test clips for the report.

A strip shows a test clip beside its nearest train clips, or with the attention on each frame.
"""

import base64
import io
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from benchmarks.probes.knn import find_neighbours
from ssvid.data.manifest import Manifest
from ssvid.data.sampling import eval_clips
from ssvid.shapes import ClipSpec

QUERIES = 4  # test clips
NEAR = 3  # neighbours of each
FRAMES = 5  # of a strip
SIDE = 72  # pixels of a frame
GAP = 2  # white pixels between frames
SLOTS = 8  # frames of a strip at most, where each slot of time has its own frame
Json = dict[str, Any]


def draw_strips(
    data: Manifest,
    spec: ClipSpec,
    feats: Tensor,
    train: list[int],
    test: list[int],
    predictions: Tensor,
) -> list[Json]:
    """For each query its strip, label, prediction and neighbours, nearest first.

    `feats`: S D of all rows of `data`. `train`, `test`: rows. `predictions`: a class of each test
    row. Frames are JPEG in base64.
    """
    queries = choose_queries(data, test)
    query_rows = [test[i] for i in queries]
    cosine, index = find_neighbours(feats[query_rows], feats[train], min(NEAR, len(train)))
    strips: list[Json] = []
    for q, i in enumerate(queries):
        near = []
        for value, neighbour in zip(cosine[q].tolist(), index[q].tolist(), strict=True):
            near.append({**draw_clip(data, spec, train[neighbour]), "cosine": round(value, 3)})
        predicted = data.classes[int(predictions[i])]
        strips.append({**draw_clip(data, spec, test[i]), "predicted": predicted, "near": near})
    return strips


def describe_attention(
    data: Manifest,
    spec: ClipSpec,
    test: list[int],
    predictions: Int[Tensor, " S"] | None,
    weights: Float[Tensor, "S t"],
) -> Json:
    """What an attentive probe looks at: the mean over all test clips, and a few clips.

    `test`: rows. `predictions`: None where the task names no single class. `weights`: of each test
    clip the attention on each slot of time, summed over space.
    """
    share = weights.double() / weights.double().sum(1, keepdim=True)  # S t
    frames = share.shape[1] if 2 <= share.shape[1] <= SLOTS else FRAMES
    clips = []
    for i in choose_queries(data, test):
        clip = draw_clip(data, spec, test[i], frames)
        clip["predicted"] = None if predictions is None else data.classes[int(predictions[i])]
        clip["weights"] = round_weights(share[i])
        clips.append(clip)
    return {"mean": round_weights(share.mean(0)), "clips": clips}


def round_weights(weights: Tensor) -> list[float]:
    return [round(weight, 4) for weight in weights.tolist()]


def choose_queries(data: Manifest, test: list[int]) -> list[int]:
    """A few indices into `test`, of as many different classes as possible."""
    labels = data.labels
    by_class = sorted(range(len(test)), key=lambda i: (int(labels[test[i]]), i))
    return [by_class[int((q + 0.5) * len(test) / QUERIES)] for q in range(min(QUERIES, len(test)))]


def draw_clip(data: Manifest, spec: ClipSpec, row: int, slots: int | None = None) -> Json:
    """A clip's path, label and strip.

    `slots`: the strip has a frame from the middle of each slot of time. None: it has a few frames
    from the first to the last.
    """
    clip = eval_clips(data.path(row), spec, 1, data.rows[row].fps)[0]  # C T H W
    length = clip.shape[1]
    frames = torch.linspace(0, length - 1, min(FRAMES, length))
    if slots is not None:
        frames = find_middles(length, slots)
    label = data.rows[row].label
    name = ", ".join(sorted(data.rows[row].classes)) if label is None else label
    jpeg = encode_jpeg(clip[:, frames.round().long()])
    return {"path": data.rows[row].path, "label": name, "jpeg": jpeg}


def find_middles(length: int, slots: int) -> Float[Tensor, " t"]:
    """The middle frame of each slot: 8 frames, 4 slots -> 1, 3, 5, 7."""
    return ((torch.arange(slots) + 0.5) * length / slots).floor()


def encode_jpeg(clip: Tensor) -> str:
    """The frames of a clip C T H W side by side."""
    frames = F.interpolate(rearrange(clip, "C T H W -> T C H W").float(), (SIDE, SIDE), mode="area")
    spaced = F.pad(frames.round(), (0, GAP), value=255.0)
    strip = rearrange(spaced.to(torch.uint8), "T C H W -> H (T W) C")[:, :-GAP]
    with io.BytesIO() as file:
        Image.fromarray(strip.numpy()).save(file, "jpeg", quality=80)
        return base64.b64encode(file.getvalue()).decode()
