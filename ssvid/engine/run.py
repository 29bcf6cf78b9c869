"""Built objective and clips -> a run in its folder.

`ssvid.pretrain` and `ssvid.finetune` use it.
"""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch

from ssvid.data.decode import need_decoder
from ssvid.data.loader import train_loader
from ssvid.data.manifest import Manifest
from ssvid.data.quarantine import Quarantine
from ssvid.data.samples import Samples
from ssvid.engine.checkpoint import (
    RunFolder,
    flatten_config,
    read_log,
    read_training_state,
    write_provenance,
)
from ssvid.engine.distributed import World, agree, gather, join, together
from ssvid.engine.loop import Trained, export, train
from ssvid.engine.rendezvous import host_name
from ssvid.engine.settings import Settings
from ssvid.engine.train_flags import TrainFlags, count_steps
from ssvid.errors import RunError, UserError
from ssvid.log import log
from ssvid.objective import Objective

LISTING_DELAY_S = 90.0  # another node may see a file of a network folder a minute late


def begin(folder: RunFolder, config: dict[str, Any], flags: TrainFlags) -> World:
    """Set the threads and join the other processes of the run.

    A resumed run keeps its number of threads, because another number rounds sums differently. A
    UserError if the processes were started with different settings, if the decoder is not installed
    or if the folder cannot be written. Nothing is made or announced before.
    """
    need_decoder(flags.decoder)
    folder.check_place()
    threads = flags.threads or folder.read_setting("threads")
    if threads is not None:
        if not isinstance(threads, int) or threads < 1:
            raise UserError(
                f"The config of the run {folder.path} says threads {threads!r}, which is no number "
                "of threads: correct it, or give --threads."
            )
        torch.set_num_threads(threads)
    world = join(flags.devices, flags.timeout_s)
    agree(flatten_config(config), world)
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
    """Train from the newest checkpoint of the folder to the last step.

    The caller holds the folder's lock.
    """
    world, data = trained.world, clips.manifest
    # Only dropout draws from torch's generator. Samples and masks never do.
    torch.manual_seed(settings.seed + world.rank)
    state = find_newest_checkpoint(folder, world)
    if state is not None:
        trained.restore(state)
        if world.first:
            # A kill may have come between the checkpoint and the export.
            export(trained, folder, config)
            warn_of_other_length(state, settings, len(data), folder)
    quarantine = Quarantine(folder.path if world.first else None, len(data), max_bad)
    result = {"out": str(folder.path), "step": trained.step}
    if trained.step >= settings.steps:
        numbers = read_last_line(folder) if world.first else {}
        if world.first:
            announce_end(trained, numbers, settings, folder)
        return {**result, **numbers, "bad_files": len(quarantine)}
    if world.first:
        write_provenance(folder, data)
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
    with together(world), closing(iter(batches)) as feed:
        numbers = train(trained, feed, clips.views, settings, folder, quarantine, config, probe)
    return {**result, "step": trained.step, **numbers, "bad_files": len(quarantine)}


def find_newest_checkpoint(folder: RunFolder, world: World) -> dict[str, Any] | None:
    """The checkpoint that all processes resume from; None for a new run.

    The first process chooses it and renames damaged ones. A RunError if another process does not
    see the file.
    """
    state = folder.load_newest() if world.first else None
    step = gather(state and state["step"], world)[0]
    if world.first or step is None:
        return state
    deadline = time.monotonic() + LISTING_DELAY_S
    while True:
        for path in folder.list_checkpoints():
            if int(path.stem.removeprefix("step_")) == step:
                return read_training_state(path)
        if time.monotonic() > deadline:
            raise RunError(
                f"Process {world.rank} on {host_name()} does not see the checkpoint of step {step} "
                f"in {folder.path}, from which process 0 goes on. Put --out on a file system that "
                "all nodes share."
            )
        time.sleep(0.5)


def warn_of_other_length(
    state: dict[str, Any], settings: Settings, videos: int, folder: RunFolder
) -> None:
    """Warn if a checkpoint was written by a run of another number of steps.

    To train longer is allowed. But the schedule of the learning rate and of momentum depends on the
    number of all steps, so the result is not the one that a single run of that length has.
    """
    config = state.get("config", {})
    if config.get("steps") is None and config.get("epochs") is None:
        return  # a checkpoint of a version that did not record it
    before = count_steps(config.get("steps"), config.get("epochs"), videos, settings.batch_size)
    if before == settings.steps or state["step"] >= settings.steps:
        return
    rate = settings.rate(state["step"])
    log.warning(
        f"{folder.path} was trained for {before} steps and goes on to {settings.steps}: from step "
        f"{state['step']} on the learning rate is that of a run of {settings.steps} steps "
        f"({rate:.1e} here), so the result is not that of {settings.steps} steps in one go. For a "
        f"schedule of its own give --init {folder.path} and a new --out."
    )


def read_last_line(folder: RunFolder) -> dict[str, Any]:
    """The numbers of the last line of losses of a run; {} if its log has none."""
    numbers: dict[str, Any] = {}
    for row in read_log(folder.path):
        if "loss" in row:
            numbers = {name: value for name, value in row.items() if name != "step"}
    return numbers


def announce_end(
    trained: Trained, numbers: dict[str, Any], settings: Settings, folder: RunFolder
) -> None:
    """Log that the run has nothing left to do, with its last loss and where its encoders lie."""
    files = [f"{name}.safetensors" for name in trained.objective.exported_encoders()]
    paths = ", ".join(str(folder.path / file) for file in files) or str(folder.path)
    loss = f", loss {numbers['loss']:.4f}" if "loss" in numbers else ""
    log.info(
        f"{folder.path} is finished already: step {trained.step} of {settings.steps}{loss}. Its "
        f"weights are in {paths}. To train on, give more --steps, or --init {folder.path} and a "
        "new --out."
    )


def announce(trained: Trained, data: Manifest, settings: Settings, folder: RunFolder) -> None:
    """Log what the run is going to do."""
    parameters = sum(p.numel() for p in trained.objective.parameters())
    megabytes = 12 * parameters * (settings.keep_checkpoints + 1) / 1e6  # weights, two moments
    begin = f"going on at step {trained.step} of" if trained.step else "training"
    epochs = settings.steps * settings.batch_size / len(data)
    mixture = f" {data.mixture.describe()};" if data.mixture else ""
    log.info(
        f"{folder.path}: {begin} {settings.steps} steps of {settings.batch_size} clips from "
        f"{len(data)} videos ({epochs:.1f} epochs);{mixture} {parameters / 1e6:.1f} M parameters;"
        f"{trained.turbo.summary if trained.turbo else ''} learning rate {settings.lr:.2e}; "
        f"checkpoints take up to {megabytes:.0f} MB. The bar shows the time left."
    )
