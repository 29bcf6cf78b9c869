"""Sweeps on a real SLURM of two nodes.

`.ci/run` starts one where the scripts for it lie beside the checkout.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ssvid.sweep.folder import CellFolder, SweepFolder
from ssvid.sweep.slurm import query_slurm
from ssvid.sweep.status import read_states
from tests.helpers import ROOT, command
from tests.sweep.faults import compared, disturbed, processes, release_jobs, whole
from tests.sweep.small import SUITE, take_slurm, until, write_sweep

pytestmark = pytest.mark.slow
MANY = 10**6  # steps: more than there is time for

NODES = {"nodes": 2, "cpus": 1, "memory": 1, "parallel": 2, "time": 20}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> None:
    nodes = (query_slurm("sinfo", "-h", "-N", "-o", "%N %T") or "").splitlines()
    fit = {
        line.split()[0]
        for line in nodes
        if line.split()[1] in ("idle", "mixed", "allocated", "completing")
    }
    if len(fit) < 2:
        pytest.skip("no SLURM of two nodes here: shared/slurm/start-slurm.sh --nodes 2 starts one")


@pytest.fixture(autouse=True)
def turn() -> Iterator[None]:
    with take_slurm():
        yield


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a sweep file; jobs start where the test stands, and their python must find the tests'
    code.
    """
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    yield partial(write_sweep, tmp_path, cluster=NODES)
    jobs = []
    for file in tmp_path.glob("*/sweep.json"):
        jobs += [str(record["job"]) for record in SweepFolder(file.parent).submissions()]
    for job in jobs:  # the next test wants the nodes
        subprocess.run(["scancel", job], timeout=60)
        until(lambda job=job: not (query_slurm("squeue", "-h", "-j", job) or "").strip())


def step_of(cell: CellFolder) -> int:
    steps = [
        one.step for one in read_states(SweepFolder(cell.path.parents[1])) if one.cell == cell.hash
    ]
    return steps[0] or 0


def start_cell(file: str, out: Path) -> tuple[SweepFolder, CellFolder]:
    """A sweep of one cell, once it is at work."""
    assert command("ssvid.sweep", file, "--out", str(out)).returncode == 0
    folder = SweepFolder(out)
    cell = folder.cell(next(iter(folder.read()["cells"])))
    until(lambda: step_of(cell) > 4)
    return folder, cell


def job_of(folder: SweepFolder) -> str:
    (one,) = folder.submissions()
    return str(one["job"])


def wait_for_requeue(job: str) -> None:
    until(lambda: "BeginTime" in (query_slurm("squeue", "-h", "-j", job, "-o", "%r") or ""))
    # Written once: the limit of a job that runs again is counted from its new start.
    subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=20"], check=True)


def until_it_goes_on(folder: SweepFolder, cell: CellFolder, true: Callable[[], object]) -> None:
    """Wait for what comes after a requeue.

    SLURM lets a requeued job wait for two minutes, and may write that time after we wrote ours.
    So we write ours again at each look.
    """

    def look() -> object:
        release_jobs()
        return true()

    try:
        until(look, seconds=300)
    except AssertionError as error:
        (job,) = folder.submissions()
        state = query_slurm("scontrol", "show", "job", str(job["job"]))
        raise AssertionError(f"{state}\n{cell.read_events()}\nstep {step_of(cell)}") from error


@pytest.mark.nightly
def test_a_requeue_and_a_kill_change_nothing(sweep: Any, tmp_path: Path):
    file = sweep(grid={"seed": [0, 1]}, suite=SUITE)
    assert whole(file, tmp_path / "calm")["finished"] == 2
    faults = disturbed(file, tmp_path / "out", 2, seed=0, kinds=("requeue", "kill -9 of a rank"))
    assert len(faults.done) == 2
    assert compared(tmp_path / "calm", tmp_path / "out") == []


