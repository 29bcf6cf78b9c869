"""the `cluster` part of a sweep file -> what is asked of SLURM for each cell, or of this machine."""

from dataclasses import dataclass, field
from typing import Any

from ssvid.errors import UserError


@dataclass(frozen=True)
class Cluster:
    """What one cell needs, and how many run at once. Absent values are left to the cluster's own defaults."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: int = 1
    tasks: int | None = None  # processes a node: one for each GPU, 1 without any
    gpus: int = 0  # a node
    cpus: int = 2  # a process
    memory: float | None = None  # GB a node
    time: int = 1440  # minutes; a cell that needs more is requeued and goes on
    signal_delay: int = (
        120  # seconds before the time is up at which a cell is told to write its checkpoint
    )
    parallel: int = 64  # cells at once; on this machine `--parallel`, 1 if not said
    setup: list[str] = field(
        default_factory=list
    )  # lines of shell before each job: module load ...
    extra: dict[str, Any] = field(
        default_factory=dict
    )  # further lines of sbatch: {reservation: x, exclusive: true}

    @property
    def ranks(self) -> int:
        return self.nodes * self.per_node

    @property
    def per_node(self) -> int:
        return self.tasks or max(1, self.gpus)


def cluster_of(given: dict[str, Any], path: str) -> Cluster:
    from jsonargparse import ArgumentError, ArgumentParser

    if not isinstance(given, dict):
        raise UserError(f"The sweep {path}: `cluster` is a mapping (partition, time, gpus ...).")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Cluster, "cluster")
    names = list(Cluster.__dataclass_fields__)
    if strange := sorted(set(given) - set(names)):
        raise UserError(
            f"The sweep {path}: cluster.{strange[0]} is unknown; there are {', '.join(names)}. What sbatch "
            "takes beside these stands in `extra`."
        )
    try:
        made: Cluster = parser.instantiate(parser.parse_object({"cluster": given})).cluster
    except ArgumentError as error:
        raise UserError(f"The sweep {path}: {' '.join(str(error).split())}") from error
    for name in ("nodes", "tasks", "cpus", "time", "parallel", "memory", "gpus", "signal_delay"):
        least = 0 if name in ("gpus", "signal_delay") else 1e-9
        if (value := getattr(made, name)) is not None and not value >= least:
            raise UserError(
                f"The sweep {path}: cluster.{name} {value} must be {'0 or more' if not least else 'more than 0'}."
            )
    if made.gpus and made.per_node != made.gpus:
        raise UserError(
            f"The sweep {path}: {made.tasks} tasks on {made.gpus} GPUs: each process has one, so leave out tasks."
        )
    if made.time * 60 <= made.signal_delay + 60:
        raise UserError(
            f"The sweep {path}: cluster.time {made.time} (minutes) leaves no time to train: the signal comes "
            f"{made.signal_delay} s before the end, and SLURM may be 60 s early: take more time or less of it."
        )
    return made
