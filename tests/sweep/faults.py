"""A sweep on a real SLURM, disturbed at random, against the same sweep left alone.

    python -m tests.sweep.faults SWEEP.yaml --calm DIR --out DIR --faults 20 --seed 0

Signals to steps, requeueing, kill -9 of ranks, of keepers and of a slurmd. It ends with what was
done to whom, and whether each cell has its row, once, and weights, optimiser and scores bit for bit
as in the calm sweep. Needs root: slurmd is one of the injector, and is started again after a while.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from ssvid.sweep import jobs, slurm
from ssvid.sweep.folder import CellFolder, SweepFolder
from ssvid.sweep.status import State, read_states
from tests.helpers import metrics

KINDS = ("USR2 to a step", "TERM to a step", "requeue")
KINDS += ("kill -9 of a rank", "kill -9 of a keeper", "kill -9 of a slurmd")
PAUSE = (4.0, 14.0)  # seconds between faults
DOWN = (1.0, 20.0)  # seconds without the slurmd


def whole(sweep: str, out: Path) -> dict[str, Any]:
    """The sweep to its end, submitted again where a job was lost for good."""
    done: dict[str, Any] = {}
    for _ in range(10):
        argv = [sys.executable, "-m", "ssvid.sweep", sweep, "--out", str(out), "--wait"]
        ended = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        done = json.loads(ended.stdout.splitlines()[-1])
        if done["finished"] + done["failed"] == done["cells"]:
            break
    return done


def processes(*words: str) -> list[int]:
    """Those whose command line has all the words."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words) and int(folder.name) != os.getpid():
            pids.append(int(folder.name))
    return pids


