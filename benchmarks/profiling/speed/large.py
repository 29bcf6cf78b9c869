"""Stored float16 features, 60 000 to 240 000 x 768 -> memory and cost of the probes, and a plot.

It shows whether both grow linearly. Each reading runs in its own process, so that the peak of
memory belongs to it alone: `python -m benchmarks.profiling large`.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.probes.knn import KNN
from benchmarks.probes.linear import Linear
from benchmarks.reports.figure_style import BLUE, GREY, INK, encode_png, in_house_style
from ssvid.shapes import Frozen

SIZES, EVAL_ROWS = (60_000, 120_000, 240_000), 2_000  # rows of train; of val and of test
DIM, CLASSES, PART = 768, 100, 4096
PROBES = {"linear": Linear, "knn": KNN}
ORANGE = "#c8641e"
LIMIT = 2.0  # GiB above the imports
PLOT = "docs/probe_cost.png"


def main(sizes: tuple[int, ...] = SIZES, plot: str = PLOT) -> None:
    """One JSON line for each probe and size, then the plot."""
    lines = []
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            for name, n in (("train", rows), ("val", EVAL_ROWS), ("test", EVAL_ROWS)):
                write(Path(folder) / name, n, seed=len(name) + n)
            for probe in PROBES:
                command = [sys.executable, "-m", "benchmarks.profiling.speed.large", folder, probe]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                lines.append(json.loads(output))
                print(json.dumps(lines[-1]), flush=True)
    Path(plot).write_bytes(encode_png(draw(lines)))


def write(file: Path, rows: int, seed: int) -> None:
    """Writes class centres plus noise, PART rows at a time."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(0)) * 0.15
    with file.open("wb") as out:
        for start in range(0, rows, PART):
            y = torch.arange(start, min(start + PART, rows)) % CLASSES
            out.write(
                (centres[y] + torch.randn(len(y), DIM, generator=draw)).half().numpy().tobytes()
            )


def map_file(file: Path) -> Frozen:
    feats = torch.from_numpy(np.memmap(file, dtype=np.float16, mode="r+").reshape(-1, DIM))
    return Frozen({"mean@last": feats}, torch.arange(len(feats)) % CLASSES, [""] * len(feats))


def measure_probe(folder: str, probe: str) -> dict[str, Any]:
    """CPU-seconds of a run, and its peak of memory above that of the imports.

    Pages of the file count as memory.
    """
    splits = [map_file(Path(folder) / name) for name in ("train", "val", "test")]
    before, began = peak(), time.process_time()
    result = PROBES[probe]().run(*splits, 0)
    return {
        "probe": probe,
        "rows": len(splits[0].labels),
        "cpu_s": round(time.process_time() - began, 2),
        "peak_gib": round(peak() - before, 3),
        "file_gib": round(splits[0].feats["mean@last"].nbytes / 2**30, 3),
        "test/top1": result.metrics["test/top1"],
    }


def peak() -> float:
    """The peak of memory of this process so far, in GiB.

    getrusage would include the peak of the parent, which Linux passes on to its children.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**20  # kB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # bytes, on macOS


@in_house_style
def draw(lines: list[dict[str, Any]]) -> Figure:
    """CPU-seconds and memory by rows; the dashed line is the first point's cost times the rows."""
    figure = Figure(figsize=(8.5, 3.4), layout="constrained")
    cost, memory = figure.subplots(1, 2)
    for name, colour in zip(PROBES, (BLUE, ORANGE), strict=True):
        points = [line for line in lines if line["probe"] == name]
        rows = [n / 1000 for n in column(points, "rows")]
        cost.plot(rows, column(points, "cpu_s"), "o-", color=colour, label=name)
        cost.plot(
            [0, rows[-1]],
            [0, points[0]["cpu_s"] * rows[-1] / rows[0]],
            "--",
            color=colour,
            linewidth=1,
        )
        memory.plot(rows, column(points, "peak_gib"), "o-", color=colour, label=name)
    cost.plot([], [], "--", color=INK, linewidth=1, label="in line with the first point")
    memory.plot(rows, column(points, "file_gib"), ":", color=GREY, label="the file itself")
    memory.axhline(LIMIT, color=INK, linewidth=1, linestyle="--", label="asked: at most")
    cost.set_ylabel("CPU-seconds")
    memory.set_ylabel("GiB above the imports")
    for axes in (cost, memory):
        axes.set_xlabel("thousands of rows x 768, float16 in a file")
        axes.set_xlim(0, None)
        axes.set_ylim(0, None)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return figure


def column(lines: list[dict[str, Any]], key: str) -> list[float]:
    return [line[key] for line in lines]


if __name__ == "__main__":
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the commands of ssvid do
    torch.set_num_threads(min(2, torch.get_num_threads()))
    print(json.dumps(measure_probe(*sys.argv[1:])))
