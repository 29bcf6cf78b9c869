"""cells -> lanes: processes of this machine that share the cells.

A lane is a keeper in a process of its own. It outlives the command that started it.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ssvid.errors import RunError
from ssvid.sweep.cluster import Cluster
from ssvid.sweep.folder import SweepFolder, write_json_file


def start_lanes(folder: SweepFolder, cells: list[str], cluster: Cluster, lanes: int) -> None:
    """Start `lanes` processes, each of which takes the next cell that no other lane holds.

    RunError: no lane started.
    """
    file = folder.record_submission(cluster="local", cells=cells)
    jobs = folder.path / "jobs" / file.stem
    jobs.mkdir(parents=True, exist_ok=True)
    argv = [str(folder.path.resolve()), file.stem, json.dumps(vars(cluster)), *cells]
    processes = []
    for lane in range(min(lanes, len(cells))):
        with open(jobs / f"lane{lane}.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ssvid.sweep.keeper", *argv],
                env=make_lane_environment(lane, cluster),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        processes.append((process, jobs / f"lane-{process.pid}.json"))
    while any(process.poll() is None and not note.exists() for process, note in processes):
        time.sleep(0.05)
    if not any(note.exists() for _, note in processes):
        raise RunError(f"No process could start: {jobs / 'lane0.log'} says why.")


def make_lane_environment(lane: int, cluster: Cluster) -> dict[str, str]:
    """This process's environment without SLURM's variables, and with the lane's own GPUs."""
    environment = dict(os.environ)
    for key in os.environ:
        if key.startswith(("SLURM_", "SUBMITIT_")):
            del environment[key]
    if cluster.gpus:
        gpus = range(lane * cluster.gpus, (lane + 1) * cluster.gpus)
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    return environment


def read_lanes(submission: dict[str, Any]) -> list[dict[str, Any]]:
    """The notes of all lanes of a submission to this machine.

    Each lane writes its own note, because the command that started it may have been killed.
    """
    if submission["cluster"] != "local":
        return []
    files = sorted(Path(submission["folder"]).glob("lane-*.json"))
    return [json.loads(file.read_text()) for file in files]


def record_lane(folder: SweepFolder, submission: str) -> None:
    """Write the note of this process. It is the first thing that a lane does."""
    pid = os.getpid()
    note = {"pid": pid, "began": read_start_time(pid), "host": socket.gethostname()}
    write_json_file(folder.path / "jobs" / submission / f"lane-{pid}.json", note)


def is_lane_alive(lane: dict[str, Any]) -> bool:
    """Whether the lane's process still runs. A later process with the same id does not count."""
    return read_start_time(lane["pid"]) == lane["began"]


def read_start_time(pid: int) -> str | None:
    """When a process started, in the kernel's clock ticks; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
