"""labelled clips -> a classifier and its score: `python -m ssvid.finetune --encoder RUN --data NAME --out DIR`.

The weights of the last step are tested. Val picks nothing: its score only stands beside that of test, read once.
"""

import math
import sys
from pathlib import Path
from typing import Any, Literal

import torch

from ssvid.data.clips import Clips
from ssvid.data.manifest import Manifest, labelled
from ssvid.encoder import Encoder
from ssvid.engine import optim
from ssvid.engine.checkpoint import RunFolder
from ssvid.engine.classify import Classify
from ssvid.engine.loop import Settings, Trained
from ssvid.engine.mix import Mix
from ssvid.engine.run import UNCHANGED, ClipChange, begin, run, steps_of
from ssvid.engine.score import score
from ssvid.engine.token_dropping import Turbo, recompute_blocks, told
from ssvid.errors import UserError, positive, within
from ssvid.hub import open_encoder
from ssvid.nn.batchnorm import lacks_statistics
from ssvid.nn.sync_bn import synchronise
from ssvid.results import Result, write_result
from ssvid.results.provenance import describe_encoder, title, trainings


def finetune(
    encoder: str,  # a run folder, an exported or published file, or a name (random weights)
    data: Manifest,
    out: str,
    *,
    steps: int | None = None,
    epochs: float | None = None,  # instead of steps
    batch_size: int = 64,  # videos, over all processes
    accumulate: int = 1,  # micro-batches of a step
    optimizer: optim.Name = "adamw",
    lr: float = 5e-4,  # of the head, for lr_batch videos
    lr_batch: int | None = 256,  # the rate grows with batch_size / lr_batch; null: as it is
    min_lr: float = 1e-6,  # scaled like lr
    warmup: float = 0.07,  # share of the steps
    drops: tuple[float, ...] = (),  # shares of the steps from which the rate falls to a tenth; no cosine then
    layer_decay: float = 0.75,  # of the rate, from each layer to the one below it; 1: all alike
    encoder_rate: float = 1.0,  # of the encoder's rates, as a share of the head's; CoCLR: 0.1
    head_warmup: float = 0.0,  # share of the steps, the first ones, in which the head alone learns
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.999),
    clip_grad: float | None = None,  # largest gradient norm
    smoothing: float = 0.1,  # of the labels, over all classes
    mixup: float = 0.8,  # alpha; 0: never
    cutmix: float = 1.0,  # alpha; 0: never
    mix_prob: float = 1.0,  # of a clip to be mixed with another of its micro-batch
    switch_prob: float = 0.5,  # that it is cutmix, where both are on
    dropout: float = 0.0,  # before the head
    head_scale: float = 0.001,  # of the head's first weights
    augment: str = "resized_flip",  # a recipe of ssvid.data.augment; one without flip where left and right are labels
    repeat: int = 1,  # clips of each video in a batch
    clip: ClipChange = UNCHANGED,
    short: Literal["pad", "drop", "error"] = "pad",  # training videos shorter than a clip; the test pads
    test_clips: int = 5,  # of a video, spread evenly over its time
    test_crops: int = 3,  # of each of those, spread along the long side
    seed: int = 0,
    precision: Literal["auto", "bf16", "fp32"] = "auto",  # auto: bf16 on a GPU
    drop_tokens: float = 0.0,  # share of a clip's tokens that encoders do not see in training; 0: none
    dense_last: float = 0.0,  # share of the steps, the last ones, in which they see all
    recompute: bool = False,  # what transformer blocks make is made again for backward: less memory, more time
    compile: bool = False,
    sync_bn: bool = True,  # batch norm over all processes
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
    config: dict[str, Any],
) -> dict[str, Any]:
    """Train an encoder with a head on labelled clips and test it. The same command again goes on where it stopped."""
    positive(steps=steps, epochs=epochs, batch_size=batch_size, accumulate=accumulate, threads=threads, keep=keep)
    positive(log_every=log_every, picture_every=picture_every, checkpoint_every=checkpoint_every, clip_grad=clip_grad)
    positive(lr_batch=lr_batch, timeout_s=timeout_s, test_clips=test_clips, test_crops=test_crops)
    positive(layer_decay=layer_decay)
    within(0, math.inf, lr=lr, min_lr=min_lr, weight_decay=weight_decay, workers=workers, head_scale=head_scale)
    within(0, 1, warmup=warmup, max_bad=max_bad, head_warmup=head_warmup)
    within(0, 1, layer_decay=layer_decay, encoder_rate=encoder_rate)
    data = classes_of(data)
    net = start(encoder, clip, seed, out)
    began = describe_encoder(encoder, f"{title(encoder)}, fine-tuned", net)
    folder = RunFolder(out, {"start": began.hash, "before": trainings(encoder)})
    world = begin(folder, config, devices, threads, timeout_s)
    head: dict[str, Any] = {"smoothing": smoothing, "dropout": dropout, "head_scale": head_scale}
    mix = Mix(mixup, cutmix, mix_prob, switch_prob)
    built = Classify(net, classes=len(data.classes), mix=mix, augment=augment, repeat=repeat, **head)
    if world.size > 1 and sync_bn:
        synchronise(built)
    built.to(world.device)
    train_rows = data.split("train")
    total = steps_of(steps, epochs, len(train_rows), batch_size)
    turbo = Turbo(built, built.views, drop_tokens, dense_last, total)
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
        late=int(head_warmup * total),
        clip_grad=clip_grad,
        bf16=precision == "bf16" or (precision == "auto" and world.device.type == "cuda"),
        compile=compile,
        log_every=log_every,
        picture_every=picture_every,
        checkpoint_every=checkpoint_every,
        keep=keep,
        seed=seed,
    )
    config = told({**config, "threads": torch.get_num_threads()})
    scales = built.rates(layer_decay, encoder_rate)
    learns = optim.make(optimizer, built, weight_decay, betas, scales, late=("encoder.",))
    trained = Trained(built, learns, world, turbo)
    clips = Clips(train_rows, built.views, seed=seed, short=short, decoder=decoder)
    with folder.opened(config, train_rows.hash) if world.first else folder.joined():
        ran = run(trained, clips, settings, folder, config, workers, max_bad)
        result = score(trained, data, settings, folder, config, max_bad, began)
        if world.first:
            keep_result(folder, result, encoder)
    return {**ran, **brief(result), "weights": began.weights, "result": str(folder.path / "result.json")}


