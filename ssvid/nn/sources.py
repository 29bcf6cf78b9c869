"""video ids -> whole numbers: clips of one source are no negatives of each other, whatever file they were cut into."""

import hashlib

import torch
from jaxtyping import Int
from torch import Tensor

from ssvid.data.files import name_film
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.nn.queue import Queue


def source_ids(video_ids: list[str], device: torch.device) -> Int[Tensor, " B"]:
    """The same number for all cuts of one film (as file names tell: UCF101's groups), never negative."""
    return torch.tensor([_number(name_film(name)) for name in video_ids], device=device)


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def enough(data: Manifest, objective: str, batch_size: int, queue: Queue | None = None) -> None:
    """Refuse data that it cannot be told from, and a queue that would hold a video twice or is not filled evenly."""
    if len({name_film(name) for name in data.video_ids}) < 2:
        raise UserError(
            f"{data.root} has one video (or cuts of one) to train on: {objective} tells a video from others."
        )
    if queue is None:
        return
    if (size := len(queue.keys)) > len(data):
        raise UserError(
            f"--objective.queue {size} is more than the {len(data)} videos of {data.root}: a video would be its own "
            f"negative. Give {len(data)} or fewer, a multiple of --batch_size."
        )
    queue.takes(batch_size)
