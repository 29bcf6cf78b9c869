"""Video ids -> one number for each source.

Clips of one source are no negatives of each other, even if they were cut into several files.
"""

import hashlib

import torch
from jaxtyping import Int
from torch import Tensor

from ssvid.data.files import name_film
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.nn.queue import Queue


def number_sources(video_ids: list[str], device: torch.device) -> Int[Tensor, " B"]:
    """The same number, never negative, for all cuts of one film.

    File names show which cuts belong together, as with the groups of UCF101.
    """
    return torch.tensor([_hash_name(name_film(name)) for name in video_ids], device=device)


def _hash_name(name: str) -> int:
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def check_negatives(
    data: Manifest, objective: str, batch_size: int, queue: Queue | None = None
) -> None:
    """Raise UserError if the data or the queue do not suit an objective that needs negatives.

    The data need two sources. The queue must not hold a video twice, and steps must fill it evenly.
    """
    if len({name_film(name) for name in data.video_ids}) < 2:
        raise UserError(
            f"{data.root} has one video (or cuts of one) to train on: {objective} tells a video "
            "from others."
        )
    if queue is None:
        return
    if (size := len(queue.keys)) > len(data):
        raise UserError(
            f"--objective.queue {size} is more than the {len(data)} videos of {data.root}: a video "
            f"would be its own negative. Give {len(data)} or fewer, a multiple of --batch_size."
        )
    queue.check_step(batch_size)
