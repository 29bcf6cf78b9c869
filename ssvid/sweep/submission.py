"""a Plan -> its open cells submitted: to SLURM, to lanes of this machine, or run in this process.

It also waits for the cells and submits those again whose job was lost.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ssvid.commands import list_start_words, phrase_command, phrase_next
from ssvid.errors import RunError, UserError
from ssvid.log import log
from ssvid.progress import progress_bar
from ssvid.sweep import local, slurm
from ssvid.sweep.cluster import Cluster
from ssvid.sweep.folder import SweepFolder
from ssvid.sweep.keeper import keep
from ssvid.sweep.status import (
    ACTIVE,
    ENDED,
    State,
    count_states,
    format_duration,
    format_table,
    read_states,
)

POLL_S = 5.0  # seconds between two looks at SLURM's queue
MAX_RESUBMISSIONS = 3  # times that --wait submits a cell again whose job was lost
# Without the time left: cells end one by one, so the time of the last ones tells nothing of it.
WAIT_FORMAT = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} cells [{elapsed}{postfix}]"
MOST_TEXTS = 6  # on the line of a bar
# Data sets that a run generates where they are missing.
GENERATED_SETS = ("synthetic", "synthetic_films", "synthetic_narrated")


def warn_of_missing_data(plan: Any) -> None:
    """Warn of data folders that this machine does not see.

    The nodes may see them, which cannot be checked here. But a misspelt folder would make every
    cell fail.
    """
    missing = set()
    for cell in plan.cells:
        for flags in (cell.config, cell.suite or {}):
            data = flags.get("data")
            if isinstance(data, dict) and data.get("name") not in GENERATED_SETS:
                root = data.get("root")
                if root and not Path(root).exists():
                    missing.add(str(root))
    for root in sorted(missing):
        log.warning(f"the sweep reads {root}, which does not exist here; do the nodes see it?")


def check_suites(suites: list[dict[str, Any]], best: str | None, sweep: str) -> None:
    """Raise UserError if benchmarks.run refuses the flags of a suite, or the suite has no `best`.

    benchmarks is asked in a process of its own, because the core must not import it.
    """
    for suite in suites:
        words = list_start_words("benchmarks.suite")
        argv = [sys.executable, *words, "--flags", json.dumps(suite)]
        answer = subprocess.run(argv, capture_output=True, text=True)
        if answer.returncode:
            reason = (answer.stderr.strip().splitlines() or ["it does not say why"])[-1]
            raise UserError(
                f"The suite of the sweep {sweep} is not possible: {reason.removeprefix('error: ')}"
            )
        cells = json.loads(answer.stdout.splitlines()[-1])["cells"]
        if best is not None and best not in cells:
            raise UserError(
                f"The sweep {sweep}: `best` is {best}, but its suite has {', '.join(cells)}."
            )


def merge_cells(
    folder: SweepFolder, plan: Any, cluster: Cluster, out_is_given: bool
) -> dict[str, Any]:
    """The new content of sweep.json: the plan's cells, and earlier ones marked as left.

    UserError: without --out, the folder holds the sweep of another file with the same name.
    """
    previous: dict[str, Any] = {}
    try:
        previous = folder.read() if folder.file.exists() else {}
    except UserError as error:
        log.warning(f"{error}")  # the file is written anew from the sweep file
    if not out_is_given and previous.get("file", plan.file) != plan.file:
        raise UserError(
            f"{folder.path} holds the sweep of {previous['file']}: choose another folder with "
            "--out DIR, or give this sweep a `name`."
        )
    earlier_cells = previous.get("cells", {})
    cells = {cell.hash: cell.to_record() for cell in plan.cells}
    removed = {}
    for name, record in earlier_cells.items():
        if name not in cells:
            removed[name] = {**record, "left": True}
    if new := len(cells.keys() - earlier_cells.keys()) if earlier_cells else 0:
        log.info(f"{plan.file} was changed: {new} new cells, {len(removed)} removed cells.")
    return {
        "name": plan.name,
        "file": plan.file,
        "axes": plan.axes,
        "best": plan.best,
        "cluster": vars(cluster),
        "cells": {**cells, **removed},
    }


def submit_open_cells(
    folder: SweepFolder,
    sweep: dict[str, Any],
    cluster: Cluster,
    target: str,
    parallel: int | None,
    only: set[str] | None = None,
) -> list[str]:
    """Submit the cells that are neither finished, failed, running nor queued, and return them.

    `sweep` is the content of sweep.json, `target` is slurm, local or debug; debug submits nothing.
    With `only`, other cells are passed over. RunError: squeue is silent, so a cell could get two
    jobs.
    """
    states = [state for state in read_states(folder, sweep) if not state.removed]
    refuse_silent_queue(states, "submitted")
    cells = []
    for state in states:
        if state.state not in (*ENDED, *ACTIVE) and (only is None or state.cell in only):
            cells.append(state.cell)
    if cells and target == "slurm":
        jobs = slurm.submit_arrays(folder, sweep["name"], cells, cluster, keep)
        log.info(f"submitted {len(cells)} cells as the SLURM jobs {', '.join(jobs)}")
    if cells and target == "local":
        lanes = min(parallel or 1, len(cells))
        local.start_lanes(folder, cells, cluster, lanes)
        log.info(f"started {len(cells)} cells here, {lanes} at once")
    if failed := sum(state.state == "failed" for state in states):
        log.info(
            f"{failed} cells have failed and are not submitted again. To give them new tries: "
            f"{phrase_command('sweep retry')} --failed"
        )
    return cells


def refuse_silent_queue(states: list[State], action: str) -> None:
    """Raise RunError if squeue did not answer for a cell. `action` is what was not done."""
    if any(state.state == "unknown" for state in states):
        raise RunError(
            f"squeue does not answer, so it is not clear which cells still run: nothing was "
            f"{action}. Try again."
        )


def show_plan(plan: Any, folder: SweepFolder, cluster: Cluster, target: str) -> dict[str, Any]:
    """Log the cells and, where SLURM is installed, the script that sbatch would get."""
    for cell in plan.cells:
        log.info(f"{cell.hash}  {cell.name}")
    if target == "slurm" and shutil.which("srun"):
        log.info(slurm.render_script(folder, plan.name, len(plan.cells), cluster))
    return {"out": str(folder.path), "cells": len(plan.cells), "dry_run": True}


def run_in_process(folder: SweepFolder, cells: list[str], cluster: Cluster) -> None:
    """Run the cells one after the other in this process. RunError: one did not finish."""
    for name in cells:
        state = keep(str(folder.path.resolve()), [name], vars(cluster))[name]
        if state != "finished":
            failure = folder.cell(name).read_failure() if state == "failed" else {}
            log.info("\n".join(failure.get("lines", [])))
            reason = failure.get("why", "it was asked to stop")
            raise RunError(f"The cell {name} {state} ({reason}).")


def wait_for_cells(
    folder: SweepFolder, cluster: Cluster, target: str, parallel: int | None
) -> None:
    """Show a progress bar until no cell is queued or runs. Cells whose job was lost are submitted
    again, at most MAX_RESUBMISSIONS times.
    """
    sweep = folder.read()
    states = read_states(folder, sweep)
    submissions = {state.cell: state.submissions for state in states}
    total = count_states(states)["cells"]
    look: dict[str, Any] = {
        "bar_format": WAIT_FORMAT,
        "miniters": 0,
    }  # drawn anew though no cell has ended
    with progress_bar(total, "cell", refresh_s=0.5, **look) as bar:
        while True:
            states = [state for state in read_states(folder, sweep) if not state.removed]
            numbers = count_states(states)
            bar.update(numbers["finished"] + numbers["failed"] - bar.n)
            bar.set_postfix_str(describe_progress(states), refresh=False)
            lost = set()
            for state in states:
                limit = submissions[state.cell] + MAX_RESUBMISSIONS
                if state.state == "stopped" and state.submissions < limit:
                    lost.add(state.cell)
            if lost:
                # Another command may be submitting, or squeue may be silent: the next round tries
                # again.
                with contextlib.suppress(UserError), folder.lock_submissions():
                    submit_open_cells(folder, sweep, cluster, target, parallel, lost)
            elif not numbers["running"] + numbers["queued"] + numbers["unknown"]:
                return
            time.sleep(POLL_S if target == "slurm" else 1.0)


def describe_progress(states: list[State]) -> str:
    """How many cells are in which state, and how far the running ones are."""
    numbers, texts = count_states(states), []
    for key in ("running", "queued", "failed"):
        if numbers[key]:
            texts.append(f"{numbers[key]} {key}")
    for state in states:
        if state.state != "running" or not state.stage:
            continue
        text = state.stage
        if state.stage == "pretrain" and state.step is not None:
            text += f" step {state.step}/{state.steps or '?'}"
            if state.seconds_left is not None:
                text += f", {format_duration(state.seconds_left)} left of it"
        texts.append(text)
    return ", ".join(texts[:MOST_TEXTS])


def summarize(folder: SweepFolder, submitted: int, has_waited: bool) -> dict[str, Any]:
    """What `submit` and `retry` print: the number of cells in each state."""
    states = read_states(folder)
    numbers = count_states(states)
    summary = {"out": str(folder.path), "submitted": submitted, **numbers}
    word = "report" if has_waited else "status"
    summary["next"] = [phrase_next(f"sweep {word}", str(folder.path))]
    if has_waited:
        log.info(format_table(states))
        summary["exit_code"] = 0 if numbers["finished"] == numbers["cells"] else 3
    return summary
