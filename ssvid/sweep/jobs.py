"""a submission -> which of its cells have a live job, in SLURM's queue or on this machine."""

import socket
from typing import Any

from ssvid.sweep import local, slurm


def find_live_jobs(
    submission: dict[str, Any], queue: dict[str, slurm.Job] | None
) -> dict[str, slurm.Job]:
    """cell -> its job, for the cells of a submission that are still queued or running.

    `queue` is that of slurm.read_queue(). A submission to this machine has one job for all its
    cells, because its processes share them.
    """
    cells = submission["cells"]
    if submission["cluster"] == "slurm":
        return find_queued_jobs(submission, queue or {})
    lanes = []
    for lane in local.read_lanes(submission):
        if lane["host"] != socket.gethostname() or local.is_lane_alive(lane):
            lanes.append(lane)
    if not lanes:
        return {}
    pids = tuple(lane["pid"] for lane in lanes)
    return dict.fromkeys(cells, slurm.Job("", "LOCAL", lanes[0]["host"], "", pids))


def find_queued_jobs(
    submission: dict[str, Any], queue: dict[str, slurm.Job]
) -> dict[str, slurm.Job]:
    """cell -> its job in SLURM's queue.

    A job is looked up by its number. If the submission was killed before it noted the number, the
    job is looked up by its name.
    """
    cells, jobs = submission["cells"], {}
    for i, cell in enumerate(cells):
        suffix = f"_{i}" if len(cells) > 1 else ""
        by_number = queue.get(f"{submission.get('job')}{suffix}")
        job = by_number or queue.get(f"{submission['name']}{suffix}")
        if job:
            jobs[cell] = job
    return jobs
