"""A cell's course: attempts that end in every way, and what its files say afterwards.

Its trainer is fake.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ssvid.files import locked
from ssvid.results import write_result
from ssvid.sweep import keeper
from ssvid.sweep.folder import CellFolder, SweepFolder
from ssvid.sweep.ranks import Ending, find_signal, judge_exit, read_failure, read_tail
from ssvid.sweep.status import count_states, read_states
from tests.benchmarks.made import make_result
from tests.helpers import ROOT, for_each
from tests.sweep.small import until

CELL = "c0ffee"
SHAPE = {"nodes": 1, "signal_delay": 20, "time": 10}


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CellFolder:
    """A cell of a sweep, whose commands are fake.py."""
    return make_cell(tmp_path, monkeypatch)


def make_cell(out: Path, monkeypatch: pytest.MonkeyPatch, suite: bool = False) -> CellFolder:
    folder = SweepFolder(out)
    record = {
        "name": "a",
        "axes": {"seed": "0"},
        "settings": {"seed": 0},
        "left": False,
        "cwd": str(ROOT),
    }
    record |= {
        "config": {"seed": 0, "steps": 9, "batch_size": 4},
        "suite": {"suite": "quick"} if suite else None,
    }
    folder.write(
        {"name": "s", "axes": {"seed": ["0"]}, "best": None, "cluster": {}, "cells": {CELL: record}}
    )
    cell = folder.cell(CELL)
    cell.path.mkdir(parents=True)
    monkeypatch.setattr(
        keeper, "make_command", lambda cell, stage, record: ["tests.sweep.fake", str(cell.path)]
    )
    monkeypatch.setattr(keeper, "pause_after_failure", lambda *_: None)
    monkeypatch.chdir(ROOT)
    return cell


def plan(cell: CellFolder, *acts: Any) -> None:
    base = sum(event["event"] == "start" for event in cell.read_events())
    (cell.path / "acts.json").write_text(json.dumps({"base": base, "acts": acts}))


def keep(cell: CellFolder, *acts: Any) -> str:
    plan(cell, *acts)
    return keeper.keep(str(cell.path.parents[1]), [CELL], SHAPE)[CELL]


def ends(cell: CellFolder) -> list[tuple[str, str]]:
    return [
        (event["how"], event["said"]) for event in cell.read_events() if event["event"] == "end"
    ]


def test_a_cell_that_is_whole_at_once(cell: CellFolder):
    assert keep(cell, "done") == "finished"
    row = json.loads((cell.path / "row.json").read_text())
    assert (row["cell"], row["step"], row["loss"], row["starts"], row["scores"]) == (
        CELL,
        9,
        0.5,
        1,
        {},
    )
    (cell.path / "row.json").write_text(
        "{"
    )  # damaged: it is written anew, and nothing else is done again
    assert not cell.finished
    assert keep(cell) == "finished" and len(ends(cell)) == 1  # nothing is run again


def test_it_starts_again_what_dies(cell: CellFolder):
    assert keep(cell, "kill", "fail x", "leave", "say disk full", "done") == "finished"
    assert ends(cell) == [
        ("outside", "killed by SIGKILL"),
        ("failed", "ValueError: x"),
        ("outside", "told to leave by a signal"),
        ("failed", "disk full"),
        ("done", ""),
    ]
    assert json.loads((cell.path / "row.json").read_text())["starts"] == 5


def test_the_same_failure_three_times_is_one_for_good(cell: CellFolder):
    assert (
        keep(cell, "fail at 1", "kill", "fail at 2", "fail at 3", "fail at 44.5", "done")
        == "failed"
    )
    failed = json.loads((cell.path / "failed.json").read_text())
    assert (
        failed["why"] == "ValueError: at 44.5"
        and failed["times"] == 3
        and failed["stage"] == "pretrain"
    )
    assert (
        failed["lines"][0].startswith("Traceback") and failed["lines"][-1] == "ValueError: at 44.5"
    )
    assert keep(cell, "done") == "failed"  # and stays so
    (one,) = read_states(SweepFolder(cell.path.parents[1]))
    assert (one.state, one.reason, one.restarts) == ("failed", "ValueError: at 44.5", 4)


WORDS = [f"fail worker <object at 0x7f{i}ab> in /tmp/tmp{i}x failed after {i} s" for i in "123"]
PROGRESS = ["fail a"] * 2 + ["fail b"] * 2 + ["step 3 fail b"] * 2 + ["step 4 fail b"]


@for_each(
    "acts, times",
    [
        ([*PROGRESS, "fail b"], None),  # progress and other words begin the count anew
        (WORDS, 3),  # what changes each time is the same failure
        (["fail a", "fail b"] * 4 + ["fail a"], None),
        (["fail a", "fail b"] * 5, 10),  # failures that alternate without progress end too
        (["kill"] * 9, None),  # who is killed from outside has more patience
        (["kill"] * 10, 10),
    ],
)
def test_how_many_failures_are_too_many(
    acts: list[str], times: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cell = make_cell(tmp_path, monkeypatch)
    assert keep(cell, *acts, "done") == ("failed" if times else "finished")
    if times:
        assert json.loads((cell.path / "failed.json").read_text())["times"] == times


def test_retry_counts_from_its_own_time(cell: CellFolder):
    assert keep(cell, *["fail x"] * 3) == "failed"
    (cell.path / "failed.json").unlink()
    cell.add_event("retry")
    assert keep(cell, "fail x", "fail x", "done") == "finished"


def test_the_suite_comes_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cell = make_cell(tmp_path, monkeypatch, suite=True)
    assert keep(cell, "done", "fail probe", "done") == "finished"
    stages = [event["stage"] for event in cell.read_events() if event["event"] == "start"]
    assert stages == ["pretrain", "suite", "suite"]  # what was done is not done again
    assert json.loads((cell.path / "row.json").read_text())["starts"] == 1


def test_scores_are_those_of_the_result_files(cell: CellFolder):
    result = make_result("net", "classify.linear")
    cell.bench.mkdir(parents=True)
    write_result(cell.bench / "a.json", result)
    (cell.bench / "other.json").write_text(json.dumps({"kind": "something else"}))
    random, gain = result.controls["random"].value, vars(result.gains["random"])
    expected = {"metric": "top1", "test": result.score.value, "interval": result.score.interval}
    expected |= {"val": 0.6, "chance": 0.25, "random": random, "gain": gain}
    expected["leak"] = result.leak.clips
    assert keeper.read_scores(cell) == {"classify.linear": expected}


def test_ranks_have_logs_and_the_first_to_fail_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cell = make_cell(tmp_path, monkeypatch)
    monkeypatch.setitem(SHAPE, "nodes", 3)
    monkeypatch.setattr("ssvid.sweep.ranks.PEER_LOSS_S", 1.0)
    lost = "lose process 2"
    assert keep(cell, [lost, "hang", "fail of my own"], "done") == "finished"
    assert ends(cell)[0] == ("failed", "ValueError: of my own")
    logs = [f"rank{rank}.err" for rank in range(3)] + [f"rank{rank}.out" for rank in range(3)]
    assert {file.name for file in (cell.logs / "001-pretrain").iterdir()} == {*logs, "rank0.fault"}


def test_a_line_that_a_kill_cut_short_is_no_event(cell: CellFolder):
    cell.add_event("start", stage="pretrain", logs="001-pretrain", pid=1, host="x", node=None)
    with open(cell.attempts, "a") as file:
        file.write('{"event": "end", "sta')
    assert keep(cell, "done") == "finished"
    assert ends(cell)[0] == ("outside", "its keeper was killed or its node was lost")
    assert len(cell.read_events()) == len(cell.attempts.read_text().splitlines()) - 1


def keeper_process(cell: CellFolder, *acts: str) -> subprocess.Popen[bytes]:
    plan(cell, *acts)
    code = "import sys; from ssvid.sweep import keeper;"
    code += (
        "keeper.make_command = lambda cell, stage, record: ['tests.sweep.fake', str(cell.path)];"
    )
    code += f"keeper.keep(sys.argv[1], [sys.argv[2]], {SHAPE})"
    return subprocess.Popen([sys.executable, "-c", code, str(cell.path.parents[1]), CELL], cwd=ROOT)


def trainers(cell: CellFolder) -> list[int]:
    answer = subprocess.run(
        ["pgrep", "-f", f"tests.sweep.fake {cell.path}"], capture_output=True, text=True
    )
    return [int(pid) for pid in answer.stdout.split()]


def test_a_keeper_that_is_told_to_go_tells_its_ranks(cell: CellFolder):
    with keeper_process(cell, "hang") as process:
        until(lambda: (cell.path / "hangs").exists())
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    assert not trainers(cell)
    assert cell.read_events()[-1] | {"time": 0} == {"event": "left", "time": 0, "why": "SIGTERM"}
    assert ends(cell) == [("outside", "killed by SIGTERM")] and not cell.failed


def test_a_killed_keeper_is_followed_by_one_that_waits_for_its_orphan(cell: CellFolder):
    """The orphan holds the run's lock as a trainer does; the new keeper waits for its end."""
    cell.run.mkdir(parents=True)
    with keeper_process(cell, "hang", "done") as process:
        until(lambda: (cell.path / "hangs").exists())
        process.kill()
    (orphan,) = trainers(cell)
    with locked(cell.run / "lock", wait=False, what="run"):
        again = keeper_process(cell, "done")
        until(lambda: any(event["event"] == "end" for event in cell.read_events()))
        time.sleep(1.5)
        assert sum(event["event"] == "start" for event in cell.read_events()) == 1
    with again:
        assert again.wait(timeout=30) == 0
    os.kill(orphan, signal.SIGKILL)
    assert cell.finished and ends(cell)[0][1] == "its keeper was killed or its node was lost"


