"""What a run has cost so far, over all its starts: CPU-seconds with its loaders, and seconds on the clock.

Counted from the loop's first step; a start's imports and building are not in it. The last whole line of metrics.jsonl
says what earlier starts took, also for steps that a kill undid: they were paid for.
"""

import json
import multiprocessing
import os
import time
from pathlib import Path

from ssvid.engine.features import cpu_seconds

KEYS = ("cpu_s", "wall_s")


class Cost:
    def __init__(self, out: Path | None) -> None:
        """`out`: the run folder; None on all processes but the first."""
        self.before = paid(out / "metrics.jsonl") if out else dict.fromkeys(KEYS, 0.0)
        self.cpu_began, self.wall_began = used(), time.perf_counter()

    def cpu(self) -> float:
        """Of this process, in this start."""
        return used() - self.cpu_began

    def total(self, cpu: list[float]) -> dict[str, float]:
        """`cpu`: of every process."""
        wall = time.perf_counter() - self.wall_began
        return {
            "cpu_s": round(self.before["cpu_s"] + sum(cpu), 2),
            "wall_s": round(self.before["wall_s"] + wall, 2),
        }


def paid(metrics: Path) -> dict[str, float]:
    """The largest numbers of the file; 0 where it has none."""
    most = dict.fromkeys(KEYS, 0.0)
    for line in metrics.read_bytes().splitlines() if metrics.exists() else []:
        try:
            row = json.loads(line)
            most = {key: max(most[key], float(row.get(key, 0.0))) for key in KEYS}
        except (ValueError, TypeError, AttributeError):
            continue  # cut short by a kill
    return most


def used() -> float:
    """CPU-seconds of this process and of its children, living ones too: loaders live as long as the run."""
    return cpu_seconds() + sum(
        _of(child.pid) for child in multiprocessing.active_children() if child.pid
    )


def _of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # it has just ended
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
