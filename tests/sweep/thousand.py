"""1,000 cells through a stand-in for sbatch: `python -m tests.sweep.thousand` prints seconds and
memory.

Beside them those of 10 cells, so that what torch's import takes can be told from what a cell takes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from tests.sweep.fakes import BASE, TOOLS

ROOT = Path(__file__).parents[2]


def spent(argv: list[str], env: dict[str, str]) -> dict[str, float]:
    began, command = time.perf_counter(), [sys.executable, "-m", "ssvid.sweep", *argv]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, cwd=ROOT)
    _, code, used = os.wait4(process.pid, 0)
    assert code == 0
    seconds, cpu_s = time.perf_counter() - began, used.ru_utime + used.ru_stime
    numbers = {"seconds": seconds, "cpu_s": cpu_s, "memory_mb": used.ru_maxrss / 1024}
    return {name: round(number, 2) for name, number in numbers.items()}


def measured(draws: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        (folder / "asked").mkdir()
        for name, text in TOOLS.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        env = {
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "SLURM_FAKE": str(folder / "asked"),
        }
        axes = {
            "grid": {"seed": list(range(10))},
            "random": {"count": draws, "lr": {"log": [1e-5, 1e-2]}},
        }
        (folder / "s.yaml").write_text(yaml.safe_dump({"base": BASE, "suite": "quick", **axes}))
        submit = spent([str(folder / "s.yaml"), "--out", str(folder / "out")], env)
        sweep = json.loads((folder / "out" / "sweep.json").read_text())
        assert len(sweep["cells"]) == 10 * draws
        for number, cell in enumerate(sweep["cells"]):  # as if each were half through its training
            run = folder / "out" / "cells" / cell / f"run_{cell}"
            run.mkdir(parents=True)
            event = {
                "event": "start",
                "time": 0,
                "stage": "pretrain",
                "host": "n1",
                "pid": 1,
                "node": "n1",
            }
            (run.parent / "attempts.jsonl").write_text(json.dumps(event) + "\n")
            lines = [
                json.dumps({"step": step, "loss": 1.0, "clips_per_s": 9.0})
                for step in range(1, 200)
            ]
            (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
            with open(folder / "asked" / "queue", "a") as queue:
                queue.write(f"2_{number}|RUNNING|n1|None|x\n")
        return {
            "cells": len(sweep["cells"]),
            "submit": submit,
            "status": spent(["status", str(folder / "out")], env),
        }


if __name__ == "__main__":
    for draws in (1, 100):
        print(json.dumps(measured(draws)))
