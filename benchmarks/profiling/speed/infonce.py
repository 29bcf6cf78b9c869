"""A pretraining step of our `infonce` against the plain way CoCLR was published in.

S3D, 4 x 2 clips of 32 frames, 128 px.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.profiling.speed.pairs import DEVICE, Case, steps
from ssvid import create_encoder, registry
from ssvid.shapes import Batch

CLIPS, FRAMES, SIZE, QUEUE = 4, 32, 128, 2048
PAIRS = 5  # a pair takes 15 CPU-seconds


def infonce() -> Case:
    """Both forward passes, backward, momentum encoder and queue, on random pixels; no optimiser.

    Both sides use the same weights.
    """
    torch.manual_seed(0)
    ours = registry.objectives["infonce"](
        create_encoder("s3d", frames=FRAMES, size=SIZE), queue=QUEUE
    ).to(DEVICE)
    theirs = Plain(ours)
    clips = torch.randn(CLIPS, 2, 3, FRAMES, SIZE, SIZE).to(DEVICE)
    batch: Batch = {"clips": clips, "seed": 0}

    def our_step() -> None:
        ours(batch).total.backward()
        ours.after_step(0.0)
        ours.zero_grad(set_to_none=True)

    def their_step() -> None:
        theirs(clips).backward()
        ours.zero_grad(set_to_none=True)

    return steps(our_step, their_step)._replace(pairs=PAIRS)


class Plain:
    """The published sequence of operations, on the parameters of our objective."""

    def __init__(self, ours: Any) -> None:  # our objective; benchmarks must not import its class
        self.ours = ours
        self.queue, self.position = ours.queue.keys.T.clone(), 0

    def __call__(self, clips: Tensor) -> Tensor:
        ours = self.ours
        first, second = clips[:, 0].contiguous(), clips[:, 1].contiguous()
        query = F.normalize(project(ours.head, plain_net(ours.encoder, first)), dim=1)
        with torch.no_grad():
            for name in ("encoder", "head"):
                pairs = zip(
                    getattr(ours, name).parameters(),
                    getattr(ours, f"key_{name}").parameters(),
                    strict=True,
                )
                for p, slow in pairs:
                    slow.data = slow.data * ours.momentum + p.data * (1.0 - ours.momentum)
            key = F.normalize(project(ours.key_head, plain_net(ours.key_encoder, second)), dim=1)
        positives = torch.einsum("nc,nc->n", [query, key]).unsqueeze(-1)
        negatives = torch.einsum("nc,ck->nk", [query, self.queue.clone().detach()])
        logits = torch.cat([positives, negatives], dim=1) / ours.temperature
        self.queue[:, self.position : self.position + len(key)] = key.T
        self.position = (self.position + len(key)) % self.queue.shape[1]
        return F.cross_entropy(
            logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        )


def project(head: Any, maps: Tensor) -> Tensor:
    """Pools to 1 x 1 x 1 and applies the two linear maps as convolutions."""
    first, _, last = head
    x = F.adaptive_avg_pool3d(maps, 1)
    x = F.relu(F.conv3d(x, first.weight[:, :, None, None, None], first.bias))
    return F.conv3d(x, last.weight[:, :, None, None, None], last.bias).flatten(1)


def plain_net(net: Any, x: Tensor) -> Tensor:
    """S3D layer by layer, in the memory layout in which the loader returns the clip."""
    for layer in (*net.stem, *net.mixed3, net.pool4, *net.mixed4, net.pool5, *net.mixed5):
        x = layer(x)
    return x
