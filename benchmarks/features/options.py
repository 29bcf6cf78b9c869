"""flags of a command -> FeatureOptions, which are the same for every encoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.features.pooling import POOLINGS
from ssvid.engine.distributed import join
from ssvid.engine.features import refuse_bad_options
from ssvid.errors import check_positive, check_range

Devices = Literal["auto", "cpu", "cuda"]
LEAST_TWINS, MOST_TWINS = 2, 1000


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """How features are extracted. The options are the same for every encoder."""

    cache: str = ".cache/ssvid"
    batch_size: int = 32
    workers: int = 2
    clips: int = 1  # of a video, spread evenly
    crops: int = 1  # of each of these clips, along the long side
    average: Literal["features", "scores"] = "features"  # what is averaged over clips and crops
    poolings: tuple[str, ...] = POOLINGS
    device: torch.device = torch.device("cpu")
    seed: int = 0
    calibrate_bn: int = 0
    recalibrate_bn: bool = False
    twins: int = 8  # untrained nets beside the encoder
    max_bad: float = 0.01
    words: str | None = None  # the word list of a published text side
    # Limits of the clips (frames, size) that the suite has for its own videos.
    suite_clip: tuple[tuple[str, int], ...] = ()
    folds: str | None = None  # column of the data set of which each value is test once

    @property
    def views(self) -> int:
        """How many clips of a video keep features of their own."""
        return self.clips * self.crops if self.average == "scores" else 1


def prepare_options(
    out: str, cache: str, *, devices: Devices, threads: int | None, **settings: Any
) -> FeatureOptions:
    """Check a command's options, and set the device and the threads of this process.

    `out`: folder of the results. `settings`: the other fields of FeatureOptions. Raises a
    UserError that names the flag of a bad value.
    """
    names_to_check = ("batch_size", "workers", "clips", "calibrate_bn")
    refuse_bad_options(Path(out), cache, **{name: settings[name] for name in names_to_check})
    check_positive(threads=threads, crops=settings.get("crops"))
    check_range(LEAST_TWINS, MOST_TWINS, twins=settings["twins"])
    if threads is not None:
        torch.set_num_threads(threads)
    settings["poolings"] = tuple(settings["poolings"])
    return FeatureOptions(cache=cache, device=join(devices).device, **settings)
