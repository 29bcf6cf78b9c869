"""a sweep's files and the queue -> how each cell stands. Reads only; imports nothing that takes time."""

import socket
import time
from typing import Any, NamedTuple

from ssvid.sweep import jobs, slurm
from ssvid.sweep.folder import CellFolder, Event, SweepFolder, newest

ENDED = ("finished", "failed")
ACTIVE = ("queued", "running")


class State(NamedTuple):
    cell: str
    name: str
    state: str  # waiting, queued, running, stopped, cancelled, unknown, failed, finished
    left: bool  # an edited sweep file has it no more
    stage: str = ""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    clips_per_s: float | None = None
    seconds_left: float | None = None  # of the pretraining
    node: str = ""
    restarts: int = 0
    said: str = ""  # why it failed or stopped, or waits
    submitted: int = 0  # how often


def states(folder: SweepFolder, sweep: dict[str, Any] | None = None) -> list[State]:
    sweep = sweep or folder.read()
    submissions = folder.submissions()
    asked = any(one["cluster"] == "slurm" for one in submissions)
    known = slurm.queue() if asked else {}
    alive: dict[str, slurm.Job] = {}
    times: dict[str, int] = {}
    for one in submissions:
        for cell, job in jobs.alive(one, known).items():
            if (
                cell not in alive or alive[cell].state != "RUNNING"
            ):  # two jobs of one cell: one waits for the other
                alive[cell] = job
        for cell in one["cells"]:
            times[cell] = times.get(cell, 0) + 1
    unsure = known is None
    return [
        state(folder.cell(name), given, alive, times.get(name, 0), unsure)
        for name, given in sweep["cells"].items()
    ]


def state(
    cell: CellFolder, given: dict[str, Any], alive: dict[str, slurm.Job], times: int, unsure: bool
) -> State:
    """Of one cell. Its own files come first, then the queue."""
    events = cell.events() if cell.path.is_dir() else []
    made = State(
        cell.hash,
        given["name"],
        "waiting",
        given["left"],
        steps=given["config"].get("steps"),
        submitted=times,
    )
    made = made._replace(**seen(cell, events, given))
    if cell.finished:
        return made._replace(state="finished", seconds_left=None, stage="")
    if cell.failed:
        failed = cell.why
        return made._replace(
            state="failed", said=failed["why"], seconds_left=None, stage=failed["stage"]
        )
    job = alive.get(cell.hash)
    if (
        job is not None and job.lanes
    ):  # on this machine or, where its name differs, on the one that was asked
        mine = any(event["event"] == "start" and event["pid"] in job.lanes for event in events)
        said = (
            "" if job.node == socket.gethostname() else f"look at it, and cancel it, on {job.node}"
        )
        return made._replace(state="running" if mine else "queued", node=job.node, said=said)
    if job is not None:
        running = job.state in ("RUNNING", "COMPLETING", "CONFIGURING")
        said = "" if running or job.reason == "None" else job.reason
        return made._replace(
            state="running" if running else "queued", node=job.node or made.node, said=said
        )
    if not times:
        return made
    if last(events, "cancel") > last(events, "start"):
        return made._replace(state="cancelled", seconds_left=None)
    if unsure:
        return made._replace(state="unknown", said="squeue does not answer here")
    return made._replace(
        state="stopped", seconds_left=None, said="no job has it any more: submit again"
    )


def seen(cell: CellFolder, events: list[Event], given: dict[str, Any]) -> dict[str, Any]:
    """What the cell's own files tell of its course."""
    starts = [event for event in events if event["event"] == "start"]
    if not starts:
        return {}
    now = newest(cell.metrics)
    step, rate = now.get("step"), now.get("clips_per_s")
    steps, batch = given["config"].get("steps"), given["config"]["batch_size"]
    left = (steps - step) * batch / rate if steps and step and rate else None
    trained = [start for start in starts if start["stage"] == "pretrain"]
    return {
        "stage": starts[-1]["stage"],
        "step": step,
        "loss": now.get("loss"),
        "clips_per_s": rate,
        "seconds_left": left if starts[-1]["stage"] == "pretrain" else None,
        "node": starts[-1].get("node") or starts[-1]["host"],
        "restarts": len(trained) - 1,
    }


def last(events: list[Event], what: str) -> int:
    return max((i for i, event in enumerate(events) if event["event"] == what), default=-1)


def counts(found: list[State]) -> dict[str, int]:
    now = [one for one in found if not one.left]
    every = (
        "finished",
        "failed",
        "running",
        "queued",
        "stopped",
        "cancelled",
        "unknown",
        "waiting",
    )
    return {"cells": len(now), **{name: sum(one.state == name for one in now) for name in every}}


def table(found: list[State]) -> str:
    """For a terminal."""
    head = ("cell", "state", "step", "loss", "clips/s", "left", "node", "restarts", "what")
    rows = [head]
    for one in found:
        step = "" if one.step is None else f"{one.step}/{one.steps or '?'}"
        loss = "" if one.loss is None else f"{one.loss:.4f}"
        rate = "" if one.clips_per_s is None or one.state != "running" else f"{one.clips_per_s:.0f}"
        left = "" if one.seconds_left is None or one.state != "running" else span(one.seconds_left)
        state = one.state + (f" ({one.stage})" if one.state == "running" and one.stage else "")
        state += ", not of the sweep any more" if one.left else ""
        what = one.name + (f": {one.said}" if one.said else "")
        rows.append(
            (one.cell, state, step, loss, rate, left, one.node, str(one.restarts or ""), what)
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head) - 1)]
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    )


def span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{minutes} min"
        if minutes < 90
        else f"{minutes / 60:.1f} h"
    )


def page(folder: SweepFolder, found: list[State]) -> str:
    total = counts(found)
    summary = ", ".join(
        f"{number} {name}" for name, number in total.items() if number and name != "cells"
    )
    clock = time.strftime("%H:%M:%S")
    return f"{folder.path} on {socket.gethostname()}, {clock}: {total['cells']} cells: {summary}\n{table(found)}"
