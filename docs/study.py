"""What the studies of this folder share: films in memory, batches, lines of a file, differences."""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.special import stdtrit
from torch import Tensor

from ssvid.data.manifest import Manifest
from ssvid.data.sampling import eval_clips
from ssvid.encoder import Encoder
from ssvid.randomness import permutation


class Films(NamedTuple):
    """A split of a data set in memory."""

    data: Manifest
    clips: Tensor  # uint8 S C T H W

    def take(self, rows: list[int]) -> "Films":
        return Films(self.data.take(rows), self.clips[rows])


def read_films(data: Manifest, net: Encoder) -> Films:
    clips = [eval_clips(data.path(row), net.spec)[0] for row in range(len(data))]
    return Films(data, torch.stack(clips))


def draw_batches(rows: int, size: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Batches of whole epochs with their epoch, each epoch in an order of its own."""
    for epoch in itertools.count():
        order = permutation(seed, epoch, rows)
        for start in range(0, rows - size + 1, size):
            yield epoch, order[start : start + size]


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The trainings of a study that are done: a line each."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def format_scores(scores: dict[int, float], whole: dict[int, float]) -> str:
    """The mean over seeds, and the difference to the whole with a 95 % interval by Student's t.

    Both are a mapping of seeds to per cent.
    """
    values = ", ".join(f"{scores[seed]:.1f}" for seed in sorted(scores))
    text = f"{sum(scores.values()) / len(scores):.1f} ({values})"
    shared = sorted(scores.keys() & whole.keys())
    differences = torch.tensor([scores[seed] - whole[seed] for seed in shared]).double()
    if len(shared) < 2 or not differences.any():
        return f"{text} | -"
    mean = differences.mean().item()
    half = float(stdtrit(len(shared) - 1, 0.975)) * differences.std().item()
    half /= math.sqrt(len(shared))
    return f"{text} | {mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"
