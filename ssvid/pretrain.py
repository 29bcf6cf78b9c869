"""clips -> a pretrained encoder: `python -m ssvid.pretrain --objective NAME --encoder NAME --data NAME --out DIR`."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, cast

import torch

from ssvid import registry
from ssvid.data.manifest import Manifest
from ssvid.data.training import training
from ssvid.encoder import Encoder
from ssvid.engine import optim
from ssvid.engine.checkpoint import RunFolder
from ssvid.engine.loop import Settings, Trained
from ssvid.engine.online import OnlineProbe
from ssvid.engine.run import UNCHANGED, ClipChange, begin, run, steps_of
from ssvid.engine.token_dropping import Turbo, recompute_blocks, told
from ssvid.engine.warm_start import warm_start
from ssvid.errors import UserError, positive, within
from ssvid.nn.sync_bn import synchronise
from ssvid.objective import Objective

POSITIVE = (
    *("steps", "epochs", "batch_size", "accumulate", "threads", "keep", "log_every", "picture_every"),
    *("checkpoint_every", "clip_grad", "probe_every", "lr_batch", "timeout_s"),
)


def pretrain(
    objective: Callable[[Encoder | None], Objective],
    data: Manifest,
    out: str,
    encoder: None | Encoder = None,  # of every objective but those on stored features
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
    drops: tuple[float, ...] = (),  # shares of the steps from which the rate falls to a tenth; no cosine then
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.95),
    clip_grad: float | None = None,  # largest gradient norm
    clip: ClipChange = UNCHANGED,
    short: Literal["pad", "drop", "error"] = "pad",  # videos shorter than a clip
    init: str | None = None,  # an exported encoder, a run folder or a checkpoint to start from
    seed: int = 0,
    precision: Literal["auto", "bf16", "fp32"] = "auto",  # auto: bf16 on a GPU
    drop_tokens: float = 0.0,  # share of a clip's tokens that encoders do not see in training; 0: none
    dense_last: float = 0.0,  # share of the steps, the last ones, in which they see all
    recompute: bool = False,  # what transformer blocks make is made again for backward: less memory, more time
    compile: bool = False,
    sync_bn: bool = True,  # batch norm over all processes; false: each its own, as DPC was published
    devices: Literal["auto", "cpu", "cuda"] = "auto",
    timeout_s: float = 600.0,  # how long a process waits for the others
    threads: int | None = None,  # of torch; null: torch's own choice
    workers: int = 2,  # loader processes
    decoder: str = "pyav",
    max_bad: float = 0.01,  # share of files that may be damaged
    log_every: int = 10,  # steps
    picture_every: int = 200,  # steps
    checkpoint_every: int = 200,  # steps
    keep: int = 2,  # checkpoints
    stop_on_collapse: float | None = None,  # least effective rank, read every picture_every steps: 1 to clips - 1
    probe_every: int | None = None,  # steps between kNN and linear probes of a few labelled train and val clips
    config: dict[str, Any],
) -> dict[str, Any]:
    """Pretrain an encoder. The same command again goes on where it stopped."""
    sane(config)
    folder = RunFolder(out)
    world = begin(folder, config, devices, threads, timeout_s)
    train_rows = data.split("train")
    if not len(train_rows):
        raise UserError(f"{data.root} has no clips in the train split, and pretraining reads no other.")
    built = build(objective, encoder, clip, config)
    views = clip.views(built.views)
    built.suits(train_rows, views, batch_size)
    if init is not None:
        warm_start(built, init)
    if world.size > 1 and sync_bn:
        synchronise(built)
    built.to(world.device)
    total = steps_of(steps, epochs, len(train_rows), batch_size)
    turbo = Turbo(built, views, drop_tokens, dense_last, total)
    if recompute:
        recompute_blocks(built)
    scale = batch_size / lr_batch if lr_batch else 1.0
    settings = Settings(
        steps=total,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr * scale,
        min_lr=min_lr * scale,
        warmup=int(warmup * total),
        drops=optim.milestones(drops, total),
        clip_grad=clip_grad,
        bf16=precision == "bf16" or (precision == "auto" and world.device.type == "cuda"),
        compile=compile,
        log_every=log_every,
        picture_every=picture_every,
        checkpoint_every=checkpoint_every,
        keep=keep,
        stop_on_collapse=stop_on_collapse,
        probe_every=probe_every,
        seed=seed,
    )
    config = told({**config, "threads": torch.get_num_threads()})
    trained = Trained(built, optim.make(optimizer, built, weight_decay, betas), world, turbo)
    samples = training(train_rows, views, seed=seed, short=short, decoder=decoder)
    probe = OnlineProbe(data, views, seed=seed, decoder=decoder, workers=workers) if probe_every else None
    with folder.opened(config, train_rows.hash) if world.first else folder.joined():
        return run(trained, samples, settings, folder, config, workers, max_bad, probe)


def sane(config: dict[str, Any]) -> None:
    """Refuse numbers that no run can have, before anything is built."""
    for name in POSITIVE:
        positive(**{name: config[name]})
    for name in ("lr", "min_lr", "weight_decay", "workers"):
        within(0, math.inf, **{name: config[name]})
    within(0, 1, warmup=config["warmup"], max_bad=config["max_bad"])


def build(
    objective: Callable[[Encoder | None], Objective], encoder: Encoder | None, clip: ClipChange, config: dict[str, Any]
) -> Objective:
    """The objective on its encoder, whose clip is as the user wants it; or on none, where it learns from features."""
    name = config["objective"]["name"]
    needs_none = cast(type[Objective], registry.objectives[name]).on_features
    if needs_none != (encoder is None):
        raise UserError(
            f"--encoder is missing: choose one of {', '.join(registry.encoders.names())}."
            if encoder is None
            else f"{name} learns from stored features and takes no encoder: leave out --encoder."
        )
    if encoder is not None:
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in config["encoder"].items() if k != "name"}
        encoder.name, encoder.kwargs, encoder.spec = (
            config["encoder"]["name"],
            given,
            replace(encoder.spec, **clip.given()),
        )
    return objective(encoder)


if __name__ == "__main__":
    from ssvid.cli import command

    command(pretrain)
