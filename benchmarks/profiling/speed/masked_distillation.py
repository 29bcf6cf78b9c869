"""Steps of `masked_distillation` with most tokens hidden, against steps with none hidden.

The decoders, the clips and the weights of both sides are equal. `videoprism_b` on 8 x 144 x 144
pixels, so that the encoder and not the overhead decides: 8 frames as in the paper's training, and
sides of half its pixels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.profiling.speed.pairs import DEVICE, Case, steps
from ssvid import create_encoder, registry
from ssvid.shapes import Batch, Dropped, Grid, Index

NET: dict[str, Any] = {"frames": 8, "size": 144}
CLIPS = 2
PAIRS = 5


class Everything:
    """Stands for a mask and hides nothing."""

    def __call__(self, batch: Batch, grid: Grid) -> tuple[Index, Dropped]:
        tokens = torch.arange(grid.n, device=batch["clips"].device)
        return tokens.expand(len(batch["clips"]), -1), tokens[:0].expand(len(batch["clips"]), 0)


class Stored:
    """Stands for a store whose targets are read already."""

    def __init__(self, objective: Any, batch: Batch) -> None:
        self.targets = objective.teacher(batch["clips"][:, 0])

    def find(self, *_: object) -> Any:
        return self.targets


def build(name: str = "videoprism_b", **changes: object) -> Any:
    torch.manual_seed(0)
    net = create_encoder(name, **NET)
    return registry.objectives["masked_distillation"](net, **changes).to(DEVICE)


def make_batch(clips: int = CLIPS) -> Batch:
    draws, index = torch.Generator().manual_seed(0), torch.arange(clips, device=DEVICE)
    pixels = torch.rand(clips, 1, 3, NET["frames"], NET["size"], NET["size"], generator=draws)
    return {"clips": pixels.to(DEVICE), "index": index, "epoch": index, "seed": 0}


def run_step(objective: Any, batch: Batch) -> None:
    loss: Tensor = objective(batch).total
    loss.backward()
    objective.zero_grad(set_to_none=True)


def pair(is_stored: bool) -> Case:
    ours, batch = build(), make_batch()
    theirs = build()
    theirs.mask = Everything()
    if is_stored:
        for side in (ours, theirs):
            side.store = Stored(side, batch)
    case = steps(partial(run_step, ours, batch), partial(run_step, theirs, batch))
    return case._replace(pairs=PAIRS)


def distillation() -> Case:
    """The teacher is in the step of both sides."""
    return pair(is_stored=False)


def distillation_stored() -> Case:
    """The targets of both sides are stored."""
    return pair(is_stored=True)


def distillation_masks() -> Case:
    """BEVT's ragged masks against tubes that hide as many tokens; targets are stored."""
    batch, sides = make_batch(), []
    tubes = build(mask="tube")
    n_hidden = tubes.mask(batch, tubes.encoder.spec_grid())[1].shape[1]
    n = tubes.encoder.spec_grid().n
    for side in (build(mask="bevt", mask_ratio=n_hidden / n), tubes):
        side.store = Stored(side, batch)
        sides.append(partial(run_step, side, batch))
    return steps(*sides)._replace(pairs=PAIRS)


CASES: dict[str, Callable[[], Case]] = {
    "distillation": distillation,
    "distillation_stored": distillation_stored,
    "distillation_masks": distillation_masks,
}