class Faults:
    def __init__(self, folder: SweepFolder, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        self.done: list[tuple[str, str]] = []  # kind, cell

    def one(self, kinds: tuple[str, ...]) -> None:
        """A fault to a cell that runs; nothing where there is none, or no victim of that kind."""
        running = [one for one in read_states(self.folder) if one.state == "running" and one.stage]
        self.release()
        if running:
            victim, kind = self.chance.choice(running), self.chance.choice(kinds)
            if self.strike(kind, victim, self.folder.cell(victim.cell)):
                self.done.append((kind, victim.cell))
                print(
                    f"{time.strftime('%H:%M:%S')} {kind}: {victim.name} at step {victim.step}",
                    file=sys.stderr,
                )

    def strike(self, kind: str, victim: State, cell: CellFolder) -> bool:
        job = self.job(victim.cell)
        if kind == "kill -9 of a slurmd":
            return self.slurmd()
        if kind.startswith("kill"):
            last = [event for event in cell.read_events() if event["event"] == "start"][-1]
            pids = (
                [last["pid"]]
                if "keeper" in kind
                else processes(str(cell.run), "ssvid.pretrain", "python")
            )
            pids = [
                pid for pid in pids if Path(f"/proc/{pid}").exists() and "srun" not in name(pid)
            ]
            if not pids:
                return False
            os.kill(self.chance.choice(pids), signal.SIGKILL)
            return True
        if job is None:
            return False
        words = (
            ["scontrol", "requeue", job]
            if kind == "requeue"
            else ["scancel", f"--signal={kind[:4].strip()}", job]
        )
        try:
            return subprocess.run(words, capture_output=True, timeout=3).returncode == 0
        except subprocess.TimeoutExpired:
            # The signal arrived, although scancel repeats it where SLURM says "try again".
            return True

    def slurmd(self) -> bool:
        node = self.chance.choice(["n1", "n2"])
        pids = [pid for pid in processes("slurmd", "-N", node) if name(pid) == "slurmd"]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        time.sleep(self.chance.uniform(*DOWN))
        subprocess.run([shutil.which("slurmd") or "/usr/sbin/slurmd", "-N", node], check=True)
        return bool(pids)

    def job(self, cell: str) -> str | None:
        live_jobs = [
            jobs.find_live_jobs(one, slurm.read_queue()) for one in self.folder.submissions()
        ]
        return next((one[cell].id for one in reversed(live_jobs) if cell in one), None)

    def release(self) -> None:
        """A node whose slurmd was gone may have to be taken back."""
        release_jobs()
        for node in ("n1", "n2"):
            state = subprocess.run(
                ["sinfo", "-h", "-N", "-n", node, "-o", "%T"], capture_output=True, text=True
            ).stdout
            if state.startswith(("down", "drain")):
                subprocess.run(
                    ["scontrol", "update", f"NodeName={node}", "State=RESUME"], capture_output=True
                )


def release_jobs() -> None:
    """Let requeued jobs start now: SLURM would let them wait for two minutes."""
    for job in set((slurm.read_queue() or {}).values()):
        if job.state == "PENDING" and job.reason == "BeginTime":
            subprocess.run(
                ["scontrol", "update", f"JobId={job.id}", "StartTime=now"], capture_output=True
            )


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return (
            isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def compared(calm: Path, out: Path) -> list[str]:
    """What differs between two sweeps; nothing should."""
    differences = []
    one, other = SweepFolder(calm), SweepFolder(out)
    if one.read()["cells"].keys() != other.read()["cells"].keys():
        return ["they have other cells"]
    for name_of_cell in one.read()["cells"]:
        cell = one.cell(name_of_cell)
        twin = other.cell(cell.hash)
        rows = [
            json.loads((folder.path / "row.json").read_text())
            for folder in (cell, twin)
            if folder.finished
        ]
        if len(rows) < 2:
            differences.append(f"{cell.hash}: no row")
            continue
        paths = [max((folder.run / "checkpoints").glob("step_*.pt")) for folder in (cell, twin)]
        ends = [torch.load(path, weights_only=True) for path in paths]
        for key in ("step", "model", "optimizer"):
            if not same(ends[0][key], ends[1][key]):
                differences.append(f"{cell.hash}: another {key}")
        logged = [m["step"] for m in metrics(twin.run) if "loss" in m]
        if logged != sorted(set(logged)) or logged[-1] != ends[0]["step"]:
            differences.append(f"{cell.hash}: steps logged twice or not at all")
        if rows[0]["scores"] != rows[1]["scores"]:
            differences.append(f"{cell.hash}: other scores")
    return differences


def disturbed(
    sweep: str, out: Path, faults: int, seed: int, kinds: tuple[str, ...] = KINDS
) -> Faults:
    """The sweep to its end under `faults` of them at most."""
    code = "import sys, pathlib; from tests.sweep.faults import whole"
    code += "; whole(sys.argv[1], pathlib.Path(sys.argv[2]))"
    runner = subprocess.Popen([sys.executable, "-c", code, sweep, str(out)])
    injector = Faults(SweepFolder(out), seed)
    while runner.poll() is None:
        time.sleep(injector.chance.uniform(*PAUSE))
        if injector.folder.file.exists():
            injector.one(kinds) if len(injector.done) < faults else injector.release()
    return injector


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("sweep")
    parser.add_argument("--calm", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    began = time.time()
    calm = whole(flags.sweep, flags.calm)
    between = time.time()
    injector = disturbed(flags.sweep, flags.out, flags.faults, flags.seed)
    differ = compared(flags.calm, flags.out)
    cells = [injector.folder.cell(name) for name in injector.folder.read()["cells"]]
    rows = {one.hash: one.path / "row.json" for one in cells if one.finished}
    summary = {
        "cells": calm["cells"],
        "calm_minutes": round((between - began) / 60, 1),
        "disturbed_minutes": round((time.time() - between) / 60, 1),
        "faults": len(injector.done),
        "by_kind": Counter(kind for kind, _ in injector.done),
        "by_cell": Counter(cell for _, cell in injector.done),
        "starts": {cell: json.loads(row.read_text())["starts"] for cell, row in rows.items()},
        "differ": differ,
    }
    print(json.dumps(summary))
    sys.exit(bool(differ))
