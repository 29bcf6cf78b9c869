"""cells -> jobs of SLURM (by submitit), or processes of this machine; and back: which of them are alive.

sacct is never asked: many clusters have none, and what became of a cell stands in its own files.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from ssvid.errors import RunError, UserError
from ssvid.sweep.cluster import Cluster
from ssvid.sweep.folder import SweepFolder, store

MAX_ARRAY = 1001  # SLURM's own default of MaxArraySize
LIST = "%i|%T|%N|%r|%j"  # of squeue: id, state, nodes, reason, name


class Job(NamedTuple):
    """Of one cell, as the queue tells it."""

    id: str
    state: str  # PENDING, RUNNING, ...
    node: str
    reason: str
    lanes: tuple[int, ...] = ()  # processes of this machine instead, which share the cells of a submission


def ask(*command: str) -> str | None:
    """What a command of SLURM says; None where it is not there or does not answer."""
    if shutil.which(command[0]) is None:
        return None
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    return answer.stdout if answer.returncode == 0 else None


def time_left(job: str | None) -> float | None:
    """Seconds until SLURM ends this job; None outside of one, or where it does not say."""
    if job is None or (said := ask("squeue", "--noheader", "--jobs", job, "--format=%e")) is None:
        return None
    try:
        return (datetime.fromisoformat(said.strip()) - datetime.now()).total_seconds()
    except ValueError:
        return None  # N/A, UNLIMITED


def queue() -> dict[str, Job] | None:
    """The user's jobs, by id and by name (NAME or NAME_INDEX); None where no squeue answers."""
    said = ask("squeue", "--noheader", "--array", "--me", f"--format={LIST}")
    if said is None:
        return None
    jobs = {}
    for line in said.splitlines():
        number, state, node, reason, name = line.strip().split("|", 4)
        job = Job(number, state, node, reason)
        index = "_" + number.partition("_")[2] if "_" in number else ""
        jobs[number] = jobs[name + index] = job
    return jobs


def alive(submission: dict[str, Any], jobs: dict[str, Job] | None) -> dict[str, Job]:
    """cell -> its job, of those that a submission still has in the queue or in a process of this machine."""
    cells = submission["cells"]
    if submission["cluster"] == "slurm":
        known = jobs or {}
        suffix = [f"_{i}" for i in range(len(cells))] if len(cells) > 1 else [""]
        ids = [known.get(f"{submission.get('job')}{end}") or known.get(f"{submission['name']}{end}") for end in suffix]
        return {cell: job for cell, job in zip(cells, ids, strict=True) if job}
    lanes = [lane for lane in lanes_of(submission) if lane["host"] != socket.gethostname() or living(lane)]
    if not lanes:
        return {}
    job = Job("", "LOCAL", lanes[0]["host"], "", tuple(lane["pid"] for lane in lanes))
    return dict.fromkeys(cells, job)


def lanes_of(submission: dict[str, Any]) -> list[dict[str, Any]]:
    """Processes that began with a submission to this machine. Each notes itself: whoever started it may be killed."""
    files = sorted(Path(submission["folder"]).glob("lane-*.json")) if submission["cluster"] == "local" else []
    return [json.loads(file.read_text()) for file in files]


def arrive(folder: SweepFolder, number: str) -> None:
    """What a lane does first."""
    me = {"pid": os.getpid(), "began": began(os.getpid()), "host": socket.gethostname()}
    store(folder.path / "jobs" / number / f"lane-{os.getpid()}.json", me)


def living(lane: dict[str, Any]) -> bool:
    """The very process, not another that got its number later."""
    return began(lane["pid"]) == lane["began"]


def began(pid: int) -> str | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def record(folder: SweepFolder, **what: Any) -> Path:
    """Written before the cluster is asked: a submit that is killed right after leaves no job that nobody knows."""
    number = 1 + max((int(one["number"]) for one in folder.submissions()), default=0)
    file = folder.path / "submissions" / f"{number:04d}.json"
    store(file, {"time": round(time.time()), "host": socket.gethostname(), **what})
    return file


