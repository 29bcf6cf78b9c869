"""The cost of a run over all its starts: CPU-seconds with its loaders, and seconds on the clock.

It is counted from the first step of the loop, without imports and building. metrics.jsonl says what
earlier starts took, including steps that a kill has undone.
"""

import json
import multiprocessing
import os
import time
from pathlib import Path

from ssvid.engine.features import cpu_seconds

KEYS = ("cpu_s", "wall_s")


class Cost:
    """Counts the cost of this start and adds that of earlier ones."""

    def __init__(self, out: Path | None) -> None:
        """`out`: the run folder; None on all processes but the first."""
        self.before = read_cost(out / "metrics.jsonl") if out else dict.fromkeys(KEYS, 0.0)
        self.cpu_start_s, self.wall_start_s = cpu_seconds_with_workers(), time.perf_counter()

    def cpu(self) -> float:
        """CPU-seconds of this process in this start."""
        return cpu_seconds_with_workers() - self.cpu_start_s

    def total(self, cpu: list[float]) -> dict[str, float]:
        """The cost over all starts. `cpu`: CPU-seconds of every process in this start."""
        wall = time.perf_counter() - self.wall_start_s
        return {
            "cpu_s": round(self.before["cpu_s"] + sum(cpu), 2),
            "wall_s": round(self.before["wall_s"] + wall, 2),
        }


def read_cost(metrics: Path) -> dict[str, float]:
    """The largest costs in a metrics.jsonl; 0 if it has none."""
    largest = dict.fromkeys(KEYS, 0.0)
    for line in metrics.read_bytes().splitlines() if metrics.exists() else []:
        try:
            row = json.loads(line)
            largest = {key: max(largest[key], float(row.get(key, 0.0))) for key in KEYS}
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            continue  # a kill cut the line short
    return largest


def cpu_seconds_with_workers() -> float:
    """CPU-seconds of this process and its children.

    Loaders live as long as the run and count too.
    """
    children = multiprocessing.active_children()
    return cpu_seconds() + sum(_read_cpu_seconds(child.pid) for child in children if child.pid)


def _read_cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # the process has just ended
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