def test_two_keepers_of_one_cell_are_one(cell: CellFolder):
    with locked(cell.lock, wait=False, what="cell"):
        waiting = keeper_process(cell, "done")
        time.sleep(1.5)
        assert waiting.poll() is None and not cell.finished
    with waiting:
        assert waiting.wait(timeout=30) == 0
    assert cell.finished


def test_a_job_near_its_end_is_requeued_after_an_attempt(
    cell: CellFolder, monkeypatch: pytest.MonkeyPatch, tmp_path
):
    requests = tmp_path / "asked"
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "scontrol"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {requests}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setattr(keeper, "wait_for_ranks", lambda *_: Ending(1, "failed", "x", []))
    monkeypatch.setattr(keeper, "start_ranks", lambda *_: [])
    monkeypatch.setattr(keeper, "read_time_left", lambda job: 139.0)
    assert (
        keep(cell, "done") == "requeued" and len(ends(cell)) == 1
    )  # one attempt, or it would come and go for ever
    monkeypatch.setattr(keeper, "read_time_left", lambda job: 141.0)
    assert keep(cell, "done") == "failed" and len(ends(cell)) == 3
    assert requests.read_text().splitlines() == ["requeue 77"]


def test_what_exit_codes_say(tmp_path: Path):
    assert (
        find_signal(-9) == find_signal(137) == signal.SIGKILL
        and find_signal(3) is None
        and find_signal(1) is None
    )
    (tmp_path / "rank0.err").write_text("warning: w\nerror: out of disk\nsrun: done\n")
    assert judge_exit(0, tmp_path).outcome == "done"
    assert (
        judge_exit(75, tmp_path).outcome
        == judge_exit(140, tmp_path).outcome
        == judge_exit(-15, tmp_path).outcome
        == "outside"
    )
    assert judge_exit(3, tmp_path)[:3] == (3, "failed", "out of disk")
    assert judge_exit(-11, tmp_path)[1:3] == ("failed", "killed by SIGSEGV")
    assert judge_exit(1, tmp_path / "none")[1:3] == ("failed", "exit code 1, no last words")


