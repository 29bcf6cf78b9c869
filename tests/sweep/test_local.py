"""Sweeps on this machine: processes that share the cells."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssvid.sweep.folder import CellFolder, SweepFolder
from ssvid.sweep.status import count_states, read_states
from tests.helpers import ROOT, command, sentence, tells
from tests.sweep.small import SMALL, SUITE, until, write_sweep

pytestmark = pytest.mark.slow


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)

    return partial(write_sweep, tmp_path)


def count_starts(cell: CellFolder) -> int:
    return sum(event["event"] == "start" for event in cell.read_events())


@pytest.mark.nightly
def test_eight_cells_at_once_make_one_set_and_one_cache(tmp_path: Path, sweep: Any):
    """On this machine: they all want the synthetic set and the raw pixels' features at the same
    moment.
    """
    suite = {
        **SUITE,
        "cache": str(tmp_path / "cache"),
        "data": {**SMALL["data"], "root": str(tmp_path / "set")},
    }
    file = sweep(grid={"seed": list(range(8))}, set={"steps": 2}, suite=suite, cluster={"cpus": 1})
    argv = [
        sys.executable,
        "-m",
        "ssvid.sweep",
        file,
        "--out",
        str(tmp_path / "out"),
        "--cluster",
        "local",
    ]
    done = subprocess.run([*argv, "--parallel", "8", "--wait"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = SweepFolder(tmp_path / "out")
    assert count_states(read_states(folder))["finished"] == 8
    cells = [folder.cell(name) for name in folder.read()["cells"]]
    assert [count_starts(cell) for cell in cells] == [2] * 8  # none tried again
    assert len([path for path in (tmp_path / "set").iterdir() if path.is_dir()]) == 1
    assert not list((tmp_path / "cache").rglob("*.tmp"))


@pytest.mark.nightly
def test_cancelled_and_submitted_again_it_goes_on(sweep: Any, tmp_path: Path):
    out = tmp_path / "out"
    file = sweep(grid={"seed": [0, 1]}, set={"steps": 4000, "checkpoint_every": 4000})
    argv = [file, "--out", str(out), "--cluster", "local", "--parallel", "2"]
    for _ in range(2):
        numbers = json.loads(command("ssvid.sweep", *argv).stdout)
        assert numbers["running"] + numbers["queued"] == 2
    folder = SweepFolder(out)
    assert len(folder.submissions()) == 1  # the second found both with the first
    until(lambda: all((one.step or 0) > 10 for one in read_states(folder)))
    assert command("ssvid.sweep", "cancel", str(out)).returncode == 0
    until(lambda: count_states(read_states(folder))["cancelled"] == 2)
    cells = [folder.cell(name) for name in folder.read()["cells"]]
    assert all(
        cell.read_mark("pretrain") > "step_00000010.pt" for cell in cells
    )  # told to leave, each wrote a checkpoint
    assert json.loads(command("ssvid.sweep", *argv).stdout)["submitted"] == 2
    until(lambda: [count_starts(cell) for cell in cells] == [2, 2])
    assert command("ssvid.sweep", "cancel", str(out)).returncode == 0
    until(lambda: count_states(read_states(folder))["cancelled"] == 2)


def test_debug_stops_at_the_first_fault_and_shows_it(sweep: Any, tmp_path: Path):
    file = sweep(grid={"objective.dec_heads": [3, 2]})  # 16 is no multiple of 3
    argv = [file, "--out", str(tmp_path / "out"), "--cluster", "debug"]
    message = sentence(command("ssvid.sweep", *argv), code=3)
    assert tells(message, "3")
    assert count_states(read_states(SweepFolder(tmp_path / "out")))["waiting"] == 1


def test_two_ranks_of_this_machine_are_one_cell(sweep: Any, tmp_path: Path):
    out = tmp_path / "out"
    file = sweep(grid={"seed": [0]}, suite=SUITE, cluster={"nodes": 2, "cpus": 1})
    done = command("ssvid.sweep", file, "--out", str(out), "--cluster", "local", "--wait")
    assert done.returncode == 0, done.stderr[-2000:]
    folder = SweepFolder(out)
    (one,) = (folder.cell(name) for name in folder.read()["cells"])
    assert {file.name for file in (one.logs / "001-pretrain").glob("*.err")} == {
        "rank0.err",
        "rank1.err",
    }
    row = json.loads((one.path / "row.json").read_text())
    assert row["step"] == 60 and set(row["scores"]) == {"classify.linear", "classify.knn"}
    report = command("ssvid.sweep", "report", str(out))
    assert (
        json.loads(report.stdout)["best"]["cells"] == [one.hash] and (out / "report.html").exists()
    )


def test_from_another_folder_relative_paths_stay_what_they_are(
    sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of the sweep, of its base and of its data; and of a later submit from elsewhere.

    Names may hold spaces.
    """
    folder = tmp_path / "my sweeps"
    folder.mkdir()
    file = Path(sweep(grid={"seed": [0]}, set={"data.root": "the set", "steps": 4}))
    (folder / "base.yaml").write_text(yaml.safe_dump(SMALL))
    (folder / "s.yaml").write_text(
        yaml.safe_dump({**yaml.safe_load(file.read_text()), "base": "base.yaml"})
    )
    monkeypatch.chdir(folder)
    done = command("ssvid.sweep", "s.yaml", "--cluster", "local", "--wait")
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in folder.iterdir()} == {"base.yaml", "s.yaml", "the set", "runs"}
    monkeypatch.chdir(tmp_path)
    again = json.loads(command("ssvid.sweep", "status", str(folder / "runs" / "s")).stdout)
    assert again["finished"] == 1


@pytest.mark.nightly
def test_the_cell_of_a_killed_keeper_is_taken_by_its_sibling(sweep: Any, tmp_path: Path):
    out = tmp_path / "out"
    file = sweep(grid={"seed": [0, 1]}, set={"steps": 400})
    assert (
        command(
            "ssvid.sweep", file, "--out", str(out), "--cluster", "local", "--parallel", "2"
        ).returncode
        == 0
    )
    folder = SweepFolder(out)
    first = folder.cell(next(iter(folder.read()["cells"])))
    until(
        lambda: any((one.step or 0) > 10 for one in read_states(folder) if one.cell == first.hash)
    )
    os.kill(first.read_events()[0]["pid"], signal.SIGKILL)
    until(lambda: count_states(read_states(folder))["finished"] == 2)
    starts = [event["pid"] for event in first.read_events() if event["event"] == "start"]
    assert len(set(starts)) == 2
