"""objective, flags -> Trained: what `ssvid.pretrain` and `ssvid.finetune` do before the loop."""

from contextlib import AbstractContextManager
from typing import Any

import torch

from ssvid.engine import optim
from ssvid.engine.checkpoint import RunFolder
from ssvid.engine.distributed import World
from ssvid.engine.loop import Trained
from ssvid.engine.token_dropping import Turbo, told
from ssvid.engine.train_flags import TrainFlags
from ssvid.nn.sync_bn import synchronise
from ssvid.nn.transformer import recompute_blocks
from ssvid.objective import Objective
from ssvid.shapes import Views


def prepare(
    objective: Objective,
    views: Views,
    flags: TrainFlags,
    steps: int,
    world: World,
    rates: dict[str, float] | None = None,  # parameter -> its share of the learning rate
    freeze: tuple[str, ...] = (),  # beginnings of parameter names that may be frozen at first
) -> Trained:
    """The built objective on its device, with what the flags add to it and its optimiser."""
    if world.size > 1 and flags.sync_bn:
        synchronise(objective)
    objective.to(world.device)
    turbo = Turbo(objective, views, flags.drop_tokens, flags.dense_last, steps)
    if flags.recompute:
        recompute_blocks(objective)
    decay, betas = flags.weight_decay, flags.betas
    optimizer = optim.make(flags.optimizer, objective, decay, betas, rates, freeze)
    return Trained(objective, optimizer, world, turbo)


def identify(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration by which a run is known: the threads in use are a part of it."""
    return told({**config, "threads": torch.get_num_threads()})


def hold(
    folder: RunFolder,
    config: dict[str, Any],
    rows: str,  # hash of the clips that are read
    world: World,
) -> AbstractContextManager[RunFolder]:
    """The folder for the time of a run: the first process writes it, the others write nothing."""
    return folder.opened(config, rows) if world.first else folder.joined()
