"""Cells -> jobs, by a SLURM of shell scripts: what is submitted, what is refused, what the queue
says.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from submitit.core.utils import DelayedSubmission

from ssvid.cli import parse
from ssvid.errors import UserError
from ssvid.sweep.__main__ import cancel, retry
from ssvid.sweep.__main__ import show_status as run_status
from ssvid.sweep.__main__ import submit as run
from ssvid.sweep.cluster import Cluster
from ssvid.sweep.folder import SweepFolder
from ssvid.sweep.keeper import keep
from ssvid.sweep.slurm import submit_arrays
from ssvid.sweep.status import count_states, read_states
from tests import warm
from tests.helpers import ROOT, command, facts, for_each, sentence, tells
from tests.sweep.fakes import BASE, TOOLS, sweep


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of what it was asked. Its commands come first on the path."""
    tools, records = tmp_path / "tools", tmp_path / "slurm"
    tools.mkdir()
    records.mkdir()
    for name, text in TOOLS.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_FAKE", str(records))
    warm.replace_subprocess(monkeypatch, "ssvid.sweep.submission")
    return records


def submit(file: str, out: Path, *flags: str) -> dict[str, Any]:
    return run(**parse(run, ["--sweep", file, "--out", str(out), *flags]))


def refuse(file: str, out: Path, *words: str) -> None:
    """Submitting is refused in one sentence that names `words`."""
    with pytest.raises(UserError, match=facts(*words)) as caught:
        submit(file, out)
    assert "\n" not in str(caught.value)


def scripts(slurm: Path) -> list[str]:
    return [file.read_text() for file in sorted(slurm.glob("submitted_*"))]


def test_what_the_cluster_is_asked_for(slurm: Path, tmp_path: Path):
    cluster = {
        "partition": "gpu",
        "account": "lab",
        "qos": "long",
        "constraint": "a100",
        "nodes": 2,
        "tasks": 4,
    }
    cluster |= {"gpus": 4, "cpus": 6, "memory": 100, "time": 300, "signal_delay": 60, "parallel": 2}
    cluster |= {"setup": ["module load ffmpeg"], "extra": {"reservation": "me", "exclusive": True}}
    assert (
        submit(sweep(tmp_path, grid={"seed": [0, 1, 2]}, cluster=cluster), tmp_path / "out")[
            "submitted"
        ]
        == 3
    )
    (text,) = scripts(slurm)
    for flag in (
        "partition=gpu account=lab qos=long constraint=a100 nodes=2 ntasks-per-node=4 "
        "gpus-per-node=4 cpus-per-task=6 mem=102400M time=300 signal=USR2@60 array=0-2%2"
        " reservation=me exclusive requeue"
    ).split():
        assert f"#SBATCH --{flag}\n" in text
    assert (
        "\nmodule load ffmpeg\n" in text and "\nsrun" not in text
    )  # the keeper itself starts the ranks


def test_again_only_what_is_neither_finished_nor_running(slurm: Path, tmp_path: Path):
    file, out = sweep(tmp_path, grid={"seed": [0, 1, 2, 3]}), tmp_path / "out"
    submit(file, out)
    folder = SweepFolder(out)
    cells = list(folder.read()["cells"])
    (first,) = folder.submissions()
    lines = [
        f"{first['job']}_{i}|{s}|n1|None|{first['name']}"
        for i, s in ((0, "RUNNING"), (1, "PENDING"))
    ]
    (slurm / "queue").write_text("\n".join(lines) + "\n")
    folder.cell(cells[2]).add_event(
        "start", stage="pretrain", logs="001-pretrain", host="n1", pid=1, node="n1"
    )
    (folder.cell(cells[2]).path / "row.json").write_text(json.dumps({"step": 10}))
    assert [one.state for one in read_states(folder)] == [
        "running",
        "queued",
        "finished",
        "stopped",
    ]
    assert submit(file, out)["submitted"] == 1
    assert folder.submissions()[1]["cells"] == [cells[3]]
    edited = sweep(
        tmp_path, grid={"seed": [1, 2, 3, 4]}
    )  # the file is edited: a cell is new, one is gone
    assert submit(edited, out)["submitted"] == 2  # 3 was submitted, but no queue knows it
    now = {one.name: (one.state, one.removed) for one in read_states(folder)}
    assert now["seed 0"] == ("running", True) and len(now) == 5 and not now["seed 4"][1]
    assert count_states(read_states(folder))["cells"] == 4


def test_a_submit_that_was_killed_leaves_no_job_unknown(slurm: Path, tmp_path: Path):
    """Between sbatch's answer and our note of it: the job's name tells."""
    submit(sweep(tmp_path, grid={"seed": [0, 1]}), tmp_path / "out")
    folder = SweepFolder(tmp_path / "out")
    file = next((folder.path / "submissions").iterdir())
    record = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in record.items() if key != "job"}))
    (slurm / "queue").write_text(f"99_1|RUNNING|n1|None|{record['name']}\n")
    assert [one.state for one in read_states(folder)] == ["stopped", "running"]


