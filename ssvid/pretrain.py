"""Clips -> a pretrained encoder.

python -m ssvid.pretrain --objective NAME --data NAME [--encoder NAME] [--out DIR]
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from ssvid import registry
from ssvid.commands import phrase_next
from ssvid.data.augment import warn_of_flip
from ssvid.data.manifest import Manifest
from ssvid.data.training import training
from ssvid.encoder import Encoder
from ssvid.engine.advice import advise
from ssvid.engine.checkpoint import RunFolder
from ssvid.engine.online import OnlineProbe
from ssvid.engine.run import begin, run
from ssvid.engine.settings import Settings
from ssvid.engine.setup import check_parts, hold, identify, prepare
from ssvid.engine.train_flags import ClipChange, TrainFlags, check_numbers, count_steps
from ssvid.engine.warm_start import warm_start
from ssvid.errors import UserError
from ssvid.objective import Objective
from ssvid.preset_batch import fit_batch


def pretrain(
    objective: Callable[[Encoder | None], Objective],  # the pretraining method
    data: Manifest,  # the clips; only the train split is read
    out: str,  # the run's folder; left out: runs/OBJECTIVE
    # left out: a small one that the objective chooses; an objective of stored features takes none
    encoder: None | Encoder = None,
    *,
    init: str | None = None,  # an exported encoder, a run folder or a checkpoint to start from
    # stop if the effective rank falls below this; it is read every picture_every steps
    stop_on_collapse: float | None = None,
    # steps between kNN and linear probes on a few labelled clips; null: no probes
    probe_every: int | None = None,
    config: dict[str, Any],
    **shared: Any,
) -> dict[str, Any]:
    """Pretrain an encoder. The same command again resumes where it stopped."""
    check_numbers(config)
    flags = TrainFlags(**shared)
    folder = RunFolder(out)
    world = begin(folder, config, flags)
    if not len(data.split("train")):
        raise UserError(f"{data.title} has no clips in the train split, the only one that is read.")
    model = build(objective, encoder, flags.clip, config)
    views = flags.clip.views(model.views)
    data = data.suit(views)
    rows = data.split("train")
    flags = fit_batch("pretrain", config, flags, len(rows))
    warn_of_flip(views.augment, data.classes, "--objective.augment")
    model.check_data(rows, views, flags.batch_size)
    check_parts(model, rows, views)
    model.set_classes(rows.classes)
    if init is not None:
        warm_start(model, init)
    steps = count_steps(flags.steps, flags.epochs, len(rows), flags.batch_size)
    samples = training(
        rows, views, seed=flags.seed, short=flags.short_videos, decoder=flags.decoder
    )
    advise(model, samples, flags, world, folder)
    trained = prepare(model, views, flags, steps, world)
    watched = {"stop_on_collapse": stop_on_collapse, "probe_every": probe_every}
    settings = Settings.from_flags(flags, steps, world.device, mixture=rows.mixture, **watched)
    probe = None
    if probe_every:
        decoder, workers = flags.decoder, flags.workers
        probe = OnlineProbe(data, views, seed=flags.seed, decoder=decoder, workers=workers)
    config = identify(config)
    with hold(folder, config, rows.hash, world):
        workers, max_bad = flags.workers, flags.max_bad
        result = run(trained, samples, settings, folder, config, workers, max_bad, probe)
    has_encoder, has_text = bool(model.exported_encoders()), model.joint_space() is not None
    return {**result, "next": list_next_steps(has_encoder, out, has_text)}


def list_next_steps(has_encoder: bool, out: str, has_text: bool = False) -> list[str]:
    """The commands that measure a run, that ask it in words, and that show its curves."""
    steps = [phrase_next("report", out)]
    if has_text:
        words = ["VIDEO", "--labels", "A LABEL, ANOTHER", "--encoder", out]
        steps.insert(0, phrase_next("label", *words, "--out", f"{out}/labels"))
    if has_encoder:
        words = ["--encoder", out, "--data", "folder", "--data.root", "LABELLED_CLIPS"]
        steps.insert(0, phrase_next("probe", *words, "--out", f"{out}/probe"))
    return steps


def build(
    objective: Callable[[Encoder | None], Objective],
    encoder: Encoder | None,
    clip: ClipChange,
    config: dict[str, Any],
) -> Objective:
    """The objective with its encoder, whose clip the user may have changed.

    Raises a UserError if the encoder is missing, or if the objective takes none.
    """
    name = config["objective"]["name"]
    entry = cast(type[Objective], registry.objectives[name])
    needs_none = entry.reads_features or entry.brings_encoder
    if needs_none != (encoder is None):
        raise UserError(
            f"--encoder is missing: choose one of {', '.join(registry.encoders.names())}."
            if encoder is None
            else f"{name} learns from stored features and takes no encoder: leave out --encoder."
            if entry.reads_features
            else f"{name} opens a trained encoder: leave out --encoder; --objective names its run."
        )
    if encoder is not None:
        settings = dict(config["encoder"])
        encoder.name = settings.pop("name")
        encoder.kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        encoder.spec = replace(encoder.spec, **clip.settings())
    model = objective(encoder)
    if entry.brings_encoder:
        clip.apply_to(model.encoder)
    return model


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("pretrain")