@for_each(
    "text, how, why",
    [
        ("task 0: Exited with exit code 2\nsrun: error: n2: task 1: Terminated", "failed", "mine"),
        (
            "task 1: Killed\nsrun: error: n1: task 0: Exited with exit code 3",
            "outside",
            "killed by SIGKILL",
        ),
        ("tasks 0-1: Exited with exit code 75", "outside", "told to leave by a signal"),
        ("task 1: Segmentation fault (core dumped)", "failed", "killed by SIGSEGV"),
        ("tasks 0,2: User defined signal 2", "outside", "killed by SIGUSR2"),
    ],
)
def test_of_a_step_the_first_task_to_end_decides(text: str, how: str, why: str, tmp_path: Path):
    """srun's own code is the highest: that of the tasks it killed itself."""
    (tmp_path / "rank0.err").write_text("error: mine\n")
    (tmp_path / "srun.err").write_text(f"srun: launching\nsrun: error: n1: {text}\n")
    assert judge_exit(143, tmp_path)[1:3] == (how, why)


def test_last_words_of_a_bar_and_of_many_ranks(tmp_path: Path):
    (tmp_path / "rank0.err").write_bytes(
        b" 1%|\r 2%|\r 3%| step\nerror: Process 0 of 11 lost process 10.\n"
    )
    (tmp_path / "rank0.fault").write_text("PeerLost")
    (tmp_path / "rank10.err").write_text("Traceback\n  x\nRuntimeError: mine\n")
    (tmp_path / "srun.err").write_text("srun: error: n2: task 10: Exited with exit code 1\n")
    assert read_tail(tmp_path / "rank0.err")[0] == " 3%| step"
    assert read_failure(tmp_path) == (
        "RuntimeError: mine",
        ["Traceback", "  x", "RuntimeError: mine"],
    )


def test_states_of_cells_nobody_has(cell: CellFolder):
    folder = SweepFolder(cell.path.parents[1])
    assert count_states(read_states(folder))["waiting"] == 1
    (folder.path / "submissions").mkdir()
    lane = {"pid": 2**22 + 1, "began": "1", "host": os.uname().nodename}
    submission = {"time": 1, "cluster": "local", "cells": [CELL]}
    (folder.path / "submissions" / "0001.json").write_text(json.dumps(submission))
    (folder.path / "jobs" / "0001").mkdir(parents=True)
    (folder.path / "jobs" / "0001" / "lane-1.json").write_text(json.dumps(lane))
    assert count_states(read_states(folder))["stopped"] == 1
    cell.add_event("cancel")
    assert count_states(read_states(folder))["cancelled"] == 1
