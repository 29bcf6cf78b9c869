"""the `cluster` part of a sweep file -> the resources that each cell asks of SLURM or this machine.

It defines the dataclass Cluster and checks the values that a user gives for it.
"""

from dataclasses import dataclass, field
from typing import Any

from ssvid.errors import UserError


@dataclass(frozen=True)
class Cluster:
    """What one cell needs, and how many cells run at once.

    A value that is absent is left to the defaults of the SLURM cluster.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: int = 1
    tasks: int | None = None  # processes per node; null: one for each GPU, or 1 without a GPU
    gpus: int = 0  # per node
    cpus: int = 2  # per process
    memory: float | None = None  # GB per node
    time: int = 1440  # minutes; a cell that needs more time is requeued and goes on
    # seconds before the end of the job at which the cell receives the signal to save a checkpoint
    signal_delay: int = 120
    parallel: int = 64  # cells at once on SLURM; on this machine --parallel counts, with default 1
    # lines of shell that run before each job, such as module load ...
    setup: list[str] = field(default_factory=list)
    # further options of sbatch, such as {reservation: x, exclusive: true}
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def ranks(self) -> int:
        """Processes of one cell."""
        return self.nodes * self.per_node

    @property
    def per_node(self) -> int:
        """Processes per node."""
        return self.tasks or max(1, self.gpus)


def parse_cluster(content: dict[str, Any], path: str) -> Cluster:
    """Parse and check the `cluster` part of the sweep file `path`. UserError names a bad value."""
    from jsonargparse import ArgumentError, ArgumentParser

    if not isinstance(content, dict):
        raise UserError(f"The sweep {path}: `cluster` is a mapping (partition, time, gpus ...).")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Cluster, "cluster")
    names = list(Cluster.__dataclass_fields__)
    if unknown := sorted(set(content) - set(names)):
        raise UserError(
            f"The sweep {path}: cluster.{unknown[0]} is unknown; there are {', '.join(names)}. "
            "Other options of sbatch go into `extra`."
        )
    try:
        cluster: Cluster = parser.instantiate(parser.parse_object({"cluster": content})).cluster
    except ArgumentError as error:
        raise UserError(f"The sweep {path}: {' '.join(str(error).split())}") from error
    check_cluster(cluster, path)
    return cluster


def check_cluster(cluster: Cluster, path: str) -> None:
    """Raise UserError if a number is out of range or two values contradict each other."""
    for name in ("nodes", "tasks", "cpus", "time", "parallel", "memory", "gpus", "signal_delay"):
        least = 0 if name in ("gpus", "signal_delay") else 1e-9
        if (value := getattr(cluster, name)) is not None and not value >= least:
            allowed = "more than 0" if least else "0 or more"
            raise UserError(f"The sweep {path}: cluster.{name} {value} must be {allowed}.")
    if cluster.gpus and cluster.per_node != cluster.gpus:
        raise UserError(
            f"The sweep {path}: {cluster.tasks} tasks cannot use {cluster.gpus} GPUs, because each "
            "process has one GPU: leave out cluster.tasks."
        )
    if cluster.time * 60 <= cluster.signal_delay + 60:
        raise UserError(
            f"The sweep {path}: cluster.time {cluster.time} (minutes) leaves no time to train. The "
            f"signal comes {cluster.signal_delay} s before the end, and SLURM may be 60 s early: "
            "raise cluster.time or lower cluster.signal_delay."
        )
