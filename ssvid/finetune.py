"""Labelled clips -> a classifier and its score on the test split.

    python -m ssvid.finetune --encoder RUN --data NAME --out DIR

The weights of the last step are tested once. The val split selects nothing; its score is only
reported beside the test score. Where the run is cheap, the same network is fine-tuned from random
weights as well (OUT/twin0), and the result tells the difference.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from ssvid.commands import phrase_next
from ssvid.data.augment import warn_of_flip
from ssvid.data.manifest import Manifest, select_labelled
from ssvid.data.samples import Samples
from ssvid.data.training import training
from ssvid.encoder import Encoder
from ssvid.engine.advice import advise
from ssvid.engine.checkpoint import LOG, RunFolder
from ssvid.engine.classify import Classify
from ssvid.engine.cost import read_cost
from ssvid.engine.distributed import World, gather
from ssvid.engine.head_start import choose_pooler, read_classifier, start_head
from ssvid.engine.loop import Trained
from ssvid.engine.mix import Mix
from ssvid.engine.run import begin, run
from ssvid.engine.score import score
from ssvid.engine.settings import Settings
from ssvid.engine.setup import hold, identify, prepare
from ssvid.engine.train_flags import FinetuneFlags, check_numbers, count_steps
from ssvid.errors import UserError, check_range
from ssvid.hub import open_encoder, split_untrained
from ssvid.log import log
from ssvid.nn.adapters import Kind, add_adapters, describe_learnt
from ssvid.nn.batchnorm import lacks_statistics
from ssvid.preset_batch import fit_batch
from ssvid.results import EncoderInfo, Result, write_result
from ssvid.results.provenance import describe_encoder, list_trainings, make_title
from ssvid.results.text import format_leak, format_table
from ssvid.results.twins import add_twins

Head = Literal["linear", "attention"]
TWIN_MINUTES = 15.0  # of training: a run that took less is repeated from random weights
MOST_TWINS = 100


def finetune(
    # a run folder, an exported or published file, or a name (random weights); RUN@random: the run's
    # network untrained
    encoder: str,
    data: Manifest,  # labelled clips with the splits train, val and test
    out: str,  # the run's folder
    *,
    layer_decay: float = 0.75,  # factor of the learning rate from each layer to the layer below
    encoder_rate: float = 1.0,  # the encoder's learning rate relative to the head's; CoCLR: 0.1
    new_rate: float = 1.0,  # rate of the encoder's new parts (X-CLIP's) relative to its others
    # learn few new weights in a frozen encoder: bottleneck (a narrow branch after each block) or
    # lora (a narrow product on each linear map); null: the whole encoder learns
    adapter: Literal["bottleneck", "lora"] | None = None,
    adapter_dim: int | None = None,  # inner width of the adapter; null: 64, or 8 for lora
    head_warmup: float = 0.0,  # fraction of the steps, at the start, that train only the head
    head: Head = "linear",  # attention: a learnt query gathers the tokens below the linear map
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
    # fine-tunings of the same network from random weights, to compare with; null: one where the run
    # took at most 15 minutes
    twins: int | None = None,
    config: dict[str, Any],
    **shared: Any,
) -> dict[str, Any]:
    """Train an encoder with a head on labelled clips and test it. The same command resumes."""
    check_numbers(config)
    check_range(0, MOST_TWINS, twins=twins)
    flags = FinetuneFlags(**shared)
    data = keep_labelled(data)
    flags = fit_batch("finetune", config, flags, len(data.split("train")))
    warn_of_flip(augment, data.classes, "--augment")
    options: dict[str, Any] = {"smoothing": smoothing, "dropout": dropout, "repeat": repeat}
    options |= {"head_scale": head_scale, "augment": augment, "layer_decay": layer_decay}
    mix = Mix(mixup, cutmix, mix_prob, switch_prob)
    options |= {"encoder_rate": encoder_rate, "new_rate": new_rate, "mix": mix}
    plan = Plan(data, flags, head, options, head_warmup, adapter, adapter_dim)
    start = open_start(encoder, out, flags)
    refuse_twins_of_random(twins, start.info)
    world = begin(start.folder, config, flags)
    prepared = prepare_run(start, plan, world)
    config = identify(without_unset_adapter(config))
    announce_twins(twins, start.info, world)
    with hold(start.folder, config, data.split("train").hash, world):
        numbers, result = tune(prepared, plan, config)
        count = count_twins(twins, start, world)
        result = compare_with_twins(result, count, start.folder, plan, config, world)
    if world.first:
        report_result(result)
    return {**numbers, **summarise(result, start.folder), "next": [phrase_next("report", out)]}


class Plan(NamedTuple):
    """What a fine-tuning and its twins share."""

    data: Manifest
    flags: FinetuneFlags
    head: Head
    options: dict[str, Any]  # of Classify
    head_warmup: float
    adapter: Kind | None = None
    adapter_dim: int | None = None


class Start(NamedTuple):
    """What a run begins from."""

    net: Encoder
    info: EncoderInfo
    folder: RunFolder


class Prepared(NamedTuple):
    """A run that is ready to begin."""

    start: Start
    trained: Trained
    clips: Samples
    settings: Settings


def prepare_run(start: Start, plan: Plan, world: World, is_twin: bool = False) -> Prepared:
    """Build all that a run needs. A UserError for what cannot be, before a folder is made.

    A twin has the settings of the run before it, so no advice on them is repeated.
    """
    flags, rows = plan.flags, plan.data.split("train")
    if plan.adapter is not None:
        add_adapters(start.net, plan.adapter, plan.adapter_dim)
        if world.first and not is_twin:
            log.info(describe_learnt(start.net))
    model = make_classifier(start, plan, world)
    seed, short, decoder = flags.seed, flags.short_videos, flags.decoder
    clips = training(rows, model.views, seed=seed, short=short, decoder=decoder)
    if not is_twin:
        advise(model, clips, flags, world, start.folder)
    steps = count_steps(flags.steps, flags.epochs, len(rows), flags.batch_size)
    trained = prepare(model, model.views, flags, steps, world, freeze=("encoder.",))
    frozen = int(plan.head_warmup * steps)
    watched = {"freeze_steps": frozen, "mixture": rows.mixture}
    settings = Settings.from_flags(flags, steps, world.device, **watched)
    return Prepared(start, trained, clips, settings)


def make_classifier(start: Start, plan: Plan, world: World) -> Classify:
    """The encoder with its head, which begins with that of the encoder's file if it has one."""
    classes = plan.data.classes
    options = {**plan.options, "classes": len(classes)}
    if plan.head == "linear":
        return Classify(start.net, **options)
    published = read_classifier(start.info.argument)
    model = Classify(start.net, pooler=choose_pooler(start.net.dim, published), **options)
    is_untrained = split_untrained(start.info.argument)[1] is not None
    if published is not None and model.pooler is not None and not is_untrained:
        line = start_head(model.pooler, model.head, published, classes)
        if world.first:
            log.info(line)
    return model


