"""Objective and batches -> trained weights: the one training loop.

It knows no method and no data set.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ssvid.data.quarantine import Quarantine
from ssvid.engine import optim
from ssvid.engine.checkpoint import RunFolder
from ssvid.engine.collapse import FiniteCheck
from ssvid.engine.distributed import World, gather
from ssvid.engine.settings import Settings
from ssvid.engine.stop import Stop
from ssvid.engine.to_device import to_device
from ssvid.engine.token_dropping import Turbo
from ssvid.engine.train_log import ProbeFunction, TrainLog
from ssvid.errors import RunError, Stopped
from ssvid.objective import Objective
from ssvid.randomness import prepare_for_compile
from ssvid.shapes import Batch, Loss, Views
from ssvid.text.joint_files import save_joint
from ssvid.weights.encoders import save_encoder
from ssvid.weights.state_dict import load_state


@dataclass
class Trained:
    """The state of a run: everything that a checkpoint holds."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    world: World
    # Drops tokens. Its choices come from coordinates, so a checkpoint does not hold it.
    turbo: Turbo | None = None
    step: int = 0
    # Of each process, the losses since the last line of the log, from the checkpoint.
    unlogged: Sequence[dict[str, Any]] = ()

    def state(self, config: dict[str, Any], unlogged: dict[str, Any]) -> dict[str, Any]:
        """The state as a checkpoint. Every process has to call it."""
        is_cuda = self.world.device.type == "cuda"
        cuda = torch.cuda.get_rng_state() if is_cuda else None
        return {
            "step": self.step,
            "model": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            # Dropout draws from torch's generator, one for each process.
            "rng": gather({"cpu": torch.get_rng_state(), "cuda": cuda}, self.world),
            "config": config,
            "unlogged": gather(unlogged, self.world),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.step = state["step"]
        self.unlogged = state.get("unlogged", ())
        load_state(self.objective, state["model"], "The run's checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])
        rng = state["rng"][self.world.rank % len(state["rng"])]
        torch.set_rng_state(rng["cpu"])
        if rng["cuda"] is not None and self.world.device.type == "cuda":
            torch.cuda.set_rng_state(rng["cuda"])


def train(
    trained: Trained,
    batches: Iterable[Batch],
    views: Views,
    settings: Settings,
    folder: RunFolder,
    quarantine: Quarantine,
    config: dict[str, Any],
    probe: ProbeFunction | None = None,  # scores the features every `probe_every` steps
) -> dict[str, float]:
    """Train from `trained.step` to `settings.steps` and return the last logged numbers.

    Raises `Stopped` after a signal, and a RunError for a loss that is NaN, for collapsed features
    and for too many bad files.
    """
    world, objective = trained.world, trained.objective
    forward = wrap_objective(objective, settings, world)
    finite = FiniteCheck()
    bad_files: list[Any] = []  # of this process, since the last line of the log
    objective.train()
    with Stop(world) as stop, TrainLog(folder, trained.step, settings, world) as log:
        if len(trained.unlogged) == world.size:
            log.restore(trained.unlogged[world.rank])
        # The loader's workers start here, inside Stop, so that they inherit its signal handlers.
        feed = iter(batches)
        while trained.step < settings.steps:
            rate = settings.rate(trained.step)
            optim.set_rates(trained.optimizer, rate, freeze=trained.step < settings.freeze_steps)
            skip = False
            for micro in range(settings.accumulate):
                with log.waiting():
                    raw = next(feed)
                quarantine.take(raw)
                bad_files += raw["bad_files"]
                batch = to_device(raw, views, world.device)
                is_last = micro == settings.accumulate - 1
                loss = backpropagate(trained, forward, batch, settings, is_last)
                finite.add(trained.step, "loss", loss.total, batch["video_id"])
                log.add(loss, raw)
                skip |= loss.skip
            norm = optim.clip_norm(objective, settings.clip_grad)
            finite.add(trained.step, "gradient's norm", norm, batch["video_id"])
            if not skip:
                trained.optimizer.step()
            trained.optimizer.zero_grad(set_to_none=True)
            trained.step += 1
            objective.after_step(trained.step / settings.steps)
            log.time_step(trained.step)

            final = trained.step == settings.steps
            # After a signal, all processes stop after this step.
            signal = 0 if final else stop.agree_on_signal()
            is_logged = is_due(settings.log_every, trained.step) or final
            if is_logged or signal:
                finite.check(folder.describe_newest())
                share_bad_files(bad_files, quarantine, world)
            if is_logged:
                log.write(trained.step, {"lr": rate, "grad_norm": float(norm)})
            elif signal:
                log.write_cost(trained.step)
            if (is_due(settings.picture_every, trained.step) and not signal) or final:
                numbers = log.log_pictures(trained.step, objective, batch, views)
                check_collapse(numbers, trained, settings, folder)
            if (is_due(settings.probe_every, trained.step) and not signal) or final:
                log.probe(trained.step, objective, probe)
            if is_due(settings.checkpoint_every, trained.step) or final or signal:
                finite.check(folder.describe_newest())
                save(trained, folder, config, settings.keep_checkpoints, log.state())
            if signal:
                # Barrier: no process may exit, and so end the others, before the first has written.
                gather(None, world)
                raise Stopped(signal, trained.step)
    return log.latest_metrics | log.probe_scores


def backpropagate(
    trained: Trained,
    forward: Callable[[Batch], Loss],
    batch: Batch,
    settings: Settings,
    is_last: bool,  # of the micro-batches of a step
) -> Loss:
    """Add the gradients of one micro-batch."""
    if trained.turbo:
        trained.turbo.begin(batch, trained.step)
    with sync_gradients(forward, is_last), autocast(settings, trained.world):
        loss = forward(batch)
    (loss.total / settings.accumulate).backward()
    return loss


def is_due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0


def check_collapse(
    numbers: dict[str, float], trained: Trained, settings: Settings, folder: RunFolder
) -> None:
    """Stop all processes with a RunError if the features of the first one have collapsed."""
    if settings.stop_on_collapse is None:
        return
    ranks = [value for name, value in numbers.items() if name.endswith("effective_rank")]
    lowest = min(ranks, default=math.inf)
    if gather(lowest, trained.world)[0] >= settings.stop_on_collapse:
        return
    newest = folder.describe_newest()
    raise RunError(
        f"The features have collapsed: at step {trained.step} their effective rank is "
        f"{lowest:.2f}, less than --stop_on_collapse {settings.stop_on_collapse:g} (it can be 1 to "
        f"the number of monitored clips, less one). The last checkpoint is {newest}."
    )


def share_bad_files(bad_files: list[Any], quarantine: Quarantine, world: World) -> None:
    """Give the bad files of every process to the quarantine of all, so that all stop alike."""
    for files in gather(bad_files, world):
        for file in files:
            quarantine.add(*file)
    bad_files.clear()
    quarantine.check()


def wrap_objective(
    objective: Objective, settings: Settings, world: World
) -> Callable[[Batch], Loss]:
    """The objective inside DistributedDataParallel and torch.compile, as far as they are used."""
    module: nn.Module = objective
    if world.size > 1:
        module = DistributedDataParallel(module)  # on the device that its parameters are on
    if not settings.compile:
        return module
    prepare_for_compile()
    return torch.compile(module)


def sync_gradients(
    forward: Callable[[Batch], Loss], is_last: bool
) -> contextlib.AbstractContextManager[None]:
    """Processes exchange gradients once per step, with the last micro-batch."""
    if isinstance(forward, DistributedDataParallel) and not is_last:
        return forward.no_sync()
    return contextlib.nullcontext()


def autocast(settings: Settings, world: World) -> torch.autocast:
    return torch.autocast(world.device.type, torch.bfloat16, enabled=settings.bf16)


def save(
    trained: Trained,
    folder: RunFolder,
    config: dict[str, Any],
    keep: int,
    unlogged: dict[str, Any],
) -> None:
    """Write a checkpoint and the exported encoders. Every process has to call it."""
    state = trained.state(config, unlogged)
    if trained.world.first:
        trained.world.announce_activity("writes a checkpoint")
        folder.save(trained.step, state, keep)
        export(trained, folder, config)
        trained.world.announce_activity("")


def export(trained: Trained, folder: RunFolder, config: dict[str, Any]) -> None:
    """Write the encoders as they are now, and what belongs to them, beside the checkpoints."""
    for name, encoder in trained.objective.exported_encoders().items():
        save_encoder(encoder, folder.path, name, {"config": config, "step": trained.step})
    trained.objective.save_assets(folder.path)
    joint_space = trained.objective.joint_space()
    if joint_space is not None:
        save_joint(joint_space, folder.path)