def test_where_the_queue_is_silent_nothing_is_submitted_twice(slurm: Path, tmp_path: Path):
    file, out = sweep(tmp_path, grid={"seed": [0, 1]}), tmp_path / "out"
    submit(file, out)
    (tmp_path / "tools" / "squeue").write_text(
        "#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n"
    )
    assert count_states(read_states(SweepFolder(out)))["unknown"] == 2
    refuse(file, out, "squeue")
    assert len(scripts(slurm)) == 1
    with pytest.raises(UserError, match=facts("squeue")):
        cancel(str(out))


def test_a_job_keeps_the_shape_it_was_submitted_with(slurm: Path, tmp_path: Path):
    """An edited sweep file asks for other nodes: jobs in the queue have theirs."""
    out = tmp_path / "out"
    submit(sweep(tmp_path, grid={"seed": [0, 1]}, cluster={"nodes": 1}), out)
    (one,) = SweepFolder(out).submissions()
    (slurm / "queue").write_text(
        "".join(f"{one['job']}_{i}|PENDING||x|{one['name']}\n" for i in range(2))
    )
    assert (
        submit(sweep(tmp_path, grid={"seed": [0, 1]}, cluster={"nodes": 2}), out)["submitted"] == 0
    )
    for file in (out / "jobs" / "0001").glob("*_submitted.pkl"):
        job = DelayedSubmission.load(file)
        assert job.function.__name__ == "keep" and job.args[2]["nodes"] == 1


