"""`python -m ssvid.sweep SWEEP.yaml`, and its words status, logs, cancel, retry, report: parse, call, print."""

import contextlib
import difflib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ssvid.errors import RunError, UserError, positive
from ssvid.files import read_yaml
from ssvid.log import log
from ssvid.progress import progress_bar
from ssvid.sweep import jobs, local, slurm, status
from ssvid.sweep.cluster import Cluster
from ssvid.sweep.folder import SweepFolder
from ssvid.sweep.keeper import keep

RUNS = Path("runs")
POLL = 5.0  # seconds
DRAWN = (
    "synthetic",
    "synthetic_films",
    "synthetic_narrated",
)  # sets that are made where they are missing
AGAIN = 3  # times that --wait submits a cell whose job was lost


def submit(
    sweep: str,  # YAML: base, axes, suite, cluster (docs/clusters.md)
    out: str | None = None,  # null: runs/NAME
    *,
    cluster: Literal[
        "slurm", "local", "debug"
    ] = "slurm",  # debug: one cell after the other, in this process
    parallel: int
    | None = None,  # cells at once; null: the sweep's own word on SLURM, 1 on this machine
    wait: bool = False,  # until every cell is finished or has failed; jobs that are lost are submitted again
    dry_run: bool = False,  # show the cells and the job, submit nothing
) -> dict[str, Any]:
    """Submit every cell that is neither finished nor running; the same command again goes on. Instead of a sweep file:
    status, logs, cancel, retry or report, each with its --help."""
    from ssvid.sweep.plan import read

    positive(parallel=parallel)
    if not Path(sweep).is_file():
        near = difflib.get_close_matches(sweep, WORDS) or list(WORDS)
        raise UserError(
            f"There is no sweep file {sweep}; words of this command: {', '.join(near)}."
        )
    plan = read(sweep)
    folder = SweepFolder(out or RUNS / plan.name)
    asked = plan.cluster if parallel is None else replace(plan.cluster, parallel=parallel)
    suites_can_be(plan.suites, plan.best, sweep)
    unseen(plan)
    if dry_run:
        return shown(plan, folder, asked, cluster)
    if cluster == "slurm":
        slurm.check(folder, plan.name, len(plan.cells), asked)
    with folder.submitting():
        known = merged(folder, plan, asked, named=out is not None)
        folder.write(known)
        todo = handed(folder, known, plan.name, asked, cluster, parallel)
    if cluster == "debug":
        debug(folder, todo, asked)
    elif wait:
        watch(folder, plan.name, asked, cluster, parallel)
    return ended(folder, len(todo), wait or cluster == "debug")


def unseen(plan: Any) -> None:
    """Folders of the nodes alone cannot be looked at from here; one that is spelt wrongly would fail in every cell."""
    roots = [part.get("data") for one in plan.cells for part in (one.config, one.suite or {})]
    named = {
        part.get("root")
        for part in roots
        if isinstance(part, dict) and part.get("name") not in DRAWN
    }
    for root in sorted(str(root) for root in named if root and not Path(root).exists()):
        log.warning(f"there is no {root} here, of which the sweep reads; do the nodes see it?")


def suites_can_be(suites: list[dict[str, Any]], best: str | None, sweep: str) -> None:
    """Whether benchmarks.run takes these flags, asked of it as a process: the core imports no benchmark."""
    for suite in suites:
        argv = [sys.executable, "-m", "benchmarks.suite", "--flags", json.dumps(suite)]
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it does not say why"])[-1]
            raise UserError(
                f"The sweep {sweep}: its suite cannot be: {said.removeprefix('error: ')}"
            )
        cells = json.loads(done.stdout.splitlines()[-1])["cells"]
        if best is not None and best not in cells:
            raise UserError(
                f"The sweep {sweep}: `best` is {best}, and its suite has {', '.join(cells)}."
            )


def merged(folder: SweepFolder, plan: Any, asked: Cluster, named: bool) -> dict[str, Any]:
    """What the folder will hold: cells stay as they were; those that the file has no more are marked."""
    there: dict[str, Any] = {}
    try:
        there = folder.read() if folder.file.exists() else {}
    except UserError as error:
        log.warning(f"{error}")  # written anew from the sweep file
    if not named and there.get("file", plan.file) != plan.file:
        raise UserError(
            f"{folder.path} holds the sweep of {there['file']}: say --out DIR, or give this one a `name`."
        )
    before = there.get("cells", {})
    cells = {one.hash: one.record() for one in plan.cells}
    gone = {name: {**given, "left": True} for name, given in before.items() if name not in cells}
    if new := len(cells.keys() - before.keys()) if before else 0:
        log.info(f"{plan.file} was changed: {new} new cells, {len(gone)} that it has no more.")
    return {
        "name": plan.name,
        "file": plan.file,
        "axes": plan.axes,
        "best": plan.best,
        "cluster": vars(asked),
        "cells": {**cells, **gone},
    }


