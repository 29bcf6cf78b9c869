"""Objective and flags -> Trained: the steps of `ssvid.pretrain` and `ssvid.finetune` before the
loop.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch

from ssvid.data.manifest import Manifest
from ssvid.engine import optim
from ssvid.engine.checkpoint import RunFolder
from ssvid.engine.distributed import World
from ssvid.engine.loop import Trained
from ssvid.engine.token_dropping import Turbo, without_unset_flags
from ssvid.engine.train_flags import TrainFlags
from ssvid.errors import UserError
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
    freeze: tuple[str, ...] = (),  # beginnings of parameter names that may be frozen at first
) -> Trained:
    """Move the objective to its device, apply the flags to it, and build its optimiser."""
    if world.size > 1 and flags.sync_bn:
        synchronise(objective)
    objective.to(world.device)
    turbo = Turbo(objective, views, flags.drop_tokens, flags.dense_last, steps)
    if flags.recompute:
        recompute_blocks(objective)
    decay, betas, rates = flags.weight_decay, flags.betas, objective.compute_rate_factors()
    optimizer = optim.make(flags.optimizer, objective, decay, betas, rates, freeze)
    return Trained(objective, optimizer, world, turbo)


def check_parts(objective: Objective, rows: Manifest, views: Views) -> None:
    """Raise a UserError if the encoder cannot take the clip that a part of a mixture has."""
    for part in rows.mixture.parts if rows.mixture else ():
        of_part = part.change(views)
        if of_part == views:
            continue
        net, spec = objective.encoder, of_part.clips[0]
        if net.fixed_frames and spec.frames != net.spec.frames:
            raise UserError(
                f"The part {part.name} of the mixture has clips of {spec.frames} frames, and this "
                f"{net.name} takes {net.spec.frames} alone: leave out its clip."
            )
        if not net.grid(spec.frames, spec.size, spec.size).n:
            raise UserError(
                f"The part {part.name} of the mixture: {net.name} makes no token of a clip of "
                f"{spec.frames} frames, {spec.size} pixels: give it more, or another encoder."
            )


def identify(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration that identifies a run. The number of threads in use is a part of it."""
    return without_unset_flags({**config, "threads": torch.get_num_threads()})


def hold(
    folder: RunFolder,
    config: dict[str, Any],
    rows: str,  # hash of the clips that the run reads
    world: World,
) -> AbstractContextManager[RunFolder]:
    """Hold the folder for the time of a run. Only the first process writes it."""
    if world.first:
        return folder.open_as_writer(config, rows)
    return folder.open_as_reader()
