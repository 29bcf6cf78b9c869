"""a cell -> its row: the keeper pretrains the cell, runs its suite, and restarts what dies.

A keeper is one process that works on one cell at a time. It holds no state in memory that matters:
every keeper goes on from the cell's own files, whoever starts it. So timeouts, preemption,
requeueing, lost nodes and kill -9 are all the same case.
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
from ssvid.sweep.folder import CellFolder, SweepFolder, read_last_metrics, write_json_file
from ssvid.sweep.local import record_lane
from ssvid.sweep.ranks import Ending, start_ranks, wait_for_ranks
from ssvid.sweep.slurm import read_time_left

# Outcome -> consecutive attempts that end in this same way, without progress, before the cell
# counts as failed.
MAX_SAME_ENDINGS = {"failed": 3, "outside": 10}
MAX_IDLE_ATTEMPTS = 10  # consecutive attempts without progress, however they end
# What changes in the text of one and the same failure: addresses, temporary files, numbers.
VARYING_TEXT = re.compile(r"0x[0-9a-f]+|/[^\s,;:]+|[\d.]+")
STAGES = ("pretrain", "suite")
# Seconds before the job's signal in which no new attempt starts.
END_MARGIN_S = 120.0


class StopRequest:
    """Whether this keeper was asked to stop.

    SIGTERM comes from `sweep cancel` or from a job that is cancelled or requeued, SIGUSR2 from
    SLURM before the job's time is over.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def has_come(self) -> bool:
        return self.signal_name is not None

    def receive_signal(self, number: int, frame: object) -> None:
        """The handler of the signals."""
        self.signal_name = signal.Signals(number).name

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Note the signals while the block runs, then restore the handlers."""
        signals = (signal.SIGTERM, signal.SIGUSR2)
        handlers = {number: signal.signal(number, self.receive_signal) for number in signals}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def keep(out: str, names: list[str], shape: dict[str, Any]) -> dict[str, str]:
    """Work on cells until each has finished or failed, and return what became of each.

    Free cells come first. A cell that another keeper holds is tried again until that keeper has
    ended. `shape` are the fields of Cluster when the job was submitted: the sweep file may have
    changed since.

    The job scripts of submitit refer to this function by its name.
    """
    stop, folder, cluster = StopRequest(), SweepFolder(out), Cluster(**shape)
    states = dict.fromkeys(names, "waiting")
    open_cells = list(names)
    with stop.handle_signals():
        while open_cells and not stop.has_come():
            for name in open_cells:
                cell = folder.cell(name)
                with try_lock(cell.lock, stop, wait=len(open_cells) == 1) as has_lock:
                    states[name] = finish_cell(cell, folder, cluster, stop) if has_lock else "held"
                if states[name] != "held":
                    print(f"cell {name}: {states[name]}", file=sys.stderr, flush=True)
                if stop.has_come():
                    break
            if all(states[name] == "held" for name in open_cells):
                time.sleep(1)
            open_cells = [name for name in names if states[name] in ("waiting", "held")]
    return states


@contextmanager
def try_lock(lock: Path, stop: StopRequest, wait: bool) -> Iterator[bool]:
    """Take a lock and yield whether that worked.

    If another process holds it, `wait` until the lock is free or a stop request has come, or
    yield False at once.
    """
    with ExitStack() as stack:
        has_lock = has_logged = False
        while not has_lock and not stop.has_come():
            try:
                stack.enter_context(locked(lock, wait=False, what=str(lock.parent)))
                has_lock = True
            except Locked as error:
                if not wait:
                    break
                if not has_logged:
                    print(f"waiting: {error}", file=sys.stderr, flush=True)
                has_logged = True
                time.sleep(1)
        yield has_lock


def finish_cell(cell: CellFolder, folder: SweepFolder, cluster: Cluster, stop: StopRequest) -> str:
    """Run attempts until the cell is `finished`, `failed`, `stopped` (asked to) or `requeued`."""
    record = folder.read()["cells"][cell.hash]
    end_lost_attempt(cell)
    # A keeper makes an attempt before it gives its job back. Otherwise a job with little time
    # would be requeued for ever.
    has_tried = False
    while not stop.has_come():
        if cell.finished:
            return "finished"
        if cell.failed:
            return "failed"
        stage = next((stage for stage in STAGES if not is_stage_done(cell, stage)), None)
        if stage is None or (stage == "suite" and record["suite"] is None):
            write_json_file(cell.row_file, make_row(cell, record))
            return "finished"
        if has_tried and is_job_nearly_over(cluster) and requeue_job(cell):
            return "requeued"
        # A trainer whose keeper was killed may still run and hold the run's lock.
        with try_lock(cell.run / "lock", stop, wait=True) as is_free:
            pass
        has_tried = True
        if is_free:
            run_attempt(cell, stage, record, cluster, stop)
            pause_after_failure(cell, stage, stop)
    cell.add_event("left", why=stop.signal_name)
    return "stopped"


def run_attempt(
    cell: CellFolder, stage: str, record: dict[str, Any], cluster: Cluster, stop: StopRequest
) -> None:
    """Run one stage of a cell once, and record its start and its end as events."""
    logs = choose_log_folder(cell, stage)
    ranks = cluster.ranks if stage == "pretrain" else 1
    cell.add_event(
        "start",
        stage=stage,
        logs=logs.name,
        node=os.environ.get("SLURM_JOB_NODELIST"),
        host=socket.gethostname(),
        pid=os.getpid(),
        job=os.environ.get("SLURM_JOB_ID"),
    )
    os.environ["PYTHONUNBUFFERED"] = "1"
    processes = start_ranks(make_command(cell, stage, record), cluster, ranks, logs, record["cwd"])
    end = wait_for_ranks(processes, logs, stop.has_come)
    lines = {} if end.outcome == "done" else {"lines": end.lines}
    cell.add_event(
        "end",
        stage=stage,
        code=end.code,
        how=end.outcome,
        said=end.reason,
        mark=cell.read_mark(stage),
        **lines,
    )
    if end.outcome != "done":
        give_up_if_hopeless(cell, stage, end)


def choose_log_folder(cell: CellFolder, stage: str) -> Path:
    """The folder for the logs of the next attempt, NNN-STAGE. It does not exist yet."""
    number = 1 + sum(event["event"] == "start" for event in cell.read_events())
    logs = cell.logs / f"{number:03d}-{stage}"
    while logs.exists():  # the event of an attempt was lost to a kill
        number += 1
        logs = cell.logs / f"{number:03d}-{stage}"
    return logs


def make_command(cell: CellFolder, stage: str, record: dict[str, Any]) -> list[str]:
    """The module and the flags that run a stage. Its recipe is written into the cell's folder."""
    if stage == "pretrain":
        flags = {key: value for key, value in record["config"].items() if key != "out"}
        file = cell.write_recipe("pretrain", flags)
        return ["ssvid.pretrain", "--config", str(file), "--out", str(cell.run)]
    file = cell.write_recipe("suite", record["suite"])
    outputs = ["--encoder", str(cell.run), "--out", str(cell.bench)]
    return ["benchmarks.run", "--config", str(file), *outputs]