def tune(prepared: Prepared, plan: Plan, config: dict[str, Any]) -> tuple[dict[str, Any], Result]:
    """Train and test: (last logged numbers, result). The caller holds the folder."""
    (_, info, folder), trained, clips, settings = prepared
    workers, max_bad = plan.flags.workers, plan.flags.max_bad
    numbers = run(trained, clips, settings, folder, config, workers, max_bad)
    result = score(trained, plan.data, settings, folder, config, max_bad, info)
    save_result(folder, result, trained.world)
    return numbers, result


def compare_with_twins(
    result: Result, twins: int, folder: RunFolder, plan: Plan, config: dict[str, Any], world: World
) -> Result:
    """The result beside so many twins, each in a folder of its own, where it resumes by itself."""
    others = []
    for number in range(twins):
        others.append(tune_twin(number, plan, config, world))
    if others:
        result = add_twins(result, others)
        save_result(folder, result, world)
    return result


def tune_twin(number: int, plan: Plan, config: dict[str, Any], world: World) -> Result:
    """The same run from random weights."""
    argument, out = (
        f"{config['encoder']}@random{number}",
        str(Path(config["out"]) / f"twin{number}"),
    )
    if world.first:
        log.info(f"Twin {number}: the same fine-tuning from random weights, in {out}.")
    start = open_start(argument, out, plan.flags)
    config = {**config, "encoder": argument, "out": out, "twins": 0}
    prepared = prepare_run(start, plan, world, is_twin=True)
    with hold(start.folder, config, plan.data.split("train").hash, world):
        return tune(prepared, plan, config)[1]


