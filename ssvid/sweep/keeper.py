"""a cell -> its row: pretrains it, asks the suite, starts again what dies. One keeper, one process, one cell at a time.

It keeps nothing in memory that matters: every start, by whomever, goes on from the cell's own files. So timeouts,
preemption, requeueing, lost nodes and kill -9 are one case.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ssvid.files import Locked, locked
from ssvid.results import BENCH, read_folder
from ssvid.results.rows import row_score, row_to_json
from ssvid.sweep.cluster import Cluster
from ssvid.sweep.folder import CellFolder, Event, SweepFolder, newest, store
from ssvid.sweep.local import arrive
from ssvid.sweep.ranks import Ending, ended, started
from ssvid.sweep.slurm import time_left

ALIKE = {
    "failed": 3,
    "outside": 10,
}  # attempts in a row that end alike and bring nothing: the cell has failed
IDLE = 10  # attempts in a row that bring nothing, however they end
CHANGING = re.compile(
    r"0x[0-9a-f]+|/[^\s,;:]+|[\d.]+"
)  # in one failure's words: addresses, temporary files, numbers
STAGES = ("pretrain", "suite")
MARGIN = (
    120.0  # seconds before the job's end, beside the signal's delay, in which nothing new is begun
)


class Told:
    """Whether somebody wants this keeper gone: SIGTERM (a cancelled or requeued job, `sweep cancel`) or SIGUSR2."""

    def __init__(self) -> None:
        self.by: str | None = None

    def __call__(self) -> bool:
        return self.by is not None

    def hear(self, number: int, frame: object) -> None:
        self.by = signal.Signals(number).name

    @contextmanager
    def listening(self) -> Iterator["Told"]:
        before = {
            which: signal.signal(which, self.hear) for which in (signal.SIGTERM, signal.SIGUSR2)
        }
        try:
            yield self
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)


def keep(out: str, names: list[str], shape: dict[str, Any]) -> dict[str, str]:
    """Cells to their rows, whichever is free first; what another keeper holds is looked at again until it has ended.

    `shape`: fields of Cluster, as they were when the job was submitted: the sweep may ask for others since.
    """
    told, folder, cluster = Told(), SweepFolder(out), Cluster(**shape)
    became = dict.fromkeys(names, "waiting")
    with told.listening():
        while not told() and (
            left := [name for name in names if became[name] in ("waiting", "held")]
        ):
            for name in left:
                cell = folder.cell(name)
                with held(cell.lock, told, wait=len(left) == 1) as mine:
                    became[name] = kept(cell, folder, cluster, told) if mine else "held"
                if became[name] != "held":
                    print(f"cell {name}: {became[name]}", file=sys.stderr, flush=True)
                if told():
                    break
            if all(became[name] == "held" for name in left):
                time.sleep(1)
    return became


@contextmanager
def held(lock: Path, told: Told, wait: bool) -> Iterator[bool]:
    """The lock, or False: when told to go, or at once where there is no waiting."""
    with ExitStack() as stack:
        mine = said = False
        while not mine and not told():
            try:
                stack.enter_context(locked(lock, wait=False, what=str(lock.parent)))
                mine = True
            except Locked as error:
                if not wait:
                    break
                if not said:
                    print(f"waiting: {error}", file=sys.stderr, flush=True)
                said = True
                time.sleep(1)
        yield mine


def kept(cell: CellFolder, folder: SweepFolder, cluster: Cluster, told: Told) -> str:
    """finished, failed, stopped (told to go) or requeued."""
    given = folder.read()["cells"][cell.hash]
    vanished(cell)
    tried = False  # a keeper does something before it gives its job back, or a short job would come and go for ever
    while not told():
        if cell.finished:
            return "finished"
        if cell.failed:
            return "failed"
        stage = next((stage for stage in STAGES if not passed(cell, stage)), None)
        if stage is None or (stage == "suite" and given["suite"] is None):
            store(cell.row_file, row(cell, given))
            return "finished"
        if tried and soon_over(cluster) and requeue(cell):
            return "requeued"
        with held(
            cell.run / "lock", told, wait=True
        ) as mine:  # a trainer whose keeper was killed may live on
            pass
        tried = True
        if mine:
            attempt(cell, stage, given, cluster, told)
            rest(cell, stage, told)
    cell.add("left", why=told.by)
    return "stopped"


def attempt(
    cell: CellFolder, stage: str, given: dict[str, Any], cluster: Cluster, told: Told
) -> None:
    number = 1 + sum(event["event"] == "start" for event in cell.events())
    logs = cell.logs / f"{number:03d}-{stage}"
    while logs.exists():  # its event was lost to a kill
        number += 1
        logs = cell.logs / f"{number:03d}-{stage}"
    ranks = cluster.ranks if stage == "pretrain" else 1
    where = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": os.environ.get("SLURM_JOB_ID"),
    }
    cell.add(
        "start", stage=stage, logs=logs.name, node=os.environ.get("SLURM_JOB_NODELIST"), **where
    )
    os.environ["PYTHONUNBUFFERED"] = "1"
    processes = started(command(cell, stage, given), cluster, ranks, logs, given["cwd"])
    end = ended(processes, logs, told)
    more = {} if end.how == "done" else {"lines": end.lines}
    cell.add(
        "end", stage=stage, code=end.code, how=end.how, said=end.said, mark=cell.mark(stage), **more
    )
    give_up(cell, stage, end)


def command(cell: CellFolder, stage: str, given: dict[str, Any]) -> list[str]:
    if stage == "pretrain":
        file = cell.recipe(
            "pretrain", {key: v for key, v in given["config"].items() if key != "out"}
        )
        return ["ssvid.pretrain", "--config", str(file), "--out", str(cell.run)]
    file = cell.recipe("suite", given["suite"])
    return [
        "benchmarks.run",
        "--config",
        str(file),
        "--encoder",
        str(cell.run),
        "--out",
        str(cell.bench),
    ]


def passed(cell: CellFolder, stage: str) -> bool:
    return any(
        one["event"] == "end" and one["stage"] == stage and one["how"] == "done"
        for one in cell.events()
    )


def vanished(cell: CellFolder) -> None:
    """An attempt without an end: its keeper was killed, or its node was lost."""
    events = [event for event in cell.events() if event["event"] in ("start", "end")]
    if events and events[-1]["event"] == "start":
        stage, said = events[-1]["stage"], "its keeper was killed or its node was lost"
        cell.add(
            "end", stage=stage, code=None, how="outside", said=said, mark=cell.mark(stage), lines=[]
        )
        give_up(cell, stage, Ending(-1, "outside", said, []))


def alike(cell: CellFolder, stage: str, words: bool = True) -> int:
    """How many attempts, up to the last, ended at one place, and (`words`) in one way."""
    events = cell.events()
    since = max((i for i, event in enumerate(events) if event["event"] == "retry"), default=-1)
    ends = [
        event
        for event in events[since + 1 :]
        if event["event"] == "end" and event["stage"] == stage
    ]
    ways = [
        (end["mark"], *((end["how"], CHANGING.sub("#", end["said"])) if words else ()))
        for end in ends
    ]
    count = 0
    for way in reversed(ways):
        if way != ways[-1]:
            break
        count += 1
    return count


def give_up(cell: CellFolder, stage: str, end: Ending) -> None:
    times = alike(cell, stage)
    if end.how == "done" or (
        times < ALIKE[end.how] and (times := alike(cell, stage, words=False)) < IDLE
    ):
        return
    found: Event = next(
        (e for e in reversed(cell.events()) if e["event"] == "end" and e.get("lines")),
        {"lines": []},
    )
    lines = end.lines or found["lines"]
    store(cell.failed_file, {"why": end.said, "times": times, "stage": stage, "lines": lines})


def rest(cell: CellFolder, stage: str, told: Told) -> None:
    """Before a failure is tried again: what is short of memory or disk may have it a moment later."""
    last: Event = cell.events()[-1]
    until = time.monotonic() + (2.0 ** alike(cell, stage) if last.get("how") == "failed" else 0)
    while time.monotonic() < until and not told() and not cell.failed:
        time.sleep(0.1)


def soon_over(cluster: Cluster) -> bool:
    left = time_left(os.environ.get("SLURM_JOB_ID"))
    return left is not None and left < cluster.signal_delay + MARGIN


def requeue(cell: CellFolder) -> bool:
    """The job anew, with all its time. Else it ends with its time, and submitting again goes on."""
    job = os.environ["SLURM_JOB_ID"]
    cell.add("requeue", job=job)
    answer = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if answer.returncode:
        cell.add("requeue refused", said=answer.stderr.strip())
        print(f"job {job} cannot be requeued: {answer.stderr.strip()}", file=sys.stderr, flush=True)
    return answer.returncode == 0


def row(cell: CellFolder, given: dict[str, Any]) -> dict[str, Any]:
    events = cell.events()
    reached = newest(
        cell.metrics
    )  # of all starts: what the last one printed may be of none of the steps
    return {
        "cell": cell.hash,
        **{key: given[key] for key in ("name", "axes", "settings")},
        "seed": given["config"].get("seed"),
        **{key: reached.get(key) for key in ("step", "loss", "cpu_s", "wall_s")},
        "starts": sum(
            event["event"] == "start" and event["stage"] == "pretrain" for event in events
        ),
        "scores": scores(cell),
    }


def scores(cell: CellFolder) -> dict[str, Any]:
    """Of each cell of the suite, from the result files alone."""
    results = read_folder(cell.bench).values()
    return {
        result.cell: row_to_json(row_score(result)) for result in results if result.kind == BENCH
    }


if __name__ == "__main__":  # a lane of this machine: OUT SUBMISSION SHAPE CELL...
    arrive(SweepFolder(sys.argv[1]), sys.argv[2])
    keep(sys.argv[1], sys.argv[4:], json.loads(sys.argv[3]))
