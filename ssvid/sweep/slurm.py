"""cells -> job arrays of SLURM, and SLURM's queue -> the jobs of cells.

submitit writes and submits the arrays. sacct is never asked: many clusters have none, and a cell's
own files say how it ended.
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

from ssvid.commands import list_exports
from ssvid.errors import RunError, UserError
from ssvid.sweep.cluster import Cluster
from ssvid.sweep.folder import SweepFolder, write_json_file
from ssvid.trust import VARIABLE, list_trusted_modules

MAX_ARRAY = 1001  # SLURM's own default of MaxArraySize
SQUEUE_FORMAT = "%i|%T|%N|%r|%j"  # id, state, nodes, reason, name
Worker = Callable[[str, list[str], dict[str, Any]], Any]


class Job(NamedTuple):
    """A job of the queue that works on one cell."""

    id: str
    state: str  # PENDING, RUNNING, ...
    node: str
    reason: str
    lanes: tuple[int, ...] = ()  # ids of this machine's processes, for a job that is not SLURM's


def query_slurm(*command: str) -> str | None:
    """The output of a command of SLURM; None if it is not installed, fails or does not answer."""
    if shutil.which(command[0]) is None:
        return None
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    return answer.stdout if answer.returncode == 0 else None


def read_time_left(job: str | None) -> float | None:
    """Seconds until SLURM ends this job; None outside of a job, or if SLURM does not say."""
    if job is None:
        return None
    end = query_slurm("squeue", "--noheader", "--jobs", job, "--format=%e")
    if end is None:
        return None
    try:
        return (datetime.fromisoformat(end.strip()) - datetime.now()).total_seconds()
    except ValueError:
        return None  # N/A, UNLIMITED


def read_queue() -> dict[str, Job] | None:
    """The user's jobs, by number and by name (NAME or NAME_INDEX); None if squeue is silent."""
    text = query_slurm("squeue", "--noheader", "--array", "--me", f"--format={SQUEUE_FORMAT}")
    if text is None:
        return None
    jobs = {}
    for line in text.splitlines():
        number, state, node, reason, name = line.strip().split("|", 4)
        job = Job(number, state, node, reason)
        index = "_" + number.partition("_")[2] if "_" in number else ""
        jobs[number] = jobs[name + index] = job
    return jobs


def submit_arrays(
    folder: SweepFolder, name: str, cells: list[str], cluster: Cluster, worker: Worker
) -> list[str]:
    """Submit arrays of at most MaxArraySize cells and return their job numbers.

    `worker` is what each job calls, with the sweep's folder, its cells and the fields of the
    cluster. Over all arrays, `cluster.parallel` cells run at once. RunError: SLURM refused one.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    size = read_max_array()
    arrays = [cells[i : i + size] for i in range(0, len(cells), size)]
    jobs: list[str] = []
    for array in arrays:
        unique = f"{name}-{uuid.uuid4().hex[:8]}"
        limit = max(1, cluster.parallel * len(array) // len(cells))
        fields = {"cluster": "slurm", "name": unique, "cells": array}
        file = folder.record_submission(**fields)
        try:
            executor = make_executor(folder.path / "jobs" / file.stem, unique, cluster, limit)
            job = submit_array(executor, folder.path, array, cluster, worker)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            file.unlink()
            reason = extract_refusal(str(error))
            raise RunError(
                f"SLURM accepted {len(jobs)} of {len(arrays)} arrays and refused the next "
                f"({reason}). The accepted arrays run; submit again for the others."
            ) from error
        note = {"time": round(time.time()), "host": socket.gethostname(), **fields, "job": job}
        write_json_file(file, note)
        jobs.append(job)
    return jobs


def submit_array(
    executor: Any, out: Path, cells: list[str], cluster: Cluster, worker: Worker
) -> str:
    """Submit one array, with a task for each cell, and return its job number."""
    count = len(cells)
    folders, cells_of_task = [str(out.resolve())] * count, [[cell] for cell in cells]
    jobs = executor.map_array(worker, folders, cells_of_task, [vars(cluster)] * count)
    return str(jobs[0].job_id).partition("_")[0]


def make_executor(folder: Path, name: str, cluster: Cluster, limit: int) -> Any:
    """The submitit executor of an array of which `limit` tasks run at once.

    The batch script is the keeper itself (use_srun=False). It starts the ranks as steps of the job,
    as often as necessary.
    """
    import submitit

    executor = submitit.SlurmExecutor(folder, max_num_timeout=10**6)
    optional = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "gpus_per_node": cluster.gpus or None,
        "mem": f"{round(cluster.memory * 1024)}M" if cluster.memory else None,
        "setup": [*list_exports(), *export_trust(), *cluster.setup] or None,
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
        **{key: value for key, value in optional.items() if value is not None},
    )
    return executor


def export_trust() -> list[str]:
    """The line of the job script that hands on what --trust named.

    Not every cluster gives the environment of the submitting process to its jobs.
    """
    modules = ",".join(list_trusted_modules())
    return [f"export {VARIABLE}={modules}"] if modules else []


def render_script(folder: SweepFolder, name: str, cells: int, cluster: Cluster) -> str:
    """The script that sbatch would get, for --dry-run and for check_submission."""
    limit = min(cluster.parallel, cells)
    executor = make_executor(folder.path / "jobs" / "NNNN", name, cluster, limit)
    if cells > 1:
        executor.parameters["map_count"] = min(cells, read_max_array())
    return str(executor._make_submission_file_text(executor._submitit_command_str, "check"))


def check_submission(folder: SweepFolder, name: str, cells: int, cluster: Cluster) -> None:
    """Ask sbatch whether it would accept the jobs (partition, account, limits).

    UserError: sbatch would refuse them.
    """
    text = render_script(folder, name, cells, cluster)
    answer = subprocess.run(["sbatch", "--test-only"], input=text, capture_output=True, text=True)
    if answer.returncode:
        raise UserError(
            f"SLURM would refuse these jobs ({extract_refusal(answer.stderr)}); nothing was "
            "submitted."
        )


def check_tools() -> None:
    """Raise UserError if this machine has no SLURM. It costs nothing, so it is asked first."""
    for tool in ("sbatch", "srun"):
        if shutil.which(tool) is None:
            raise UserError(
                f"There is no {tool} on this machine, so SLURM cannot be used: start this command "
                "on a login node of the cluster, or run the sweep here with --cluster local."
            )


def extract_refusal(text: str) -> str:
    """The sentence of sbatch's output that says why it refused a job."""
    lines, refusals = [], []
    for line in text.splitlines():
        if line.strip():
            lines.append(re.sub(r"^(sbatch: )?(error: )?", "", line))
            if "allocation failure" in line or "Batch job submission failed" in line:
                refusals.append(lines[-1])
    sentences = refusals or lines or ["it does not say why"]
    return sentences[-1].rstrip(".")


def read_max_array() -> int:
    """The largest array that this cluster accepts."""
    config = query_slurm("scontrol", "show", "config") or ""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE)
    return max(1, int(match[1]) if match else MAX_ARRAY)
