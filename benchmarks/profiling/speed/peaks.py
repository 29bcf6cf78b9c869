"""A function -> its peak of memory, measured in a process of its own."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.profiling.speed.large import peak
from benchmarks.profiling.speed.pairs import measure_in_turn
from ssvid.engine.features import cpu_seconds

Functions = tuple[Callable[[], Any], Callable[[], Any]]  # ours and theirs


def report_pair(functions: Functions, rounds: int, module: str, words: Sequence[str] = ()) -> Any:
    """The spread of the ratio in further rounds, and both peaks of memory.

    `module` prints the peak of a side: `python -m MODULE ours|theirs WORDS`.
    """
    spread = torch.tensor(measure_in_turn(functions, cpu_seconds, rounds))
    ratios = statistics.quantiles((spread[:, 0] / spread[:, 1]).tolist(), n=4)
    ours, theirs = (measure_peak(module, side, *words) for side in ("ours", "theirs"))
    return {
        "ratio_again": [round(ratio, 4) for ratio in ratios],  # quartiles
        "peak_gib": [ours, theirs],
        "peak_ratio": round(ours / theirs, 4),
    }


def measure_peak(module: str, *words: str) -> float:
    """GiB above the loaded weights."""
    command = [sys.executable, "-m", module, *words]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(json.loads(output.splitlines()[-1]))


def print_peak(make: Callable[..., Callable[[], Any]], runs: int) -> None:
    """Print the peak of runs of the function that `make` builds from the words of the command."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the commands of ssvid do
    torch.set_num_threads(min(2, torch.get_num_threads()))
    function = make(*sys.argv[1:])
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins again at what is used
    before = peak()
    for _ in range(runs):
        function()
    print(json.dumps(round(peak() - before, 4)))