def test_told_before_its_time_is_up_it_saves_and_is_requeued(sweep: Any, tmp_path: Path):
    """The time limit: a checkpoint on the signal, the job requeued by its keeper, on from there."""
    out = tmp_path / "out"
    flags = {"steps": MANY, "checkpoint_every": MANY}
    file = sweep(grid={"seed": [0]}, set=flags, cluster={**NODES, "time": 4, "signal_delay": 20})
    folder, cell = start_cell(file, out)
    job = job_of(folder)
    subprocess.run(
        ["scontrol", "update", f"JobId={job}", "TimeLimit=2"], check=True
    )  # counted from the job's start
    wait_for_requeue(job)
    (end,) = [event for event in cell.read_events() if event["event"] == "end"]
    reached = int(end["mark"][5:-3])
    assert end["how"] == "outside" and 4 < reached < MANY  # no checkpoint but that of the signal
    until_it_goes_on(folder, cell, lambda: step_of(cell) > reached)
    assert sum(event["event"] == "start" for event in cell.read_events()) == 2
    assert command("ssvid.sweep", "cancel", str(out)).returncode == 0
    log = next((cell.logs / "002-pretrain").glob("rank0.err")).read_text()
    assert f"going on at step {reached} of" in log


@pytest.mark.nightly
def test_a_job_of_a_higher_partition_takes_its_place(sweep: Any, tmp_path: Path):
    """Preemption with a grace time: the signal, a checkpoint; then on when the other has ended."""
    if "high" not in (query_slurm("sinfo", "-h", "-o", "%P") or ""):
        pytest.skip("this SLURM has no partition that preempts another")
    out = tmp_path / "out"
    cpus = os.cpu_count() or 1
    flags = {"steps": 400, "checkpoint_every": 400}
    file = sweep(grid={"seed": [0]}, set=flags, cluster={**NODES, "partition": "low", "cpus": cpus})
    folder, cell = start_cell(file, out)
    other = ["sbatch", "-p", "high", "-N2", f"-c{cpus}", "-o", "/dev/null", "--wrap", "sleep 1"]
    subprocess.run(other, check=True, capture_output=True)
    wait_for_requeue(job_of(folder))
    until_it_goes_on(folder, cell, lambda: cell.finished)
    marks = [event["mark"] for event in cell.read_events() if event["event"] == "end"]
    assert marks[0] > "step_00000004.pt" and marks[-1] == "step_00000400.pt"


@pytest.mark.nightly
def test_a_rank_that_fails_by_itself_is_named_with_its_log(sweep: Any, tmp_path: Path):
    """Three attempts, then the cell stays failed, its sentence in the table, each rank's words in
    its log.
    """
    file = sweep(grid={"seed": [0]}, set={"objective.dec_heads": 3})  # 16 is no multiple of 3
    done = command("ssvid.sweep", file, "--out", str(tmp_path / "out"), "--wait")
    assert done.returncode == 3, done.stderr[-2000:]
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["cells"], last["finished"], last["failed"]) == (1, 0, 1)
    folder = SweepFolder(tmp_path / "out")
    (one,) = read_states(folder)
    assert one.state == "failed" and one.restarts == 2 and one.reason in done.stderr
    logs = folder.cell(one.cell).logs / "003-pretrain"
    assert {file.name for file in logs.glob("rank*.err")} == {"rank0.err", "rank1.err"}


@pytest.mark.nightly
def test_a_hanging_rank_is_named(sweep: Any, tmp_path: Path):
    out = tmp_path / "out"
    file = sweep(grid={"seed": [0]}, set={"timeout_s": 20, "steps": 400})
    folder, cell = start_cell(file, out)
    ranks = [
        pid for pid in processes(str(cell.run), "ssvid.pretrain", "python") if rank(pid) == "1"
    ]
    subprocess.run(["kill", "-STOP", *map(str, ranks)], check=True)
    until(lambda: any(event["event"] == "end" for event in cell.read_events()))
    end = next(event for event in cell.read_events() if event["event"] == "end")
    assert "lost process 1" in " ".join(end["lines"])
    until(lambda: cell.finished)


def rank(pid: int) -> str:
    """Of a task that srun started."""
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((word[13:].decode() for word in words if word.startswith(b"SLURM_PROCID=")), "")