def is_stage_done(cell: CellFolder, stage: str) -> bool:
    for event in cell.read_events():
        if event["event"] == "end" and event["stage"] == stage and event["how"] == "done":
            return True
    return False


def end_lost_attempt(cell: CellFolder) -> None:
    """Record the end of an attempt that has none: its keeper was killed or its node was lost."""
    events = [event for event in cell.read_events() if event["event"] in ("start", "end")]
    if events and events[-1]["event"] == "start":
        stage, reason = events[-1]["stage"], "its keeper was killed or its node was lost"
        mark = cell.read_mark(stage)
        cell.add_event(
            "end", stage=stage, code=None, how="outside", said=reason, mark=mark, lines=[]
        )
        give_up_if_hopeless(cell, stage, Ending(-1, "outside", reason, []))


def count_same_endings(cell: CellFolder, stage: str, compare_reasons: bool = True) -> int:
    """How many of the last attempts ended at the same mark, which means without progress.

    With `compare_reasons` they must also have ended in the same way as the last attempt. Only
    attempts since the last `sweep retry` count.
    """
    endings: list[tuple[str, ...]] = []
    for event in cell.read_events():
        if event["event"] == "retry":
            endings = []
        if event["event"] == "end" and event["stage"] == stage:
            reason = (event["how"], VARYING_TEXT.sub("#", event["said"]))
            endings.append((event["mark"], *(reason if compare_reasons else ())))
    count = 0
    for ending in reversed(endings):
        if ending != endings[-1]:
            break
        count += 1
    return count


