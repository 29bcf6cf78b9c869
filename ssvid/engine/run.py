"""flags that all trainings share -> a run in its folder: what `ssvid.pretrain` and `ssvid.finetune` both do, once."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch

from ssvid.data.loader import train_loader
from ssvid.data.manifest import Manifest
from ssvid.data.quarantine import Quarantine
from ssvid.data.samples import Samples
from ssvid.engine.checkpoint import RunFolder, flat, provenance, whole_state
from ssvid.engine.distributed import World, agree, gather, join, together
from ssvid.engine.loop import Trained, export, train
from ssvid.engine.rendezvous import host_name
from ssvid.engine.settings import Settings
from ssvid.engine.train_flags import TrainFlags
from ssvid.errors import RunError
from ssvid.log import log
from ssvid.objective import Objective

LISTED_S = 90.0  # a node's list of a network folder may be a minute old


def begin(folder: RunFolder, config: dict[str, Any], flags: TrainFlags) -> World:
    """This process among the others, all started alike, with the threads that the run began with."""
    threads = flags.threads or folder.known("threads")  # with others, sums are rounded otherwise
    if threads is not None:
        torch.set_num_threads(threads)
    world = join(flags.devices, flags.timeout_s)
    agree(flat(config), world)
    return world


def run(
    trained: Trained,
    clips: Samples,
    settings: Settings,
    folder: RunFolder,
    config: dict[str, Any],
    workers: int,
    max_bad: float,
    probe: Callable[[Objective], dict[str, float]] | None = None,
) -> dict[str, Any]:
    """From the newest checkpoint of the folder, which the caller holds, to the last step."""
    world, data = trained.world, clips.manifest
    torch.manual_seed(
        settings.seed + world.rank
    )  # dropout; what a sample or a mask is never comes from here
    state = newest(folder, world)
    if state is not None:
        trained.restore(state)
        if world.first:
            export(trained, folder, config)  # a kill may have come between checkpoint and export
    if world.first:
        provenance(folder, data)
        announce(trained, data, settings, folder)
    batches = train_loader(
        clips,
        batch_size=settings.batch_size,
        steps=settings.steps,
        start_step=trained.step,
        rank=world.rank,
        world=world.size,
        accumulate=settings.accumulate,
        workers=workers,
    )
    quarantine = Quarantine(folder.path if world.first else None, len(data), max_bad)
    with together(world), closing(iter(batches)) as feed:
        numbers = train(trained, feed, clips.views, settings, folder, quarantine, config, probe)
    return {"out": str(folder.path), "step": trained.step, **numbers, "bad_files": len(quarantine)}


def newest(folder: RunFolder, world: World) -> dict[str, Any] | None:
    """The checkpoint from which all processes go on: the first finds it, and sets damaged ones aside."""
    state = folder.newest() if world.first else None
    step = gather(state and state["step"], world)[0]
    if world.first or step is None:
        return state
    deadline = time.monotonic() + LISTED_S
    while not (path := [p for p in folder.whole() if int(p.stem.removeprefix("step_")) == step]):
        if time.monotonic() > deadline:
            raise RunError(
                f"Process {world.rank} on {host_name()} does not see the checkpoint of step {step} in {folder.path}, "
                "from which process 0 goes on. Put --out on a file system that all nodes share."
            )
        time.sleep(0.5)
    return whole_state(path[0])


def announce(trained: Trained, data: Manifest, settings: Settings, folder: RunFolder) -> None:
    parameters = sum(p.numel() for p in trained.objective.parameters())
    disk = 12 * parameters * (settings.keep_checkpoints + 1) / 1e6  # weights and two moments, in MB
    where = f"going on at step {trained.step} of" if trained.step else "training"
    log.info(
        f"{folder.path}: {where} {settings.steps} steps of {settings.batch_size} clips from {len(data)} videos "
        f"({settings.steps * settings.batch_size / len(data):.1f} epochs); {parameters / 1e6:.1f} M parameters;"
        f"{trained.turbo.said if trained.turbo else ''} learning rate {settings.lr:.2e}; checkpoints take up to "
        f"{disk:.0f} MB. The bar shows the time left."
    )