def without_unset_adapter(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the adapter's flags where there is none.

    Runs are older than these flags. A UserError for a width of no adapter.
    """
    if config.get("adapter") is not None:
        return config
    if config.get("adapter_dim") is not None:
        raise UserError("--adapter_dim is the width of an adapter: give --adapter as well.")
    return {key: value for key, value in config.items() if not key.startswith("adapter")}


def refuse_twins_of_random(twins: int | None, info: EncoderInfo) -> None:
    """Raise a UserError where twins are asked of an encoder that has nothing to be compared in."""
    if twins and info.weights != "trained":
        raise UserError(
            f"--twins {twins}: {info.argument} has random weights, so it is what a twin would be: "
            "leave --twins out."
        )


def announce_twins(twins: int | None, info: EncoderInfo, world: World) -> None:
    """Say before any work that the run will be followed by others."""
    if twins == 0 or info.weights != "trained" or not world.first:
        return
    when = f"once, if this run takes at most {TWIN_MINUTES:g} minutes"
    if twins is not None:
        when = "once" if twins == 1 else f"{twins} times"
    log.info(
        f"Afterwards the same net is fine-tuned from random weights ({when}), which shows what "
        "pretraining adds. --twins 0 leaves it out."
    )


def count_twins(twins: int | None, start: Start, world: World) -> int:
    """How many twins to train. By default it is one, where the run was cheap.

    The cost of a twin is known by then: it is that of the run, over all its starts.
    """
    if start.info.weights != "trained":
        return 0
    if twins is not None:
        return twins
    wall_s = gather(read_cost(start.folder.path / LOG)["wall_s"], world)[0]
    if is_cheap(wall_s):
        return 1
    if world.first:
        log.info(
            f"No twin was trained: the run took {wall_s / 60:.0f} minutes, and the same net from "
            "random weights takes as long again. The same command with --twins 1 trains it."
        )
    return 0


def is_cheap(wall_s: float) -> bool:
    """Whether a run may be repeated from random weights without being asked."""
    return wall_s <= 60 * TWIN_MINUTES


def summarise(result: Result, folder: RunFolder) -> dict[str, Any]:
    score = result.score
    return {
        "weights": result.encoder.weights,
        "top1": score.value,
        "interval": score.interval,
        "val_top1": result.val,
        "chance": result.chance,
        "gain_over_random": vars(result.gains["random"]) if result.gains else None,
        "result": str(folder.path / "result.json"),
    }


def save_result(folder: RunFolder, result: Result, world: World) -> None:
    if world.first:
        write_result(folder.path / "result.json", result)


def report_result(result: Result) -> None:
    """Log the table of the result and its notes for people, below what makes it invalid."""
    if result.leak.clips:
        log.warning(format_leak(result))
    log.info("\n".join([format_table(result), *result.notes]))


def keep_labelled(data: Manifest) -> Manifest:
    """The labelled rows. A UserError if the training clips have only one class."""
    data = select_labelled(data)
    classes = {row.label for row in data.split("train").rows}
    if len(classes) < 2:
        only = classes.pop()
        raise UserError(f"{data.title}: all training clips are of one class ({only}).")
    return data


def open_start(encoder: str, out: str, flags: FinetuneFlags) -> Start:
    """What to start from, with the user's clip. A UserError if it cannot be fine-tuned."""
    torch.manual_seed(flags.seed)  # a registered name draws its weights here, and the head after it
    path = Path(encoder).resolve()
    if Path(encoder).exists() and Path(out).resolve() in (path, path.parent):
        raise UserError(f"--out {out} is where the encoder itself lies: name another folder.")
    net = open_encoder(encoder)
    if lacks_statistics(net):
        raise UserError(
            f"{encoder} has batch norm without running statistics, so the score of a clip would "
            "depend on its neighbours in a batch: pretrain an encoder that keeps them."
        )
    flags.clip.apply_to(net)
    info = describe_encoder(encoder, f"{make_title(encoder)}, fine-tuned", net)
    origin = {"start": info.hash, "before": list_trainings(encoder)}
    return Start(net, info, RunFolder(out, origin))


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("finetune")
