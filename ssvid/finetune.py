"""Labelled clips -> a classifier and its score on the test split.

    python -m ssvid.finetune --encoder RUN --data NAME --out DIR

The weights of the last step are tested once. The val split selects nothing; its score is only
reported beside the test score.
"""

from pathlib import Path
from typing import Any

import torch

from ssvid.data.augment import warn_of_flip
from ssvid.data.clips import Clips
from ssvid.data.manifest import Manifest, select_labelled
from ssvid.encoder import Encoder
from ssvid.engine.advice import advise
from ssvid.engine.checkpoint import RunFolder
from ssvid.engine.classify import Classify
from ssvid.engine.mix import Mix
from ssvid.engine.run import begin, run
from ssvid.engine.score import score
from ssvid.engine.settings import Settings
from ssvid.engine.setup import hold, identify, prepare
from ssvid.engine.train_flags import ClipChange, FinetuneFlags, check_numbers, count_steps
from ssvid.errors import UserError
from ssvid.hub import open_encoder
from ssvid.log import log
from ssvid.nn.batchnorm import lacks_statistics
from ssvid.presets import fit_batch
from ssvid.results import Result, write_result
from ssvid.results.provenance import describe_encoder, list_trainings, make_title


def finetune(
    encoder: str,  # a run folder, an exported or published file, or a name (random weights)
    data: Manifest,  # labelled clips with the splits train, val and test
    out: str,  # the run's folder
    *,
    layer_decay: float = 0.75,  # factor of the learning rate from each layer to the layer below
    encoder_rate: float = 1.0,  # the encoder's learning rate relative to the head's; CoCLR: 0.1
    head_warmup: float = 0.0,  # fraction of the steps, at the start, that train only the head
    smoothing: float = 0.1,  # label smoothing
    mixup: float = 0.8,  # alpha of mixup; 0: no mixup
    cutmix: float = 1.0,  # alpha of cutmix; 0: no cutmix
    mix_prob: float = 1.0,  # probability that a clip is mixed with another of its micro-batch
    switch_prob: float = 0.5,  # probability of cutmix instead of mixup, if both are on
    dropout: float = 0.0,  # dropout before the head
    head_scale: float = 0.001,  # scale of the head's initial weights
    augment: str = "resized_flip",  # recipe of ssvid.data.augment; resized: without the flip
    repeat: int = 1,  # clips of each video in a batch
    test_clips: int = 5,  # test clips of each video, spread evenly over its time
    test_crops: int = 3,  # crops of each test clip, spread along its longer side
    config: dict[str, Any],
    **shared: Any,
) -> dict[str, Any]:
    """Train an encoder with a head on labelled clips and test it.

    The same command again goes on where it stopped.
    """
    check_numbers(config)
    flags = FinetuneFlags(**shared)
    data = keep_labelled(data)
    net = open_start(encoder, flags.clip, flags.seed, out)
    start = describe_encoder(encoder, f"{make_title(encoder)}, fine-tuned", net)
    folder = RunFolder(out, {"start": start.hash, "before": list_trainings(encoder)})
    world = begin(folder, config, flags)
    mix = Mix(mixup, cutmix, mix_prob, switch_prob)
    head: dict[str, Any] = {"smoothing": smoothing, "dropout": dropout, "head_scale": head_scale}
    head |= {"classes": len(data.classes), "augment": augment, "repeat": repeat}
    model = Classify(net, mix=mix, **head)
    warn_of_flip(augment, data.classes, "--augment")
    rows = data.split("train")
    flags = fit_batch("finetune", config, flags, len(rows))
    steps = count_steps(flags.steps, flags.epochs, len(rows), flags.batch_size)
    rates = model.compute_rate_factors(layer_decay, encoder_rate)
    seed, short, decoder = flags.seed, flags.short_videos, flags.decoder
    clips = Clips(rows, model.views, seed=seed, short=short, decoder=decoder)
    advise(model, clips, flags, world, folder)
    trained = prepare(model, model.views, flags, steps, world, rates, freeze=("encoder.",))
    freeze_steps = int(head_warmup * steps)
    settings = Settings.from_flags(flags, steps, world.device, freeze_steps=freeze_steps)
    config = identify(config)
    with hold(folder, config, rows.hash, world):
        numbers = run(trained, clips, settings, folder, config, flags.workers, flags.max_bad)
        result = score(trained, data, settings, folder, config, flags.max_bad, start)
        if world.first:
            save_result(folder, result, encoder)
    return {
        **numbers,
        **summarise(result),
        "weights": start.weights,
        "result": str(folder.path / "result.json"),
    }


def summarise(result: Result) -> dict[str, Any]:
    score = result.score
    return {
        "top1": score.value,
        "interval": score.interval,
        "val_top1": result.val,
        "chance": result.chance,
    }


def save_result(folder: RunFolder, result: Result, encoder: str) -> None:
    write_result(folder.path / "result.json", result)
    if result.leak.clips:
        log.warning(f"{encoder} was trained on {result.leak.clips} of the test clips.")


def keep_labelled(data: Manifest) -> Manifest:
    """The labelled rows. A UserError if the training clips have only one class."""
    data = select_labelled(data)
    classes = {row.label for row in data.split("train").rows}
    if len(classes) < 2:
        only = classes.pop()
        raise UserError(f"{data.root}: all training clips are of one class ({only}).")
    return data


def open_start(encoder: str, clip: ClipChange, seed: int, out: str) -> Encoder:
    """The encoder to start from, with the user's clip. A UserError if it cannot be fine-tuned."""
    torch.manual_seed(seed)  # a registered name draws its weights here, and the head after it
    path = Path(encoder).resolve()
    if Path(encoder).exists() and Path(out).resolve() in (path, path.parent):
        raise UserError(f"--out {out} is where the encoder itself lies: name another folder.")
    net = open_encoder(encoder)
    if lacks_statistics(net):
        raise UserError(
            f"{encoder} has batch norm without running statistics, so the score of a clip would "
            "depend on its neighbours in a batch: pretrain an encoder that keeps them."
        )
    clip.apply_to(net)
    return net


if __name__ == "__main__":
    from ssvid.cli import command

    command(finetune)
