"""flags that all trainings share -> a run in its folder: what `ssvid.pretrain` and `ssvid.finetune` both do, once."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from ssvid.data.loader import train_loader
from ssvid.data.manifest import Manifest
from ssvid.data.quarantine import Quarantine
from ssvid.data.samples import Samples
from ssvid.encoder import Encoder
from ssvid.engine.checkpoint import RunFolder, flat, provenance, whole_state
from ssvid.engine.distributed import World, agree, gather, join, together
from ssvid.engine.loop import Settings, Trained, export, train
from ssvid.engine.rendezvous import host_name
from ssvid.errors import RunError, UserError
from ssvid.log import log
from ssvid.objective import Objective
from ssvid.shapes import Views


@dataclass(frozen=True)
class ClipChange:
    """The user's word on clips, over the objective's and the encoder's own."""

    frames: int | None = None
    fps: float | None = None  # frames a second
    stride: int | None = None  # of the file's frames, instead of fps
    whole: bool | None = None  # frames spread evenly over the whole video, instead of fps and stride
    size: int | None = None  # pixels
    modality: Literal["rgb", "flow"] | None = None  # flow: see ssvid.data.preprocess.flow

    def views(self, views: Views) -> Views:
        """Of two streams each keeps its modality: the user's is that of the encoder."""
        change = {key: value for key, value in self.given().items() if key != "modality"}
        return replace(views, clips=tuple(replace(spec, **change) for spec in views.clips))

    def onto(self, net: Encoder) -> None:
        """The encoder's own clip changed in place."""
        net.spec = spec = replace(net.spec, **self.given())
        if not net.grid(spec.frames, spec.size, spec.size).n:
            raise UserError(
                f"{net.name} makes no token of a clip of {spec.frames} frames, {spec.size} pixels: give it more with "
                "--clip.frames, --clip.size."
            )

    def given(self) -> dict[str, Any]:
        """One way to space the frames undoes the others."""
        spaced = {"fps": self.fps is not None, "stride": self.stride is not None, "whole": bool(self.whole)}
        if sum(spaced.values()) > 1:
            raise UserError("--clip.fps, --clip.stride and --clip.whole exclude each other: give one.")
        change = {k: v for k, v in vars(self).items() if v is not None}
        return {**(SPACED_OTHERWISE if any(spaced.values()) else {}), **change}


LISTED_S = 90.0  # a node's list of a network folder may be a minute old

SPACED_OTHERWISE = {"fps": None, "stride": None, "whole": False}
UNCHANGED = ClipChange()


def begin(folder: RunFolder, config: dict[str, Any], devices: str, threads: int | None, timeout_s: float) -> World:
    """This process among the others, all started alike, with the threads that the run began with."""
    threads = threads or folder.known("threads")  # a run goes on as it began, else sums are rounded otherwise
    if threads is not None:
        torch.set_num_threads(threads)
    world = join(devices, timeout_s)
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
    torch.manual_seed(settings.seed + world.rank)  # dropout; what a sample or a mask is never comes from here
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
    with together(world):
        numbers = train(trained, batches, clips.views, settings, folder, quarantine, config, probe)
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


def steps_of(steps: int | None, epochs: float | None, rows: int, batch_size: int) -> int:
    if steps is not None and epochs is None:
        return steps
    if epochs is not None and steps is None:
        return max(1, round(epochs * rows / batch_size))
    raise UserError("Say how long to train: --steps N or --epochs N, one of the two.")


def announce(trained: Trained, data: Manifest, settings: Settings, folder: RunFolder) -> None:
    parameters = sum(p.numel() for p in trained.objective.parameters())
    disk = 12 * parameters * (settings.keep + 1) / 1e6  # weights and two moments, in MB
    where = f"going on at step {trained.step} of" if trained.step else "training"
    log.info(
        f"{folder.path}: {where} {settings.steps} steps of {settings.batch_size} clips from {len(data)} videos "
        f"({settings.steps * settings.batch_size / len(data):.1f} epochs); {parameters / 1e6:.1f} M parameters;"
        f"{trained.turbo.said if trained.turbo else ''} learning rate {settings.lr:.2e}; checkpoints take up to "
        f"{disk:.0f} MB. The bar shows the time left."
    )
