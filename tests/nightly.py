"""The long proofs: `python -m tests.nightly` runs every part, `python -m tests.nightly NAME` one of
them.

A part that has passed at this commit is not run again, so a run that was killed goes on where it
stood. In a tree with changes that are not committed, nothing counts as passed.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAMPS = ROOT / "runs" / "nightly"  # one empty file for each commit and part
PYTEST = ("pytest", "-q", "-m", "nightly")
CALM, OUT = "runs/nightly/faults-calm", "runs/nightly/faults-out"
PARTS = {  # name: the words after `python -m`
    "demo": (*PYTEST, "tests/test_demo.py"),
    "narrated": (*PYTEST, "tests/test_narrated.py"),
    "kills": (*PYTEST, "tests/engine/test_faults.py"),
    "sweep_local": (*PYTEST, "tests/sweep/test_local.py"),
    "sweep_slurm": (*PYTEST, "tests/sweep/test_slurm.py", "tests/engine/test_slurm_ranks.py"),
    "interruptions": (*PYTEST, "-s", "tests/test_interruptions.py"),
    "damage": (*PYTEST, "tests/data/test_damage.py"),
    "simulations": (*PYTEST, "tests/test_simulations.py"),
    "breaks": ("tests.breaks",),
    "thousand_cells": ("tests.sweep.thousand",),
    "sweep_faults": (
        "tests.sweep.faults",
        "recipes/sweeps/smoke.yaml",
        "--calm",
        CALM,
        "--out",
        OUT,
        "--faults",
        "30",
    ),
}
NEEDS_SLURM = {"sweep_faults"}  # the tests of pytest say so themselves


def read_commit() -> str | None:
    """The commit of this tree; None where files differ from it."""
    if subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip():
        return None
    return (
        subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()
        or None
    )


def has_slurm() -> bool:
    try:
        return subprocess.run(["sinfo"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def run_part(name: str, commit: str | None) -> str:
    """passed, failed, skipped or passed before."""
    stamp = STAMPS / str(commit) / name
    if commit and stamp.exists():
        return "passed before"
    if name in NEEDS_SLURM and not has_slurm():
        return "skipped: no SLURM answers"
    if subprocess.run([sys.executable, "-m", *PARTS[name]], cwd=ROOT).returncode:
        return "failed"
    if commit:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
    return "passed"


def main(names: list[str]) -> int:
    if unknown := set(names) - PARTS.keys():
        print(
            f"error: no part {sorted(unknown)[0]}: choose one of {', '.join(PARTS)}",
            file=sys.stderr,
        )
        return 2
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    commit, results = read_commit(), {}
    for name in names or PARTS:
        began = time.monotonic()
        results[name] = run_part(name, commit)
        print(
            f"nightly {name}: {results[name]} ({(time.monotonic() - began) / 60:.1f} minutes)",
            flush=True,
        )
    failed = [name for name, result in results.items() if result == "failed"]
    print(
        f"nightly at {commit or 'a changed tree'}: {len(failed)} of {len(results)} parts failed "
        f"{failed}",
        flush=True,
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
