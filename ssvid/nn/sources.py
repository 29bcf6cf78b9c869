"""Video ids -> one number for each source, and which rows of a batch may be negatives.

Clips of one source are no negatives of each other, even if they were cut into several files. A
video that is twice in a batch is no negative of itself.
"""

import hashlib

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ssvid.data.files import name_film
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.nn.queue import Queue, gather_all


def number_sources(video_ids: list[str], device: torch.device) -> Int[Tensor, " B"]:
    """The same number, never negative, for all cuts of one film.

    File names show which cuts belong together, as with the groups of UCF101.
    """
    return number_names(list(map(name_film, video_ids)), device)


def number_names(names: list[str], device: torch.device) -> Int[Tensor, " B"]:
    """The same number, never negative, for the same name, in every process."""
    return torch.tensor(list(map(_hash_name, names)), device=device)


def _hash_name(name: str) -> int:
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def select_first_clips(index: Int[Tensor, " b"]) -> Bool[Tensor, " B"]:
    """Which rows of the batch of all processes are the first of their video.

    `index`: the rows of the manifest of this process's clips. A batch on the border of two epochs
    may hold a video twice, and so may one in which a file that cannot be read was replaced.
    """
    videos = gather_all(index)
    is_same = videos[:, None] == videos  # B B
    rows = torch.arange(len(videos), device=videos.device)
    return is_same.int().argmax(1) == rows


def find_repeats(index: Int[Tensor, " b"]) -> Bool[Tensor, "B B"]:
    """Which pairs of different rows of the batch of all processes are of one video.

    `index`: as in `select_first_clips`. A mask keeps the shapes of a loss fixed, so no step waits
    for the device to count rows.
    """
    videos = gather_all(index)
    is_same_row = torch.eye(len(videos), dtype=torch.bool, device=videos.device)
    return (videos[:, None] == videos) & ~is_same_row


def check_batch(data: Manifest, objective: str, batch_size: int) -> None:
    """Raise UserError if every batch holds a video twice: the other clips are its negatives."""
    for part in data.list_batch_sources():
        if batch_size > len(part):
            raise UserError(
                f"--batch_size {batch_size} is more than the {len(part)} videos of {part.title}: "
                f"in {objective} a video would be its own negative. Give --batch_size {len(part)} "
                "or less."
            )


def check_pairs(data: Manifest, objective: str, batch_size: int) -> None:
    """Raise UserError if a clip's sentences would have no negatives, or be negatives of it."""
    check_negatives(data, objective, batch_size)
    check_batch(data, objective, batch_size)
    if batch_size < 2:
        raise UserError(
            f"--batch_size 1: {objective} compares a clip's sentences with those of other clips."
        )


def check_negatives(
    data: Manifest, objective: str, batch_size: int, queue: Queue | None = None
) -> None:
    """Raise UserError if the data or the queue do not suit an objective that needs negatives.

    The data need two films, and so does each part of a mixture whose batches alternate; the
    negatives of a queue come from all parts. The queue must not hold a video twice, and steps must
    fill it evenly.
    """
    for part in [data] if queue is not None else data.list_batch_sources():
        if len(set(map(name_film, part.video_ids))) < 2:
            raise UserError(
                f"{part.title} has one video (or cuts of one) to train on: {objective} tells a "
                "video from others."
            )
    if queue is None:
        return
    if (size := len(queue.keys)) > len(data):
        raise UserError(
            f"--objective.queue {size} is more than the {len(data)} videos of {data.title}: a "
            f"video would be its own negative. Give {len(data)} or fewer, a multiple of "
            "--batch_size."
        )
    queue.check_step(batch_size)
