"""cells -> job arrays of SLURM (written and submitted by submitit), and what its queue says of them.

sacct is never asked: many clusters have none, and what became of a cell stands in its own files.
"""

import re
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from ssvid.errors import RunError, UserError
from ssvid.sweep.cluster import Cluster
from ssvid.sweep.folder import SweepFolder, store

MAX_ARRAY = 1001  # SLURM's own default of MaxArraySize
LIST = "%i|%T|%N|%r|%j"  # of squeue: id, state, nodes, reason, name
Worker = Callable[[str, list[str], dict[str, Any]], Any]


class Job(NamedTuple):
    """Of one cell, as the queue tells it."""

    id: str
    state: str  # PENDING, RUNNING, ...
    node: str
    reason: str
    lanes: tuple[
        int, ...
    ] = ()  # processes of this machine instead, which share the cells of a submission


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


def submit_arrays(
    folder: SweepFolder, name: str, cells: list[str], cluster: Cluster, worker: Worker
) -> list[str]:
    """Arrays of at most MaxArraySize cells, of which `parallel` run at once in all. Returns their job numbers.

    `worker`: what each job calls, with the sweep's folder, its cells and the shape of the cluster.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    size = max_array()
    parts = [cells[i : i + size] for i in range(0, len(cells), size)]
    jobs: list[str] = []
    for part in parts:
        unique = f"{name}-{uuid.uuid4().hex[:8]}"
        limit = max(1, cluster.parallel * len(part) // len(cells))
        what = {"cluster": "slurm", "name": unique, "cells": part}
        file = folder.record(**what)
        where = folder.path / "jobs" / file.stem
        try:
            job = submit(folder.path, where, unique, part, cluster, limit, worker)
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


def submit(
    out: Path,
    where: Path,
    name: str,
    cells: list[str],
    cluster: Cluster,
    limit: int,
    worker: Worker,
) -> str:
    executor = executor_of(where, name, cluster, limit)
    many = len(cells)
    made = executor.map_array(
        worker, [str(out.resolve())] * many, [[cell] for cell in cells], [vars(cluster)] * many
    )
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
    executor = executor_of(
        folder.path / "jobs" / "NNNN", name, cluster, min(cluster.parallel, cells)
    )
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
        raise UserError(
            f"SLURM would refuse these jobs ({refusal(answer.stderr)}); nothing was submitted."
        )


def refusal(text: str) -> str:
    lines = [
        re.sub(r"^(sbatch: )?(error: )?", "", line) for line in text.splitlines() if line.strip()
    ]
    said = [
        line
        for line in lines
        if "allocation failure" in line or "Batch job submission failed" in line
    ] or lines
    return (said[-1] if said else "it does not say why").rstrip(".")


def max_array() -> int:
    said = ask("scontrol", "show", "config") or ""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", said, re.MULTILINE)
    return max(1, int(found[1]) if found else MAX_ARRAY)
