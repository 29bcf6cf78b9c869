"""clips -> a pretrained encoder: `python -m ssvid.pretrain --objective NAME --encoder NAME --data NAME --out DIR`."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from ssvid.data.clips import Clips
from ssvid.data.loader import train_loader
from ssvid.data.manifest import Manifest
from ssvid.data.quarantine import Quarantine
from ssvid.encoder import Encoder
from ssvid.engine import optim
from ssvid.engine.checkpoint import RunFolder, flat, provenance
from ssvid.engine.distributed import agree, gather, join
from ssvid.engine.loop import Settings, Trained, export, train
from ssvid.errors import UserError, positive, within
from ssvid.nn.sync_bn import synchronise
from ssvid.objective import Objective
from ssvid.shapes import Views
from ssvid.weights import warm_start


@dataclass(frozen=True)
class ClipChange:
    """The user's word on clips, over the objective's and the encoder's own."""

    frames: int | None = None
    fps: float | None = None  # instead of stride
    stride: int | None = None  # of the file's frames, instead of fps
    size: int | None = None  # pixels

    def views(self, views: Views) -> Views:
        return replace(views, clips=tuple(replace(spec, **self.given()) for spec in views.clips))

    def given(self) -> dict[str, Any]:
        if self.fps is not None and self.stride is not None:
            raise UserError("--clip.fps and --clip.stride exclude each other: give one.")
        change = {k: v for k, v in vars(self).items() if v is not None}
        other = {"fps": "stride", "stride": "fps"}
        return {**{other[k]: None for k in change if k in other}, **change}


def pretrain(
    objective: Callable[[Encoder], Objective],
    encoder: Encoder,
    data: Manifest,
    out: str,
    *,
    steps: int | None = None,
    epochs: float | None = None,  # instead of steps
    batch_size: int = 256,  # over all processes
    accumulate: int = 1,  # micro-batches of a step
    optimizer: optim.Name = "adamw",
    lr: float = 1.5e-4,  # for lr_batch clips
    lr_batch: int | None = 256,  # the rate grows with batch_size / lr_batch; null: as it is
    min_lr: float = 1e-5,  # scaled like lr
    warmup: float = 0.05,  # share of the steps
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.95),
    clip_grad: float | None = None,  # largest gradient norm
    clip: ClipChange = ClipChange(),
    short: Literal["pad", "drop", "error"] = "pad",  # videos shorter than a clip
    init: str | None = None,  # an exported encoder, a run folder or a checkpoint to start from
    seed: int = 0,
    precision: Literal["auto", "bf16", "fp32"] = "auto",  # auto: bf16 on a GPU
    compile: bool = False,
    sync_bn: bool = True,  # batch norm over all processes; false: each its own, as DPC was published
    devices: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,  # of torch; null: torch's own choice
    workers: int = 2,  # loader processes
    decoder: str = "pyav",
    max_bad: float = 0.01,  # share of files that may be damaged
    log_every: int = 10,  # steps
    picture_every: int = 200,  # steps
    checkpoint_every: int = 200,  # steps
    keep: int = 2,  # checkpoints
    stop_on_collapse: float | None = None,  # least effective rank, read every picture_every steps; 1: all clips alike
    config: dict[str, Any],
) -> dict[str, Any]:
    """Pretrain an encoder. The same command again goes on where it stopped."""
    positive(steps=steps, epochs=epochs, batch_size=batch_size, accumulate=accumulate, threads=threads, keep=keep)
    positive(log_every=log_every, picture_every=picture_every, checkpoint_every=checkpoint_every, clip_grad=clip_grad)
    positive(lr_batch=lr_batch)
    within(0, math.inf, lr=lr, min_lr=min_lr, weight_decay=weight_decay, workers=workers)
    within(0, 1, warmup=warmup, max_bad=max_bad)
    folder = RunFolder(out)
    threads = threads or folder.known("threads")  # a run goes on as it began, else sums are rounded otherwise
    if threads is not None:
        torch.set_num_threads(threads)
    world = join(devices)
    agree(flat(config), world)
    train_rows = data.split("train")
    if not len(train_rows):
        raise UserError(f"{data.root} has no clips in the train split, and pretraining reads no other.")
    encoder.kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in config["encoder"].items() if k != "name"}
    encoder.name = config["encoder"]["name"]
    encoder.spec = replace(encoder.spec, **clip.given())
    built = objective(encoder)
    views = clip.views(built.views)
    if init is not None:
        warm_start(built, init)
    if world.size > 1 and sync_bn:
        synchronise(built)
    built.to(world.device)
    total = _steps(steps, epochs, len(train_rows), batch_size)
    scale = batch_size / lr_batch if lr_batch else 1.0
    settings = Settings(
        steps=total,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr * scale,
        min_lr=min_lr * scale,
        warmup=int(warmup * total),
        clip_grad=clip_grad,
        bf16=precision == "bf16" or (precision == "auto" and world.device.type == "cuda"),
        compile=compile,
        log_every=log_every,
        picture_every=picture_every,
        checkpoint_every=checkpoint_every,
        keep=keep,
        stop_on_collapse=stop_on_collapse,
        seed=seed,
    )
    config = {**config, "threads": torch.get_num_threads()}
    trained = Trained(built, optim.make(optimizer, built, weight_decay, betas), world)
    clips = Clips(train_rows, views, seed=seed, short=short, decoder=decoder)
    with folder.opened(config, train_rows.hash) if world.first else folder.joined():
        return _run(trained, clips, settings, folder, config, workers, max_bad)


def _run(
    trained: Trained,
    clips: Clips,
    settings: Settings,
    folder: RunFolder,
    config: dict[str, Any],
    workers: int,
    max_bad: float,
) -> dict[str, Any]:
    world, data = trained.world, clips.manifest
    torch.manual_seed(settings.seed + world.rank)  # dropout; what a sample or a mask is never comes from here
    state = folder.newest() if world.first else None
    gather(None, world)  # the first sets damaged files aside before the others look
    state = state if world.first else folder.newest()
    if state is not None:
        trained.restore(state)
        if world.first:
            export(trained, folder, config)  # a kill may have come between checkpoint and export
    if world.first:
        provenance(folder.path, data)
        _announce(trained, data, settings, folder)
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
    numbers = train(trained, batches, clips.views, settings, folder, quarantine, config)
    return {"out": str(folder.path), "step": trained.step, **numbers, "bad_files": len(quarantine)}


def _steps(steps: int | None, epochs: float | None, rows: int, batch_size: int) -> int:
    if steps is not None and epochs is None:
        return steps
    if epochs is not None and steps is None:
        return max(1, round(epochs * rows / batch_size))
    raise UserError("Say how long to train: --steps N or --epochs N, one of the two.")


def _announce(trained: Trained, data: Manifest, settings: Settings, folder: RunFolder) -> None:
    parameters = sum(p.numel() for p in trained.objective.parameters())
    disk = 12 * parameters * (settings.keep + 1) / 1e6  # weights and two moments, in MB
    where = f"going on at step {trained.step} of" if trained.step else "training"
    print(
        f"{folder.path}: {where} {settings.steps} steps of {settings.batch_size} clips from {len(data)} videos "
        f"({settings.steps * settings.batch_size / len(data):.1f} epochs); {parameters / 1e6:.1f} M parameters; "
        f"learning rate {settings.lr:.2e}; checkpoints take up to {disk:.0f} MB. The bar shows the time left.",
        file=sys.stderr,
    )


if __name__ == "__main__":
    from ssvid.cli import command

    command(pretrain)
