"""a submission -> which of its cells are alive: in SLURM's queue, or in a process of this machine."""

import socket
from typing import Any

from ssvid.sweep import local, slurm


def alive(submission: dict[str, Any], jobs: dict[str, slurm.Job] | None) -> dict[str, slurm.Job]:
    """cell -> its job, of those that a submission still has in the queue or in a process of this machine."""
    cells = submission["cells"]
    if submission["cluster"] == "slurm":
        known = jobs or {}
        suffix = [f"_{i}" for i in range(len(cells))] if len(cells) > 1 else [""]
        ids = [
            known.get(f"{submission.get('job')}{end}") or known.get(f"{submission['name']}{end}")
            for end in suffix
        ]
        return {cell: job for cell, job in zip(cells, ids, strict=True) if job}
    lanes = [
        lane
        for lane in local.lanes_of(submission)
        if lane["host"] != socket.gethostname() or local.living(lane)
    ]
    if not lanes:
        return {}
    job = slurm.Job("", "LOCAL", lanes[0]["host"], "", tuple(lane["pid"] for lane in lanes))
    return dict.fromkeys(cells, job)
