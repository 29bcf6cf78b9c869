"""`python -m ssvid.sweep SWEEP.yaml`, and the commands status, logs, cancel, retry and report.

Each function here is one command: it parses its flags, calls the other files and prints.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ssvid.commands import list_start_words, list_words
from ssvid.errors import RunError, UserError, check_positive
from ssvid.files import read_yaml
from ssvid.log import log
from ssvid.recipe import find_sweep_file
from ssvid.sweep import jobs, local, slurm, submission
from ssvid.sweep.cluster import Cluster
from ssvid.sweep.folder import SweepFolder
from ssvid.sweep.status import ACTIVE, State, count_states, format_page, read_states
from ssvid.sweep.submission import submit_open_cells, summarize

RUNS = Path("runs")


def submit(
    sweep: str,  # YAML file: base, axes, suite, cluster (docs/guides/sweeps.md)
    out: str | None = None,  # folder of the sweep; null: runs/NAME
    *,
    # slurm: job arrays; local: processes of this machine; debug: one cell after the other in this
    # process
    cluster: Literal["slurm", "local", "debug"] = "slurm",
    # cells at once; null: cluster.parallel of the sweep file on SLURM, 1 on this machine
    parallel: int | None = None,
    # wait until every cell has finished or failed; cells whose job was lost are submitted again
    wait: bool = False,
    dry_run: bool = False,  # show the cells and the job, submit nothing
) -> dict[str, Any]:
    """Submit every cell that is neither finished nor running. The same command again goes on.

    Instead of a sweep file the first word may be status, logs, cancel, retry or report, each with
    its own --help.
    """
    from ssvid.sweep.plan import read_plan

    check_positive(parallel=parallel)
    file = find_sweep_file(sweep, list_words("sweep"))
    if cluster == "slurm" and not dry_run:
        slurm.check_tools()
    plan = read_plan(str(file))
    folder = SweepFolder(out or RUNS / plan.name)
    shape = plan.cluster if parallel is None else replace(plan.cluster, parallel=parallel)
    submission.check_suites(plan.suites, plan.best, sweep)
    submission.warn_of_missing_data(plan)
    if dry_run:
        return submission.show_plan(plan, folder, shape, cluster)
    if cluster == "slurm":
        slurm.check_submission(folder, plan.name, len(plan.cells), shape)
    with folder.lock_submissions():
        content = submission.merge_cells(folder, plan, shape, out_is_given=out is not None)
        folder.write(content)
        cells = submit_open_cells(folder, content, shape, cluster, parallel)
    if cluster == "debug":
        submission.run_in_process(folder, cells, shape)
    elif wait:
        submission.wait_for_cells(folder, shape, cluster, parallel)
    return summarize(folder, len(cells), wait or cluster == "debug")


def find_sweep_folder(out: str | None) -> SweepFolder:
    """The sweep's folder, from a folder, a sweep file, or None for the newest sweep below runs/."""
    if out is not None and not out.endswith((".yaml", ".yml")):
        return SweepFolder(out)
    if out is not None:
        content = read_yaml(find_sweep_file(out), "sweep")
        name = content.get("name") if isinstance(content, dict) else None
        return SweepFolder(RUNS / str(name or Path(out).stem))
    files = sorted(RUNS.glob("*/sweep.json"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise UserError(f"There is no sweep below {RUNS}/: name its folder with --out DIR.")
    log.info(f"the newest sweep: {files[-1].parent}")
    return SweepFolder(files[-1].parent)


def show_status(
    out: str | None = None,  # the sweep's folder; null: the newest below runs/
    *,
    watch: bool = False,  # print it again until all cells have finished or failed
) -> dict[str, Any]:
    """Show each cell's state, step, loss, clips per second, time left, node and restarts."""
    folder = find_sweep_folder(out)
    while True:
        states = read_states(folder)
        clear_screen = "\033[2J\033[H" if watch and sys.stderr.isatty() else ""
        print(clear_screen + format_page(folder, states), file=sys.stderr, flush=True)
        numbers = count_states(states)
        if not watch or not numbers["running"] + numbers["queued"] + numbers["unknown"]:
            return {"out": str(folder.path), **numbers}
        time.sleep(submission.POLL_S)


def show_logs(
    cell: str,  # the cell's hash, or its first letters
    out: str | None = None,  # the sweep's folder; null: the newest below runs/
    *,
    lines: int = 40,  # how many of the last lines are shown
) -> dict[str, Any]:
    """Show a cell's events, and the last lines of each process of its last attempt."""
    from ssvid.sweep.ranks import read_tail

    folder = find_sweep_folder(out)
    cell_folder = folder.cell(complete_hash(folder, cell))
    for event in cell_folder.read_events():
        fields = []
        for key, value in event.items():
            if key not in ("event", "time", "lines") and value:
                fields.append(f"{key} {value}")
        clock = time.strftime("%m-%d %H:%M:%S", time.localtime(event["time"]))
        log.info(f"{clock} {event['event']}: {', '.join(fields)}")
    attempts = sorted(cell_folder.logs.iterdir()) if cell_folder.logs.is_dir() else []
    for file in sorted(attempts[-1].glob("*.err")) if attempts else []:
        print(f"--- {file}", *read_tail(file)[-lines:], sep="\n", file=sys.stderr)
    return {"cell": cell_folder.hash, "attempts": len(attempts), "logs": str(cell_folder.logs)}


def complete_hash(folder: SweepFolder, start: str) -> str:
    """The hash of the only cell that begins with `start`. UserError: there is not exactly one."""
    names = [name for name in folder.read()["cells"] if name.startswith(start)]
    if len(names) != 1:
        raise UserError(
            f"{folder.path} has {len(names)} cells whose hash begins with {start!r}: "
            "`sweep status` lists them."
        )
    return names[0]


def cancel(
    out: str | None = None,  # the sweep's folder; null: the newest below runs/
    *,
    cell: str | None = None,  # hash of the only cell to stop; null: all cells
) -> dict[str, Any]:
    """Remove all cells, or one, from the queue and stop what runs.

    Checkpoints stay, so submitting again goes on.
    """
    folder = find_sweep_folder(out)
    only = complete_hash(folder, cell) if cell else None
    states = [state for state in read_states(folder) if only in (None, state.cell)]
    submission.refuse_silent_queue(states, "cancelled")
    active_cells = {state.cell for state in states if state.state in ACTIVE}
    numbers, lanes = find_active_jobs(folder, active_cells)
    check_lanes(folder, lanes, only)
    for name in sorted(active_cells):
        folder.cell(name).add_event("cancel", host=socket.gethostname())
    for i in range(0, len(numbers), 100):
        subprocess.run(["scancel", *numbers[i : i + 100]], check=False)
    for lane in lanes:
        if local.is_lane_alive(lane):
            os.kill(lane["pid"], signal.SIGTERM)
    return {"out": str(folder.path), "cancelled": len(active_cells)}


def find_active_jobs(
    folder: SweepFolder, cells: set[str]
) -> tuple[list[str], list[dict[str, Any]]]:
    """The numbers of SLURM's jobs that work on `cells`, and the lanes that do."""
    queue = slurm.read_queue() if cells else {}
    numbers: list[str] = []
    lanes: list[dict[str, Any]] = []
    for record in folder.submissions():
        live_jobs = []
        for name, job in jobs.find_live_jobs(record, queue).items():
            if name in cells:
                live_jobs.append(job)
        numbers += [job.id for job in live_jobs if job.id]
        lanes += local.read_lanes(record) if live_jobs else []
    return numbers, lanes


def check_lanes(folder: SweepFolder, lanes: list[dict[str, Any]], only: str | None) -> None:
    """Raise UserError if lanes run on another machine, or if only one of their cells is to stop."""
    here = socket.gethostname()
    hosts = [lane["host"] for lane in lanes if lane["host"] != here]
    if hosts:
        raise UserError(
            f"These processes were started on {hosts[0]}, and this is {here}: cancel them there. "
            f"If that machine is gone, delete the files that name it, {folder.path}/jobs/*/"
            "lane-*.json."
        )
    if lanes and only:
        raise UserError(
            "The processes of this machine share the cells, so one cell cannot be cancelled alone: "
            "leave out --cell to cancel all."
        )


def retry(
    out: str | None = None,  # the sweep's folder; null: the newest below runs/
    *,
    failed: bool = False,  # retry every cell that has failed
    cell: str | None = None,  # or only the cell with this hash
    cluster: Literal["slurm", "local"] = "slurm",  # where to run them: on SLURM or this machine
    # cells at once; null: as submitted on SLURM, 1 on this machine
    parallel: int | None = None,
) -> dict[str, Any]:
    """Give failed cells new tries, from their newest checkpoints."""
    if failed == (cell is not None):
        raise UserError(
            "Choose the cells: --failed for all that have failed, or --cell HASH for one."
        )
    folder = find_sweep_folder(out)
    with folder.lock_submissions():
        sweep = folder.read()
        only = complete_hash(folder, cell) if cell else None
        for state in read_states(folder):
            if is_retried(state, only):
                folder.cell(state.cell).add_event("retry")
                folder.cell(state.cell).failed_file.unlink()
        shape = Cluster(**sweep["cluster"])
        cells = submit_open_cells(folder, sweep, shape, cluster, parallel)
    return summarize(folder, len(cells), False)


def is_retried(state: State, only: str | None) -> bool:
    return state.state == "failed" and not state.removed and only in (None, state.cell)


def report(
    out: str | None = None,  # the sweep's folder; null: the newest below runs/
) -> dict[str, Any]:
    """Write one page with a table, a plot for each axis, and the best cell by its val score."""
    folder = find_sweep_folder(out)
    folder.read()
    answer = subprocess.run(
        [sys.executable, *list_start_words("benchmarks.report"), str(folder.path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    if answer.returncode:
        raise RunError("The report could not be written: the line above says why.")
    return dict(json.loads(answer.stdout.splitlines()[-1]))


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("sweep")
