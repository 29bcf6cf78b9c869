"""Settings and timings -> sentences for the user: settings that fit the data badly, and hours.

Nothing here changes a run. A warning names the flags that would be better.
"""

import copy
import time
from typing import NamedTuple

import torch

from ssvid.data.samples import Samples, collate
from ssvid.engine.checkpoint import RunFolder
from ssvid.engine.classify import Classify
from ssvid.engine.distributed import World
from ssvid.engine.to_device import to_device
from ssvid.engine.train_flags import TrainFlags
from ssvid.log import log
from ssvid.objective import Objective

FEW_VIDEOS = 100  # a judgement: the least set on which a gain was shown here has 4,096
LARGEST_FACTOR = 8  # of the batch rule; a rate that is scaled down further hardly learns
LONG_STEP_S = 60.0  # seconds; a first step that takes longer looks like a command that hangs
TRIAL_CLIPS = 2  # batch norm needs two
WARM_UP_S = 1.0  # CPU-seconds; a shorter first pass is mostly the start of torch's own libraries


class Fit(NamedTuple):
    """What `judge_settings` looks at."""

    batch_size: int
    videos: int
    lr: float  # as the flag says, before it is scaled
    lr_batch: int | None
    step_s: float | None = None  # seconds of a step; None: not measured
    pretrains: bool = False  # without labels, which takes more videos


def judge_settings(fit: Fit) -> list[str]:
    """A warning for each setting that fits the data badly. Each names better flags."""
    warnings = []
    if fit.pretrains and fit.videos < FEW_VIDEOS:
        warnings.append(
            f"{fit.videos} training videos are very few to pretrain an encoder on. Expect little: "
            "give more videos, or begin from a published file with --init."
        )
    if fit.batch_size > fit.videos:
        smaller = 1 << (fit.videos.bit_length() - 1)  # the largest power of 2 that fits
        flags = f"--batch_size {smaller}"
        if is_scaled_down(smaller, fit.lr_batch):
            flags += " --lr_batch null"
        warnings.append(
            f"--batch_size {fit.batch_size} is more than the {fit.videos} training videos, so each "
            f"batch holds a video {fit.batch_size / fit.videos:.1f} times: give {flags}."
        )
    elif is_scaled_down(fit.batch_size, fit.lr_batch) and fit.lr_batch:
        factor = fit.lr_batch / fit.batch_size
        warnings.append(
            f"--lr {fit.lr:g} is meant for batches of --lr_batch {fit.lr_batch}, so for "
            f"--batch_size {fit.batch_size} it is divided by {factor:g}, to {fit.lr / factor:.1e}, "
            f"and little is learnt: --lr_batch null keeps {fit.lr:g}."
        )
    if fit.step_s is not None and fit.step_s > LONG_STEP_S:
        fast_enough = int(fit.batch_size * LONG_STEP_S / fit.step_s)
        smaller = max(1, min(fast_enough, fit.videos))
        warnings.append(
            f"The first step will take about {describe_seconds(fit.step_s)} on this CPU "
            f"({fit.batch_size} clips at {fit.step_s / fit.batch_size:.2g} s): give --batch_size "
            f"{smaller} or less, a smaller --encoder, fewer pixels with --clip.size, or --preset "
            "laptop."
        )
    return warnings


def is_scaled_down(batch_size: int, lr_batch: int | None) -> bool:
    """Whether the batch rule divides the rate by more than LARGEST_FACTOR."""
    return lr_batch is not None and lr_batch > LARGEST_FACTOR * batch_size


def advise(
    objective: Objective, samples: Samples, flags: TrainFlags, world: World, folder: RunFolder
) -> None:
    """Log the warnings for a run that has no checkpoint yet.

    The time of a step is measured on a single process without a GPU alone.
    """
    if not world.first or folder.list_checkpoints():
        return
    step_s = None
    if world.device.type == "cpu" and world.size == 1:
        step_s = measure_step_s(objective, samples, flags.batch_size, flags.workers)
    videos = count_videos(samples)
    pretrains = not isinstance(objective, Classify)
    fit = Fit(flags.batch_size, videos, flags.lr, flags.lr_batch, step_s, pretrains)
    for warning in judge_settings(fit):
        log.warning(warning)


def count_videos(samples: Samples) -> int:
    """How many videos there are for a batch: of a mixture that alternates, in its smallest part."""
    mixture = samples.manifest.mixture
    if mixture is None or mixture.order != "alternate":
        return len(samples)
    return min(map(len, samples.members.values()))


def measure_step_s(objective: Objective, samples: Samples, batch_size: int, workers: int) -> float:
    """Seconds that a step of this size takes on an idle machine.

    A copy of the objective learns from two clips, so that nothing of the run changes. CPU-seconds
    are measured and divided by the threads, because other programs may be busy meanwhile.
    """
    start_s = time.process_time()
    rows = next(iter(samples.members.values()))  # clips of one part have one shape
    first = [samples[0, int(rows[i % len(rows)])] for i in range(TRIAL_CLIPS)]
    loading_s = (time.process_time() - start_s) / max(1, workers)
    batch = to_device(collate(first, samples.seed), samples.views, torch.device("cpu"))
    trial = copy.deepcopy(objective).train()
    learning_s = WARM_UP_S
    for _ in range(2):
        start_s = time.process_time()
        trial(batch).total.backward()
        learning_s = time.process_time() - start_s
        if learning_s > WARM_UP_S:
            break
    learning_s /= torch.get_num_threads()
    slowest_s = max(loading_s, learning_s) if workers else loading_s + learning_s
    return slowest_s * batch_size / TRIAL_CLIPS


def describe_seconds(seconds: float) -> str:
    """A time in a unit that suits it."""
    for unit, size, longest in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < longest * size:
            return f"{seconds / size:.{0 if unit != 'h' else 1}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def describe_duration(steps: int, step_s: float) -> str:
    """How long the steps that are left take."""
    return (
        f"about {describe_seconds(steps * step_s)} for the {steps:,} steps that are left (at "
        f"{step_s:.2g} s a step)"
    )
