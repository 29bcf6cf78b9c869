"""The engine's loop on prepared files with two workers, against the same loop on a batch in memory.

The difference is the time that training waits for data.
"""

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from benchmarks.profiling.speed.clips import SPEC, VIEWS, make_originals
from benchmarks.profiling.speed.overhead import Nothing, Same, run
from benchmarks.profiling.speed.pairs import Case
from ssvid.data.clips import Clips
from ssvid.data.datasets.folder import folder
from ssvid.data.loader import train_loader
from ssvid.data.preprocess.prepare import prepare
from ssvid.shapes import Batch

STEPS, BATCH, COMPUTE = 12, 2, 0.25  # steps, clips, seconds of a step


def loader() -> Case:
    """A step sleeps for a quarter of a second, as if a GPU computed.

    That is far longer than two workers need for two clips. `data_wait` is the share of time that
    the loop's log gives for the last half of the steps.
    """
    files = tempfile.TemporaryDirectory()
    originals = make_originals(Path(files.name) / "originals")
    prepare(str(originals), f"{files.name}/prepared", workers=1)
    data = Clips(folder(f"{files.name}/prepared"), VIEWS, seed=0)
    waits: list[float] = []

    def loop(batches: Iterable[Batch]) -> float:
        return run(Nothing(VIEWS, COMPUTE), batches, STEPS, log_every=STEPS // 2)["data_wait"]

    return Case(
        ours=lambda: waits.append(
            loop(train_loader(data, batch_size=BATCH, steps=STEPS, workers=2))
        ),
        theirs=lambda: loop(Same(BATCH, 1, 3, SPEC.frames, SPEC.size, SPEC.size)),
        unit=f"seconds of {STEPS} steps that compute {COMPUTE} s each; theirs reads no file",
        close=files.cleanup,
        clock=time.perf_counter,
        extras=lambda: {
            "data_wait": round(median(waits), 4),
            "data_wait_most": round(max(waits), 4),
        },
    )