def give_up_if_hopeless(cell: CellFolder, stage: str, end: Ending) -> None:
    """Write failed.json if the attempts of a stage ended without progress too many times."""
    times = count_same_endings(cell, stage)
    if times < MAX_SAME_ENDINGS[end.outcome]:
        times = count_same_endings(cell, stage, compare_reasons=False)
        if times < MAX_IDLE_ATTEMPTS:
            return
    lines = end.lines or find_last_lines(cell)
    failure = {"why": end.reason, "times": times, "stage": stage, "lines": lines}
    write_json_file(cell.failed_file, failure)


def find_last_lines(cell: CellFolder) -> list[str]:
    """The log lines of the last attempt that has any."""
    for event in reversed(cell.read_events()):
        if event["event"] == "end" and event.get("lines"):
            return list(event["lines"])
    return []


def pause_after_failure(cell: CellFolder, stage: str, stop: StopRequest) -> None:
    """Wait before a failed stage is tried again: memory or disk may be free again by then."""
    has_failed = cell.read_events()[-1].get("how") == "failed"
    seconds = 2.0 ** count_same_endings(cell, stage) if has_failed else 0
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stop.has_come() and not cell.failed:
        time.sleep(0.1)


def is_job_nearly_over(cluster: Cluster) -> bool:
    """Whether this SLURM job has too little time left for a new attempt."""
    seconds = read_time_left(os.environ.get("SLURM_JOB_ID"))
    return seconds is not None and seconds < cluster.signal_delay + END_MARGIN_S


def requeue_job(cell: CellFolder) -> bool:
    """Ask SLURM to start this job again with its full time, and return whether it agreed.

    If it refused, the job ends with its time, and submitting the sweep again goes on.
    """
    job = os.environ["SLURM_JOB_ID"]
    cell.add_event("requeue", job=job)
    answer = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if answer.returncode:
        reason = answer.stderr.strip()
        cell.add_event("requeue refused", said=reason)
        print(f"job {job} cannot be requeued: {reason}", file=sys.stderr, flush=True)
    return answer.returncode == 0


def make_row(cell: CellFolder, record: dict[str, Any]) -> dict[str, Any]:
    """The row of a finished cell, which row.json and the report hold."""
    # metrics.jsonl holds the steps of all starts. The last start alone may have made no step.
    metrics = read_last_metrics(cell.metrics)
    starts = 0
    for event in cell.read_events():
        starts += event["event"] == "start" and event["stage"] == "pretrain"
    return {
        "cell": cell.hash,
        **{key: record[key] for key in ("name", "axes", "settings")},
        "seed": record["config"].get("seed"),
        **{key: metrics.get(key) for key in ("step", "loss", "cpu_s", "wall_s")},
        "starts": starts,
        "scores": read_scores(cell),
    }


def read_scores(cell: CellFolder) -> dict[str, Any]:
    """Cell of the suite -> its score, from the result files alone."""
    scores = {}
    for result in read_folder(cell.bench).values():
        if result.kind == BENCH:
            scores[result.cell] = row_to_json(row_score(result))
    return scores


if __name__ == "__main__":  # a lane of this machine: OUT SUBMISSION SHAPE CELL...
    record_lane(SweepFolder(sys.argv[1]), sys.argv[2])
    keep(sys.argv[1], sys.argv[4:], json.loads(sys.argv[3]))
