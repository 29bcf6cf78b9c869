"""labelled clips -> a classifier and its score.

    python -m ssvid.finetune --encoder RUN --data NAME --out DIR

The weights of the last step are tested. Val picks nothing: its score only stands beside that of
test, which is read once.
"""

from pathlib import Path
from typing import Any

import torch

from ssvid.data.clips import Clips
from ssvid.data.manifest import Manifest, select_labelled
from ssvid.encoder import Encoder
from ssvid.engine.checkpoint import RunFolder
from ssvid.engine.classify import Classify
from ssvid.engine.loop import Settings
from ssvid.engine.mix import Mix
from ssvid.engine.run import begin, run
from ssvid.engine.score import score
from ssvid.engine.setup import hold, identify, prepare
from ssvid.engine.train_flags import ClipChange, FinetuneFlags, check_numbers, steps_of
from ssvid.errors import UserError
from ssvid.hub import open_encoder
from ssvid.log import log
from ssvid.nn.batchnorm import lacks_statistics
from ssvid.results import Result, write_result
from ssvid.results.provenance import describe_encoder, title, trainings


def finetune(
    encoder: str,  # a run folder, an exported or published file, or a name (random weights)
    data: Manifest,  # labelled clips: train, and test; val is read beside it
    out: str,  # the run's folder
    *,
    layer_decay: float = 0.75,  # of the rate, from each layer to the one below it; 1: all alike
    encoder_rate: float = 1.0,  # of the encoder's rates, as a share of the head's; CoCLR: 0.1
    head_warmup: float = 0.0,  # share of the steps, the first ones, in which the head alone learns
    smoothing: float = 0.1,  # of the labels, over all classes
    mixup: float = 0.8,  # alpha; 0: never
    cutmix: float = 1.0,  # alpha; 0: never
    mix_prob: float = 1.0,  # of a clip to be mixed with another of its micro-batch
    switch_prob: float = 0.5,  # that it is cutmix, where both are on
    dropout: float = 0.0,  # before the head
    head_scale: float = 0.001,  # of the head's first weights
    augment: str = "resized_flip",  # of ssvid.data.augment; without flip where labels have sides
    repeat: int = 1,  # clips of each video in a batch
    test_clips: int = 5,  # of a video, spread evenly over its time
    test_crops: int = 3,  # of each of those, spread along the long side
    config: dict[str, Any],
    **shared: Any,
) -> dict[str, Any]:
    """Train an encoder with a head on labelled clips and test it.

    The same command again goes on where it stopped.
    """
    check_numbers(config)
    flags = FinetuneFlags(**shared)
    data = classes_of(data)
    net = start(encoder, flags.clip, flags.seed, out)
    began = describe_encoder(encoder, f"{title(encoder)}, fine-tuned", net)
    folder = RunFolder(out, {"start": began.hash, "before": trainings(encoder)})
    world = begin(folder, config, flags)
    head: dict[str, Any] = {"smoothing": smoothing, "dropout": dropout, "head_scale": head_scale}
    mix = Mix(mixup, cutmix, mix_prob, switch_prob)
    head |= {"classes": len(data.classes), "augment": augment, "repeat": repeat}
    model = Classify(net, mix=mix, **head)
    rows = data.split("train")
    steps = steps_of(flags.steps, flags.epochs, len(rows), flags.batch_size)
    rates = model.rates(layer_decay, encoder_rate)
    trained = prepare(model, model.views, flags, steps, world, rates, freeze=("encoder.",))
    settings = Settings.of(flags, steps, world.device, freeze_steps=int(head_warmup * steps))
    config = identify(config)
    seed, short, decoder = flags.seed, flags.short_videos, flags.decoder
    clips = Clips(rows, model.views, seed=seed, short=short, decoder=decoder)
    with hold(folder, config, rows.hash, world):
        ran = run(trained, clips, settings, folder, config, flags.workers, flags.max_bad)
        result = score(trained, data, settings, folder, config, flags.max_bad, began)
        if world.first:
            keep_result(folder, result, encoder)
    return {
        **ran,
        **brief(result),
        "weights": began.weights,
        "result": str(folder.path / "result.json"),
    }


def brief(result: Result) -> dict[str, Any]:
    score = result.score
    return {
        "top1": score.value,
        "interval": score.interval,
        "val_top1": result.val,
        "chance": result.chance,
    }


def keep_result(folder: RunFolder, result: Result, encoder: str) -> None:
    write_result(folder.path / "result.json", result)
    if result.leak.clips:
        log.warning(f"{encoder} was trained on {result.leak.clips} of the test clips.")


def classes_of(data: Manifest) -> Manifest:
    """The labelled rows, if they can be told apart at all."""
    data = select_labelled(data)
    known = {row.label for row in data.split("train").rows}
    if len(known) < 2:
        only = known.pop()
        raise UserError(f"{data.root}: all training clips are of one class ({only}).")
    return data


def start(encoder: str, clip: ClipChange, seed: int, out: str) -> Encoder:
    torch.manual_seed(seed)  # a registered name draws its weights, and the head its own after it
    if Path(encoder).exists() and Path(out).resolve() in (
        Path(encoder).resolve(),
        Path(encoder).resolve().parent,
    ):
        raise UserError(f"--out {out} is where the encoder itself lies: name another folder.")
    net = open_encoder(encoder)
    if lacks_statistics(net):
        raise UserError(
            f"{encoder} has batch norm without running statistics, so the score of a clip would "
            "depend on its neighbours in a batch: pretrain an encoder that keeps them."
        )
    clip.onto(net)
    return net


if __name__ == "__main__":
    from ssvid.cli import command

    command(finetune)