def handed(
    folder: SweepFolder,
    known: dict[str, Any],
    name: str,
    asked: Cluster,
    cluster: str,
    parallel: int | None,
    only: set[str] | None = None,
) -> list[str]:
    """Hand over what is neither finished, failed, running nor queued; of these `only` some."""
    found = [one for one in status.states(folder, known) if not one.left]
    if any(one.state == "unknown" for one in found):
        raise RunError(
            "squeue does not answer, so what still runs is not known: nothing was submitted. Try again."
        )
    open_ = [one.cell for one in found if one.state not in (*status.ENDED, *status.ACTIVE)]
    todo = [cell for cell in open_ if only is None or cell in only]
    if todo and cluster == "slurm":
        said = slurm.submit_arrays(folder, name, todo, asked, keep)
        log.info(f"submitted {len(todo)} cells as SLURM's {', '.join(said)}")
    if todo and cluster == "local":
        local.start_lanes(folder, todo, asked, parallel or 1)
        log.info(f"started {len(todo)} cells here, {min(parallel or 1, len(todo))} at once")
    if failed := sum(one.state == "failed" for one in found):
        log.info(f"{failed} cells have failed and stay so: python -m ssvid.sweep retry --failed")
    return todo


def shown(plan: Any, folder: SweepFolder, asked: Cluster, cluster: str) -> dict[str, Any]:
    for one in plan.cells:
        log.info(f"{one.hash}  {one.name}")
    if cluster == "slurm" and shutil.which("srun"):
        log.info(slurm.script(folder, plan.name, len(plan.cells), asked))
    return {"out": str(folder.path), "cells": len(plan.cells), "dry_run": True}


def debug(folder: SweepFolder, todo: list[str], asked: Cluster) -> None:
    for name in todo:
        if (became := keep(str(folder.path.resolve()), [name], vars(asked))[name]) != "finished":
            last = folder.cell(name).why if became == "failed" else {}
            log.info("\n".join(last.get("lines", [])))
            raise RunError(f"The cell {name} {became} ({last.get('why', 'it was told to leave')}).")


def watch(
    folder: SweepFolder, name: str, asked: Cluster, cluster: str, parallel: int | None
) -> None:
    known = folder.read()
    before = {one.cell: one.submitted for one in status.states(folder, known)}
    total = sum(not given["left"] for given in known["cells"].values())
    with progress_bar(total, "cell", refresh_s=0.5) as bar:
        while True:
            found = [one for one in status.states(folder, known) if not one.left]
            number = status.counts(found)
            bar.update(number["finished"] + number["failed"] - bar.n)
            said = [
                f"{number[key]} {key}" for key in ("running", "queued", "failed") if number[key]
            ]
            bar.set_postfix_str(", ".join(said), refresh=False)
            lost = {
                one.cell
                for one in found
                if one.state == "stopped" and one.submitted < before[one.cell] + AGAIN
            }
            if lost:
                with (
                    contextlib.suppress(UserError),
                    folder.submitting(),
                ):  # another may be at it, or squeue be silent
                    handed(folder, known, name, asked, cluster, parallel, lost)
            elif not number["running"] + number["queued"] + number["unknown"]:
                return
            time.sleep(POLL if cluster == "slurm" else 1.0)


def ended(folder: SweepFolder, submitted: int, waited: bool) -> dict[str, Any]:
    found = status.states(folder)
    number = status.counts(found)
    made = {"out": str(folder.path), "submitted": submitted, **number}
    if waited:
        log.info(status.table(found))
        made["exit_code"] = 0 if number["finished"] == number["cells"] else 3
    return made