def brief(result: Result) -> dict[str, Any]:
    score = result.score
    return {"top1": score.value, "interval": score.interval, "val_top1": result.val, "chance": result.chance}


def keep_result(folder: RunFolder, result: Result, encoder: str) -> None:
    write_result(folder.path / "result.json", result)
    if result.leak.clips:
        print(f"warning: {encoder} was trained on {result.leak.clips} of the test clips.", file=sys.stderr)


def classes_of(data: Manifest) -> Manifest:
    """The labelled rows, if they can be told apart at all."""
    data = labelled(data)
    known = {row.label for row in data.split("train").rows}
    if len(known) < 2:
        raise UserError(f"{data.root}: all training clips are of one class ({known.pop()}): there is nothing to learn.")
    return data


def start(encoder: str, clip: ClipChange, seed: int, out: str) -> Encoder:
    torch.manual_seed(seed)  # a registered name draws its weights, and the head its own after it
    if Path(encoder).exists() and Path(out).resolve() in (Path(encoder).resolve(), Path(encoder).resolve().parent):
        raise UserError(f"--out {out} is where the encoder itself lies: name another folder.")
    net = open_encoder(encoder)
    if lacks_statistics(net):
        raise UserError(
            f"{encoder} has batch norm without running statistics, so what is said of a clip would depend on its "
            "neighbours in a batch: pretrain an encoder that keeps them."
        )
    clip.onto(net)
    return net


if __name__ == "__main__":
    from ssvid.cli import command

    command(finetune)
