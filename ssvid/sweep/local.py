"""cells -> processes of this machine, which outlive the command that starts them and share the cells among them."""

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
from ssvid.sweep.folder import SweepFolder, store


def start_lanes(folder: SweepFolder, cells: list[str], cluster: Cluster, lanes: int) -> None:
    """Processes that outlive this one, each taking the next cell that nobody has."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("SLURM_", "SUBMITIT_"))
    }
    file = folder.record(cluster="local", cells=cells)
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
                    whole,
                    env=env,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
    while any(p.poll() is None and not (place / f"lane-{p.pid}.json").exists() for p in started):
        time.sleep(0.05)
    if all(not (place / f"lane-{p.pid}.json").exists() for p in started):
        raise RunError(f"No process could begin: {place / 'lane0.log'} says why.")


def lanes_of(submission: dict[str, Any]) -> list[dict[str, Any]]:
    """Processes that began with a submission to this machine. Each notes itself: whoever started it may be killed."""
    files = (
        sorted(Path(submission["folder"]).glob("lane-*.json"))
        if submission["cluster"] == "local"
        else []
    )
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