def test_two_sweeps_of_one_name_do_not_mix(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    first, second = (
        sweep(tmp_path, grid={"seed": [0]}),
        sweep(tmp_path / "other", grid={"seed": [1]}),
    )
    assert run(**parse(run, ["--sweep", first]))["out"] == "runs/try"
    with pytest.raises(UserError, match=facts("try.yaml", "--out")):
        run(**parse(run, ["--sweep", second]))
    assert (
        run(**parse(run, ["--sweep", sweep(tmp_path, grid={"seed": [0]}, name="mine")]))["out"]
        == "runs/mine"
    )
    assert (
        run_status(first)["cells"] == 1 and run_status(first)["out"] == "runs/mine"
    )  # by its name, not its file's


def test_a_damaged_submission_is_one_sentence(slurm: Path, tmp_path: Path):
    submit(sweep(tmp_path, grid={"seed": [0]}), tmp_path / "out")
    file = next((tmp_path / "out" / "submissions").iterdir())
    file.write_text(file.read_text()[:50])
    with pytest.raises(UserError, match=facts("0001.json")):
        read_states(SweepFolder(tmp_path / "out"))


def test_data_that_is_not_seen_from_here_is_told(
    slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    base = {**BASE, "data": {"name": "folder", "root": "no/such"}}
    submit(sweep(tmp_path, base=base, grid={"seed": [0]}), tmp_path / "out")
    assert tells(capsys.readouterr().err, "no/such")


def test_arrays_are_split_and_share_the_limit(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ssvid.sweep.slurm.read_max_array", lambda: 4)
    folder = SweepFolder(tmp_path / "out")
    submit_arrays(folder, "s", [f"c{i}" for i in range(10)], Cluster(parallel=5), keep)
    arrays = [line for line in "\n".join(scripts(slurm)).splitlines() if "--array" in line]
    assert arrays == ["#SBATCH --array=0-3%2", "#SBATCH --array=0-3%2", "#SBATCH --array=0-1%1"]
    assert [len(one["cells"]) for one in folder.submissions()] == [4, 4, 2]


def test_refused_before_anything_is_submitted(slurm: Path, tmp_path: Path):
    out = tmp_path / "out"
    file = sweep(tmp_path, grid={"seed": [0]}, cluster={"partition": "nowhere"})
    refuse(file, out, "Invalid partition name specified")  # as sbatch says it
    assert not (out / "sweep.json").exists() and not scripts(slurm)


def test_refused_in_the_middle(slurm: Path, tmp_path: Path):
    (slurm / "full").touch()
    file = sweep(tmp_path, grid={"seed": [0, 1]})
    refuse(file, tmp_path / "out", "Job violates limits")
    assert count_states(read_states(SweepFolder(tmp_path / "out")))["waiting"] == 2
    (slurm / "full").unlink()
    assert submit(file, tmp_path / "out")["submitted"] == 2


def test_no_slurm(tmp_path: Path):
    bare = tmp_path / "bin"
    bare.mkdir()
    file = sweep(tmp_path, grid={"seed": [0]})
    message = sentence(command("ssvid.sweep", file, "--out", str(tmp_path / "out"), PATH=str(bare)))
    assert tells(message, "sbatch", "--cluster") and not (tmp_path / "out").exists()


def test_folders_that_cannot_be(slurm: Path, tmp_path: Path):
    file = sweep(tmp_path, grid={"seed": [0]})
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "thesis.tex").touch()
    (tmp_path / "plain").touch()
    refuse(file, tmp_path / "strange", "thesis.tex")
    for folder in (tmp_path / "plain", Path("/proc/sweep")):
        refuse(file, folder, str(folder))
    assert not scripts(slurm)


def test_a_full_disk_submits_nothing(slurm: Path, tmp_path: Path):
    file = sweep(tmp_path, grid={"seed": [0]})
    message = sentence(
        command("ssvid.sweep", file, "--out", str(tmp_path / "full"), limit=200), code=3
    )
    assert tells(message, str(tmp_path / "full")) and not scripts(slurm)
    assert not (tmp_path / "full" / "sweep.json").exists()


@for_each(
    "suite, best, word",
    [
        ("quik", None, "quick"),
        ({"suite": "quick", "clpis": 3}, None, "clpis"),
        ("quick", "linear", "classify.knn"),
    ],
)
def test_a_suite_that_cannot_be(
    suite: Any, best: str | None, word: str, slurm: Path, tmp_path: Path
):
    refuse(sweep(tmp_path, grid={"seed": [0]}, suite=suite, best=best), tmp_path / "o", word)
    assert not (tmp_path / "o").exists()


def test_a_word_that_is_none(tmp_path: Path):
    with pytest.raises(UserError, match=facts("stauts", "status")):
        run(**parse(run, ["--sweep", "stauts"]))


def test_dry_run_shows_and_makes_nothing(
    slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = sweep(tmp_path, grid={"seed": [0, 1]}, cluster={"partition": "gpu"})
    assert submit(file, tmp_path / "out", "--dry-run")["cells"] == 2
    message = capsys.readouterr().err
    assert tells(message, "--partition=gpu") and "seed 1" in message
    assert not (tmp_path / "out").exists() and not scripts(slurm)


def test_cancel_takes_what_is_in_the_queue(slurm: Path, tmp_path: Path):
    out = tmp_path / "out"
    submit(sweep(tmp_path, grid={"seed": [0, 1]}), out)
    (one,) = SweepFolder(out).submissions()
    (slurm / "queue").write_text(f"{one['job']}_1|PENDING||Priority|{one['name']}\n")
    assert cancel(str(out))["cancelled"] == 1
    assert (slurm / "cancelled").read_text() == f"{one['job']}_1\n"
    (slurm / "queue").write_text("")
    assert [state.state for state in read_states(SweepFolder(out))] == ["stopped", "cancelled"]


def test_status_imports_nothing_that_takes_time():
    code = "import sys, ssvid.cli, ssvid.sweep.status, ssvid.sweep.__main__, ssvid.sweep.keeper;"
    code += "print([name for name in ('torch', 'numpy', 'submitit', 'av') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert answer.stdout.strip() == "[]", answer.stdout + answer.stderr


def test_logs_and_names(slurm: Path, tmp_path: Path):
    out = tmp_path / "out"
    submit(sweep(tmp_path, grid={"seed": [0, 1]}), out)
    cell = next(iter(SweepFolder(out).read()["cells"]))
    folder = SweepFolder(out).cell(cell)
    folder.add_event("start", stage="pretrain", logs="001-pretrain", host="n1", pid=1, node="n1")
    (folder.logs / "001-pretrain").mkdir(parents=True)
    (folder.logs / "001-pretrain" / "rank1.err").write_text("a\nerror: b\n")
    done = command("ssvid.sweep", "logs", cell[:6], str(out))
    assert tells(done.stderr, "rank1.err", "error: b", "start", "pretrain")
    assert tells(sentence(command("ssvid.sweep", "logs", "zz", str(out))), "0", "zz")
    assert tells(sentence(command("ssvid.sweep", "status", str(tmp_path))), str(tmp_path))
    (out / "sweep.json").write_text("{")
    with pytest.raises(UserError, match=facts("sweep.json")):
        SweepFolder(out).read()
    submit(sweep(tmp_path, grid={"seed": [0, 1]}), out)
    assert cell in SweepFolder(out).read()["cells"]


def test_retry_gives_failed_cells_new_tries(slurm: Path, tmp_path: Path):
    out = tmp_path / "out"
    file = sweep(tmp_path, grid={"seed": [0, 1]})
    submit(file, out)
    folder = SweepFolder(out)
    cell = folder.cell(next(iter(folder.read()["cells"])))
    cell.add_event("end", stage="pretrain", how="failed", said="x", mark="")
    (cell.path / "failed.json").write_text(
        json.dumps({"why": "x", "times": 3, "stage": "pretrain", "lines": []})
    )
    assert submit(file, out)["submitted"] == 1  # the other, which no queue knows
    with pytest.raises(UserError, match=facts("--failed")):
        retry(str(out))
    assert retry(str(out), failed=True)["submitted"] == 2
    assert not cell.failed and cell.read_events()[-1]["event"] == "retry"
