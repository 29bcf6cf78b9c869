"""a sweep's files and the queue -> the state of each cell.

This file only reads, and imports nothing slow: `sweep status` must answer at once.
"""

import socket
import time
from typing import Any, NamedTuple

from ssvid.sweep import jobs, slurm
from ssvid.sweep.folder import CellFolder, Event, SweepFolder, read_last_metrics

ENDED = ("finished", "failed")
ACTIVE = ("queued", "running")
STATES = (*ENDED, "running", "queued", "stopped", "cancelled", "unknown", "waiting")


class State(NamedTuple):
    cell: str
    name: str
    state: str  # one of STATES
    removed: bool  # the sweep file was edited and no longer has this cell
    stage: str = ""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    clips_per_s: float | None = None
    seconds_left: float | None = None  # of the pretraining
    node: str = ""
    restarts: int = 0
    reason: str = ""  # why the cell failed, stopped or waits
    submissions: int = 0  # how many times the cell was submitted


def read_states(folder: SweepFolder, sweep: dict[str, Any] | None = None) -> list[State]:
    """The state of every cell. `sweep` is the content of sweep.json, read here if not given."""
    sweep = sweep or folder.read()
    submissions = folder.submissions()
    uses_slurm = any(submission["cluster"] == "slurm" for submission in submissions)
    queue = slurm.read_queue() if uses_slurm else {}
    live_jobs: dict[str, slurm.Job] = {}
    counts: dict[str, int] = {}
    for submission in submissions:
        for cell, job in jobs.find_live_jobs(submission, queue).items():
            # If a cell has two jobs, one of them waits for the other: the running one is shown.
            if cell not in live_jobs or live_jobs[cell].state != "RUNNING":
                live_jobs[cell] = job
        for cell in submission["cells"]:
            counts[cell] = counts.get(cell, 0) + 1
    states = []
    for name, record in sweep["cells"].items():
        live_job, count = live_jobs.get(name), counts.get(name, 0)
        states.append(read_state(folder.cell(name), record, live_job, count, queue is None))
    return states


def read_state(
    cell: CellFolder,
    record: dict[str, Any],
    job: slurm.Job | None,
    submissions: int,
    queue_is_silent: bool,
) -> State:
    """The state of one cell: first by its own files, then by its live job."""
    events = cell.read_events() if cell.path.is_dir() else []
    state = State(
        cell.hash,
        record["name"],
        "waiting",
        record["left"],
        steps=record["config"].get("steps"),
        submissions=submissions,
    )
    state = state._replace(**read_progress(cell, events, record))
    if cell.finished:
        return state._replace(state="finished", seconds_left=None, stage="")
    if cell.failed:
        failure = cell.read_failure()
        reason, stage = failure["why"], failure["stage"]
        return state._replace(state="failed", reason=reason, seconds_left=None, stage=stage)
    if job is not None:
        return apply_job(state, job, events)
    if not submissions:
        return state
    if find_last(events, "cancel") > find_last(events, "start"):
        return state._replace(state="cancelled", seconds_left=None)
    if queue_is_silent:
        return state._replace(state="unknown", reason="squeue does not answer here")
    reason = "no job works on it any more: submit again"
    return state._replace(state="stopped", seconds_left=None, reason=reason)


def apply_job(state: State, job: slurm.Job, events: list[Event]) -> State:
    """The state of a cell that has a live job."""
    if job.lanes:  # processes of this machine, or of the other machine that the job names
        running = any(event["event"] == "start" and event["pid"] in job.lanes for event in events)
        is_elsewhere = job.node != socket.gethostname()
        reason = f"look at it and cancel it on {job.node}" if is_elsewhere else ""
        node = job.node
    else:
        running = job.state in ("RUNNING", "COMPLETING", "CONFIGURING")
        reason = "" if running or job.reason == "None" else job.reason
        node = job.node or state.node
    return state._replace(state="running" if running else "queued", node=node, reason=reason)


def read_progress(cell: CellFolder, events: list[Event], record: dict[str, Any]) -> dict[str, Any]:
    """Fields of State that the cell's own files hold; {} if it has not started."""
    starts = [event for event in events if event["event"] == "start"]
    if not starts:
        return {}
    metrics = read_last_metrics(cell.metrics)
    step, rate = metrics.get("step"), metrics.get("clips_per_s")
    steps, batch = record["config"].get("steps"), record["config"]["batch_size"]
    seconds_left = (steps - step) * batch / rate if steps and step and rate else None
    pretrain_starts = [start for start in starts if start["stage"] == "pretrain"]
    return {
        "stage": starts[-1]["stage"],
        "step": step,
        "loss": metrics.get("loss"),
        "clips_per_s": rate,
        "seconds_left": seconds_left if starts[-1]["stage"] == "pretrain" else None,
        "node": starts[-1].get("node") or starts[-1]["host"],
        "restarts": len(pretrain_starts) - 1,
    }


def find_last(events: list[Event], kind: str) -> int:
    """The index of the last event of this kind; -1 if there is none."""
    return max((i for i, event in enumerate(events) if event["event"] == kind), default=-1)


def count_states(states: list[State]) -> dict[str, int]:
    """How many cells of the sweep there are in all (`cells`), and in each state."""
    numbers = {"cells": 0, **dict.fromkeys(STATES, 0)}
    for state in states:
        if not state.removed:
            numbers["cells"] += 1
            numbers[state.state] += 1
    return numbers


def format_table(states: list[State]) -> str:
    """A table for a terminal, with one row for each cell."""
    head = ("cell", "state", "step", "loss", "clips/s", "left", "node", "restarts", "what")
    rows = [head, *map(format_row, states)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        texts = list(map(str.ljust, row, widths))
        lines.append("  ".join([*texts[:-1], row[-1]]))  # the last column is not padded
    return "\n".join(lines)


def format_row(state: State) -> tuple[str, ...]:
    running = state.state == "running"
    step = "" if state.step is None else f"{state.step}/{state.steps or '?'}"
    loss = "" if state.loss is None else f"{state.loss:.4f}"
    rate = f"{state.clips_per_s:.0f}" if running and state.clips_per_s is not None else ""
    seconds_left = state.seconds_left if running else None
    left = "" if seconds_left is None else format_duration(seconds_left)
    label = state.state + (f" ({state.stage})" if running and state.stage else "")
    label += ", no longer in the sweep" if state.removed else ""
    description = state.name + (f": {state.reason}" if state.reason else "")
    restarts = str(state.restarts or "")
    return (state.cell, label, step, loss, rate, left, state.node, restarts, description)


def format_duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def format_page(folder: SweepFolder, states: list[State]) -> str:
    """The summary line, then the table."""
    numbers = count_states(states)
    total = numbers.pop("cells")
    summary = ", ".join(f"{number} {name}" for name, number in numbers.items() if number)
    clock = time.strftime("%H:%M:%S")
    title = f"{folder.path} on {socket.gethostname()}, {clock}: {total} cells: {summary}"
    return f"{title}\n{format_table(states)}"