def on_slurm(folder: SweepFolder, name: str, cells: list[str], cluster: Cluster) -> list[str]:
    """Arrays of at most MaxArraySize cells, of which `parallel` run at once in all. Returns their job numbers."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    size = max_array()
    parts = [cells[i : i + size] for i in range(0, len(cells), size)]
    jobs: list[str] = []
    for part in parts:
        unique = f"{name}-{uuid.uuid4().hex[:8]}"
        limit = max(1, cluster.parallel * len(part) // len(cells))
        what = {"cluster": "slurm", "name": unique, "cells": part}
        file = record(folder, **what)
        where = folder.path / "jobs" / file.stem
        try:
            job = handed(folder.path, where, unique, part, cluster, limit)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            file.unlink()
            why = refusal(str(error))
            raise RunError(
                f"SLURM took {len(jobs)} of {len(parts)} arrays and refused the next ({why}). What it took runs; "
                "submit again for the rest."
            ) from error
        store(file, {"time": round(time.time()), "host": socket.gethostname(), **what, "job": job})
        jobs.append(job)
    return jobs


def handed(out: Path, where: Path, name: str, cells: list[str], cluster: Cluster, limit: int) -> str:
    from ssvid.sweep.keeper import keep

    executor = executor_of(where, name, cluster, limit)
    many = len(cells)
    made = executor.map_array(keep, [str(out.resolve())] * many, [[cell] for cell in cells], [vars(cluster)] * many)
    return str(made[0].job_id).partition("_")[0]


def executor_of(where: Path, name: str, cluster: Cluster, limit: int) -> Any:
    """The keeper is the batch script itself: it starts the ranks as steps, as often as it takes."""
    import submitit

    executor = submitit.SlurmExecutor(where, max_num_timeout=10**6)
    given = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "gpus_per_node": cluster.gpus or None,
        "mem": f"{round(cluster.memory * 1024)}M" if cluster.memory else None,
        "setup": cluster.setup or None,
    }
    executor.update_parameters(
        job_name=name,
        nodes=cluster.nodes,
        ntasks_per_node=cluster.per_node,
        cpus_per_task=cluster.cpus,
        time=cluster.time,
        signal_delay_s=cluster.signal_delay,
        array_parallelism=limit,
        use_srun=False,
        additional_parameters={"requeue": True, **cluster.extra},
        **{key: value for key, value in given.items() if value is not None},
    )
    return executor


def script(folder: SweepFolder, name: str, cells: int, cluster: Cluster) -> str:
    """What sbatch will be given, for --dry-run and for sbatch's own check."""
    executor = executor_of(folder.path / "jobs" / "NNNN", name, cluster, min(cluster.parallel, cells))
    if cells > 1:
        executor.parameters["map_count"] = min(cells, max_array())
    return str(executor._make_submission_file_text(executor._submitit_command_str, "check"))


def check(folder: SweepFolder, name: str, cells: int, cluster: Cluster) -> None:
    """Ask sbatch whether it would take the jobs: partition, account, limits."""
    for tool in ("sbatch", "srun"):
        if shutil.which(tool) is None:
            raise UserError(
                f"There is no {tool} on this machine, so no SLURM to submit to: start this on a login node of the "
                "cluster, or run the sweep here with --cluster local."
            )
    text = script(folder, name, cells, cluster)
    answer = subprocess.run(["sbatch", "--test-only"], input=text, capture_output=True, text=True)
    if answer.returncode:
        raise UserError(f"SLURM would refuse these jobs ({refusal(answer.stderr)}); nothing was submitted.")


def refusal(text: str) -> str:
    lines = [re.sub(r"^(sbatch: )?(error: )?", "", line) for line in text.splitlines() if line.strip()]
    said = [line for line in lines if "allocation failure" in line or "Batch job submission failed" in line] or lines
    return (said[-1] if said else "it does not say why").rstrip(".")


def max_array() -> int:
    said = ask("scontrol", "show", "config") or ""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", said, re.MULTILINE)
    return max(1, int(found[1]) if found else MAX_ARRAY)


def on_this_machine(folder: SweepFolder, cells: list[str], cluster: Cluster, lanes: int) -> None:
    """Processes that outlive this one, each taking the next cell that nobody has."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SUBMITIT_"))}
    file = record(folder, cluster="local", cells=cells)
    place = folder.path / "jobs" / file.stem
    place.mkdir(parents=True, exist_ok=True)
    argv = [str(folder.path.resolve()), file.stem, json.dumps(vars(cluster)), *cells]
    started = []
    for lane in range(min(lanes, len(cells))):
        seen = ",".join(str(lane * cluster.gpus + gpu) for gpu in range(cluster.gpus))
        env = {**clean, "CUDA_VISIBLE_DEVICES": seen} if cluster.gpus else clean
        with open(place / f"lane{lane}.log", "ab") as log:
            whole = [sys.executable, "-m", "ssvid.sweep.keeper", *argv]
            started.append(
                subprocess.Popen(
                    whole, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
                )
            )
    while any(p.poll() is None and not (place / f"lane-{p.pid}.json").exists() for p in started):
        time.sleep(0.05)
    if all(not (place / f"lane-{p.pid}.json").exists() for p in started):
        raise RunError(f"No process could begin: {place / 'lane0.log'} says why.")
