"""The engine's loop on prepared files with two workers, against the same loop on a batch in memory:
who waits?
"""

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from benchmarks.profiling.speed.clips import SPEC, VIEWS, originals
from benchmarks.profiling.speed.overhead import Nothing, Same, run
from benchmarks.profiling.speed.pairs import Case
from ssvid.data.clips import Clips
from ssvid.data.datasets.folder import folder
from ssvid.data.loader import train_loader
from ssvid.data.preprocess.prepare import prepare
from ssvid.shapes import Batch

STEPS, BATCH, COMPUTE = 12, 2, 0.25  # seconds of a step


def loader() -> Case:
    """A step takes a quarter of a second without a CPU, as on a GPU: far longer than two workers
    need for two clips.

    `data_wait` is the share of the time that the loop's log gives for the last half of the steps.
    """
    place = tempfile.TemporaryDirectory()
    prepare(str(originals(Path(place.name) / "originals")), f"{place.name}/prepared", workers=1)
    data = Clips(folder(f"{place.name}/prepared"), VIEWS, seed=0)
    waits: list[float] = []

    def loop(batches: Iterable[Batch]) -> float:
        return run(Nothing(VIEWS, COMPUTE), batches, STEPS, log_every=STEPS // 2)["data_wait"]

    return Case(
        ours=lambda: waits.append(
            loop(train_loader(data, batch_size=BATCH, steps=STEPS, workers=2))
        ),
        theirs=lambda: loop(Same(BATCH, 1, 3, SPEC.frames, SPEC.size, SPEC.size)),
        unit=f"seconds of {STEPS} steps that compute {COMPUTE} s each; theirs reads no file",
        close=place.cleanup,
        clock=time.perf_counter,
        extras=lambda: {
            "data_wait": round(median(waits), 4),
            "data_wait_most": round(max(waits), 4),
        },
    )
