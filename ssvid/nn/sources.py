"""video ids -> whole numbers: clips of one source are no negatives of each other, whatever file they were cut into."""

import hashlib

import torch
from jaxtyping import Int
from torch import Tensor

from ssvid.data.files import film
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.nn.queue import Queue


def source_ids(video_ids: list[str], device: torch.device) -> Int[Tensor, "B"]:
    """The same number for all cuts of one film (as file names tell: UCF101's groups), never negative."""
    return torch.tensor([_number(film(name)) for name in video_ids], device=device)


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def enough(data: Manifest, queue: Queue, objective: str) -> None:
    """Refuse data in which a queued key would often be of the query's own source."""
    sources, size = len({film(name) for name in data.video_ids}), len(queue.keys)
    if sources < 2:
        raise UserError(
            f"{data.root} has one video (or cuts of one) to train on: {objective} tells a video from others."
        )
    if size > sources:
        raise UserError(
            f"--objective.queue {size} is more than the {sources} videos of {data.root} (cuts of one film count once): "
            f"a video would be its own negative. Give {sources} or fewer, a multiple of --batch_size."
        )
