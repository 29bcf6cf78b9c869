"""Two nodes of a real SLURM, one process each, started by plain srun, do what two
processes of one machine do.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.engine.pairs import metrics_so_far, same_numbers
from tests.engine.test_run import same, weights
from tests.engine.two import two_steps
from tests.helpers import ROOT, metrics, pretrain_argv, run_pretrain, tells
from tests.sweep.small import take_slurm

SRUN = ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
TIME_S = 240


def nodes() -> str:
    """Why two nodes cannot be had; "" where they can."""
    if not shutil.which("sinfo"):
        return "no SLURM: there is no sinfo"
    states = ["sinfo", "--noheader", "--Node", "--format=%N %T"]
    try:
        found = subprocess.run(states, capture_output=True, text=True, timeout=60, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return f"SLURM does not answer: {error}"
    rows = [line.split() for line in found.stdout.splitlines()]
    usable = {row[0] for row in rows if row[1] in ("idle", "mixed", "allocated")}
    return "" if len(usable) > 1 else f"SLURM has {len(usable)} usable nodes, and two are needed"


@pytest.fixture(scope="module", autouse=True)
def two_nodes() -> None:
    if why := nodes():
        pytest.skip(why)


@pytest.fixture(autouse=True)
def turn() -> Iterator[None]:
    with take_slurm():
        yield


@pytest.fixture
def clean() -> dict[str, str]:
    """Nothing of another launcher's."""
    ours = ("MASTER_", "SLURM_", "SBATCH_", "SUBMITIT_", "TORCHELASTIC_")
    return {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(ours) and k not in ("RANK", "WORLD_SIZE")
    }


NIGHTLY = [
    pytest.param(name, marks=pytest.mark.nightly) for name in ("dpc", "infonce", "coclr", "tan")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mae", *NIGHTLY])  # infonce: what CoCLR begins with
def test_two_nodes_are_one_process(name: str, clean: dict[str, str], tmp_path: Path):
    file = tmp_path / "two.pt"
    shell = [*SRUN, sys.executable, "-m", "tests.engine.two", name, str(file)]
    ran = subprocess.run(shell, capture_output=True, text=True, env=clean, timeout=TIME_S, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr[-2000:]
    same_numbers(two_steps(name), torch.load(file, weights_only=True))


class Job:
    """A batch job whose one step is the run on two nodes."""

    def __init__(
        self, folder: Path, argv: list[str], env: dict[str, str], before: str = ""
    ) -> None:
        self.folder = folder
        folder.mkdir()
        said = [f"--output={folder}/%t.out", f"--error={folder}/%t.err"]
        step = [*SRUN, *said, sys.executable, "-m", "ssvid.pretrain", *argv]
        told = f"echo $? > {folder}/code.tmp; mv {folder}/code.tmp {folder}/code"
        script = f"{before}\n{subprocess.list2cmdline(step)}\n{told}"
        (folder / "job.sh").write_text(f"#!/bin/bash\n{script}\n")
        shell = [
            "sbatch",
            "--parsable",
            "--nodes=2",
            "--ntasks=2",
            f"--chdir={ROOT}",
            f"--output={folder}/batch",
        ]
        ran = subprocess.run(
            [*shell, str(folder / "job.sh")], capture_output=True, text=True, env=env, timeout=60
        )
        assert ran.returncode == 0, ran.stderr
        self.id = ran.stdout.strip()

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIME_S
        while not done():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def said(self) -> str:
        return (
            "".join(file.read_text() for file in sorted(self.folder.glob("*.err"))) + self.batch()
        )

    def batch(self) -> str:
        file = self.folder / "batch"
        return file.read_text() if file.exists() else ""

    def code(self) -> int:
        self.until((self.folder / "code").exists)
        return int((self.folder / "code").read_text())


@pytest.fixture
def job(clean: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Job]]:
    made: list[Job] = []

    def start(argv: list[str], before: str = "") -> Job:
        made.append(Job(tmp_path / f"job{len(made)}", argv, clean, before))
        return made[-1]

    yield start
    for one in made:
        subprocess.run(["scancel", one.id], timeout=60)


@pytest.mark.slow
def test_a_signal_then_two_nodes_again_or_one_process(
    job: Callable[..., Job], videos: Path, tmp_path: Path
):
    """The second start has a port that was chosen for it, as a sweep chooses one.

    No dropout: ranks draw their own.
    """
    more = ("--steps", "40", "--checkpoint_every", "1000", "--workers", "1")
    whole, out, alone = tmp_path / "whole", tmp_path / "out", tmp_path / "alone"
    assert job(pretrain_argv(videos, whole, *more)).code() == 0
    stopped = job(pretrain_argv(videos, out, *more))
    stopped.until(lambda: any(row["step"] >= 3 for row in metrics_so_far(out)))
    subprocess.run(["scancel", "--signal=USR2", stopped.id], check=True, timeout=60)
    assert stopped.code() == 75, stopped.said()
    step = metrics(out)[-1]["step"]
    assert 3 <= step < 40 and (out / "checkpoints" / f"step_{step:08d}.pt").exists()
    assert (
        len([line for line in stopped.said().splitlines() if tells(line, "SIGUSR2", str(step))])
        == 1
    )
    assert "Traceback" not in stopped.said() and "\nerror:" not in stopped.said(), stopped.said()
    shutil.copytree(out, alone)
    again = job(
        pretrain_argv(videos, out, *more), before="export MASTER_PORT=$((20000 + RANDOM % 10000))"
    )
    assert again.code() == 0, again.said()
    assert tells(again.said(), str(step))
    assert same(weights(out), weights(whole))
    assert run_pretrain(videos, alone, *more)["step"] == 40
    found, expected = weights(alone), weights(whole)
    assert max(float((expected[key] - value).abs().max()) for key, value in found.items()) < 1e-4