def of(out: str | None) -> SweepFolder:
    """A folder, a sweep file, or the newest sweep below runs/, which is then named."""
    if out is not None:
        if not out.endswith((".yaml", ".yml")):
            return SweepFolder(out)
        given = read_yaml(out, "sweep")
        return SweepFolder(
            RUNS / str((given if isinstance(given, dict) else {}).get("name") or Path(out).stem)
        )
    found = sorted(RUNS.glob("*/sweep.json"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise UserError(f"There is no sweep below {RUNS}/: say which, --out DIR.")
    log.info(f"the newest sweep: {found[-1].parent}")
    return SweepFolder(found[-1].parent)


def status_(
    out: str | None = None,  # the sweep's folder; null: the newest below runs/
    *,
    watch: bool = False,  # print it again until all cells are finished or have failed
) -> dict[str, Any]:
    """How each cell stands: state, step, loss, clips a second, time left, node, restarts."""
    folder = of(out)
    while True:
        found = status.states(folder)
        text = status.page(folder, found)
        print(
            ("\033[2J\033[H" if watch and sys.stderr.isatty() else "") + text,
            file=sys.stderr,
            flush=True,
        )
        number = status.counts(found)
        if not watch or not number["running"] + number["queued"] + number["unknown"]:
            return {"out": str(folder.path), **number}
        time.sleep(POLL)


def logs(
    cell: str,  # its hash, or the first letters of it
    out: str | None = None,  # the sweep's folder; null: the newest below runs/
    *,
    lines: int = 40,  # the last ones that are shown
) -> dict[str, Any]:
    """What happened to a cell, and the last lines of each process of its last attempt."""
    from ssvid.sweep.ranks import tail

    folder = of(out)
    one = folder.cell(whole_name(folder, cell))
    for event in one.events():
        shown = {
            key: value
            for key, value in event.items()
            if key not in ("event", "time", "lines") and value
        }
        clock = time.strftime("%m-%d %H:%M:%S", time.localtime(event["time"]))
        log.info(f"{clock} {event['event']}: {', '.join(f'{k} {v}' for k, v in shown.items())}")
    attempts = sorted(one.logs.iterdir()) if one.logs.is_dir() else []
    for file in sorted(attempts[-1].glob("*.err")) if attempts else []:
        print(f"--- {file}", *tail(file)[-lines:], sep="\n", file=sys.stderr)
    return {"cell": one.hash, "attempts": len(attempts), "logs": str(one.logs)}


def whole_name(folder: SweepFolder, cell: str) -> str:
    found = [name for name in folder.read()["cells"] if name.startswith(cell)]
    if len(found) != 1:
        raise UserError(
            f"{folder.path} has {len(found)} cells that begin with {cell!r}: `sweep status` names them."
        )
    return found[0]


def cancel(
    out: str | None = None,  # the sweep's folder; null: the newest below runs/
    *,
    cell: str | None = None,  # hash of the one cell to stop; null: all
) -> dict[str, Any]:
    """Take the cells (or one) out of the queue and stop what runs; checkpoints stay, submitting again goes on."""
    folder = of(out)
    only = whole_name(folder, cell) if cell else None
    found = [one for one in status.states(folder) if only in (None, one.cell)]
    if any(one.state == "unknown" for one in found):
        raise RunError(
            "squeue does not answer, so what still runs is not known: nothing was cancelled. Try again."
        )
    wanted = {one.cell for one in found if one.state in status.ACTIVE}
    queue = slurm.queue() if wanted else {}
    here = socket.gethostname()
    numbers, lanes = [], []
    for one in folder.submissions():
        alive = {name: job for name, job in jobs.alive(one, queue).items() if name in wanted}
        numbers += [job.id for job in alive.values() if job.id]
        lanes += local.lanes_of(one) if alive else []
    if elsewhere := next((lane["host"] for lane in lanes if lane["host"] != here), None):
        raise UserError(
            f"These processes were started on {elsewhere}, and this is {here}: cancel there. If that machine is gone, "
            f"delete what names it, {folder.path}/jobs/*/lane-*.json."
        )
    if lanes and only:
        raise UserError(
            "On this machine processes share the cells: cancel all of them (leave out --cell)."
        )
    for name in sorted(wanted):
        folder.cell(name).add("cancel", host=here)
    for i in range(0, len(numbers), 100):
        subprocess.run(["scancel", *numbers[i : i + 100]], check=False)
    for lane in lanes:
        if local.living(lane):
            os.kill(lane["pid"], signal.SIGTERM)
    return {"out": str(folder.path), "cancelled": len(wanted)}


def retry(
    out: str | None = None,  # the sweep's folder; null: the newest below runs/
    *,
    failed: bool = False,  # every cell that has failed
    cell: str | None = None,  # or this one
    cluster: Literal["slurm", "local"] = "slurm",  # where: SLURM or this machine
    parallel: int | None = None,  # cells at once; null: as submitted
) -> dict[str, Any]:
    """Give failed cells new tries, from their newest checkpoints."""
    if failed == (cell is not None):
        raise UserError("Say which cells: --failed for all that have failed, or --cell HASH.")
    folder = of(out)
    with folder.submitting():
        known = folder.read()
        only = whole_name(folder, cell) if cell else None
        again = [
            one
            for one in status.states(folder)
            if one.state == "failed" and only in (None, one.cell) and not one.left
        ]
        for one in again:
            folder.cell(one.cell).add("retry")
            folder.cell(one.cell).failed_file.unlink()
        asked = Cluster(**known["cluster"])
        todo = handed(folder, known, known["name"], asked, cluster, parallel)
    return ended(folder, len(todo), False)


def report(
    out: str | None = None,  # the sweep's folder; null: the newest below runs/
) -> dict[str, Any]:
    """One page: table, plots for each axis, the best cell by val."""
    folder = of(out)
    folder.read()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.report", str(folder.path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise RunError("The report could not be made: the line above says why.")
    return dict(json.loads(done.stdout.splitlines()[-1]))


WORDS: dict[str, Callable[..., dict[str, Any]]] = {
    "status": status_,
    "logs": logs,
    "cancel": cancel,
    "retry": retry,
    "report": report,
}


if __name__ == "__main__":
    from ssvid.cli import command

    word = sys.argv[1] if len(sys.argv) > 1 else ""
    first = {"logs": ("cell", "out")}.get(word, ("out",))
    if word in WORDS:
        command(WORDS[word], *first, argv=sys.argv[2:])
    else:
        command(submit, "sweep")
