"""Runs as processes: killed, crowded out, out of disk, shared between two."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore

from ssvid.engine import rendezvous, run
from ssvid.engine.checkpoint import RunFolder
from ssvid.engine.distributed import World, read_slurm
from ssvid.engine.rendezvous import Peers, host_name
from ssvid.errors import RunError
from ssvid.files import Locked, locked
from tests import warm
from tests.engine.pairs import Run, meeting_point, metrics_so_far
from tests.engine.test_run import same, weights
from tests.helpers import command, facts, metrics, pretrain_argv, run_pretrain, sentence, tells
from tests.warm import run_ranks

LONG = (
    "--encoder.dropout",
    "0.2",
    "--workers",
    "2",
    "--steps",
    "60",
    "--checkpoint_every",
    "5",
    "--log_every",
    "5",
)


def start(videos: Path, out: Path, *more: str) -> warm.Process:
    return warm.start("-m", "ssvid.pretrain", *pretrain_argv(videos, out, *LONG, *more))


def kill_after(process: warm.Process, out: Path, step: int) -> bool:
    """kill -9 the whole group once a step is logged; False if it ended before."""
    while process.poll() is None:
        if (out / "metrics.jsonl").exists() and any(m["step"] >= step for m in metrics_so_far(out)):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.005)
    return False


HOLDER = """
import multiprocessing, sys, time
from pathlib import Path
from ssvid.files import locked

def live():
    print("held", flush=True)  # the loader itself: by now it has let go of the lock
    time.sleep(60)

with locked(Path(sys.argv[1]), wait=False, what="it"):
    multiprocessing.get_context("fork").Process(target=live).start()
    time.sleep(60)
"""


def test_a_lock_goes_with_its_process_though_a_loader_lives_on(tmp_path: Path):
    path = tmp_path / "lock"
    argv = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
            with pytest.raises(Locked, match=str(holder.pid)):
                with locked(path, wait=False, what="it"):
                    pass
            holder.kill()
            holder.wait()
            with locked(path, wait=False, what="it"):
                assert path.read_text().endswith(f"process {os.getpid()}")
            with locked(path, wait=False, what="it"):
                pass
        finally:
            os.killpg(holder.pid, signal.SIGKILL)  # the child that lives on


@pytest.mark.nightly
def test_killed_at_random_steps_it_ends_with_the_same_weights(videos: Path, tmp_path: Path):
    assert start(videos, tmp_path / "whole").wait() == 0
    chance, kills = random.Random(), 0
    for _ in range(3):
        kills += kill_after(
            start(videos, tmp_path / "killed"), tmp_path / "killed", chance.randint(5, 55)
        )
    assert kills > 0
    assert start(videos, tmp_path / "killed").wait() == 0
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    losses = [
        [m["loss"] for m in metrics(tmp_path / name) if "loss" in m] for name in ("whole", "killed")
    ]
    assert losses[0] == losses[1]


def test_a_full_disk_is_one_sentence_and_loses_nothing(videos: Path, tmp_path: Path):
    out = tmp_path / "full"
    run_pretrain(videos, out)
    before, size = weights(out), (out / "checkpoints" / "step_00000006.pt").stat().st_size
    argv = pretrain_argv(videos, out, "--steps", "9")
    said = sentence(command("ssvid.pretrain", *argv, limit=size // 2), code=3)
    assert tells(said, "step_00000009.pt")
    assert same(weights(out), before) and not list(out.rglob("*.tmp"))
    assert run_pretrain(videos, out, "--steps", "9")["step"] == 9


def test_a_second_writer_is_refused(videos: Path, tmp_path: Path):
    out = tmp_path / "run"
    first = start(videos, out, "--steps", "100000")
    try:
        while not (out / "metrics.jsonl").exists():
            assert first.poll() is None
            time.sleep(0.02)
        said = sentence(
            command("ssvid.pretrain", *pretrain_argv(videos, out, *LONG, "--steps", "100000"))
        )
        assert tells(said, str(first.pid))
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()


@pytest.mark.parametrize("host, port", [("no-such-host.invalid", "29500"), ("127.0.0.1", "taken")])
def test_processes_that_cannot_meet(host: str, port: str, videos: Path, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = str(server.getsockname()[1]) if port == "taken" else port
        where = {"MASTER_ADDR": host, "MASTER_PORT": number, "RANK": "0", "WORLD_SIZE": "2"}
        said = sentence(
            command("ssvid.pretrain", *pretrain_argv(videos, tmp_path / "a"), **where), code=3
        )
    assert tells(said, "0", "2", f"{host}:{number}")


@pytest.mark.parametrize("fault, timeout", [(signal.SIGKILL, "600"), (signal.SIGSTOP, "6")])
def test_a_lost_process_is_named(fault: signal.Signals, timeout: str, videos: Path, tmp_path: Path):
    """Killed, or only hanging: the others end within their time-out and say which."""
    argv = pretrain_argv(videos, tmp_path / "run", "--steps", "100000", "--timeout_s", timeout)
    with Run(argv, size=2) as pair:
        first = pair.at(tmp_path / "run", 1).send(fault, rank=1).ranks[0]
        out, err = first.communicate(timeout=120)
        said = sentence(subprocess.CompletedProcess(argv, first.wait(), out, err), code=3)
    assert tells(said, "0", "2", "1", host_name())


@pytest.mark.parametrize(
    "answer, timeout", [(b"", "2"), (b"", "600"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "600")]
)
def test_a_stranger_takes_the_call(answer: bytes, timeout: str, videos: Path, tmp_path: Path):
    """Long before --timeout_s, which is for processes that start later than this one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answering, args=(server, answer), daemon=True).start()
        port = str(server.getsockname()[1])
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "1", "WORLD_SIZE": "2"}
        argv = pretrain_argv(videos, tmp_path, "--timeout_s", timeout)
        said = sentence(command("ssvid.pretrain", *argv, **where), code=3)
    assert tells(said, "1", "2", f"127.0.0.1:{port}")


def answering(server: socket.socket, answer: bytes) -> None:
    with contextlib.ExitStack() as lines, contextlib.suppress(OSError):  # the test has ended
        while True:
            line = lines.enter_context(server.accept()[0])
            if answer:
                line.sendall(answer)


def test_the_store_of_another_run_is_none_of_ours():
    store = HashStore()
    Peers(store, 0, 2, run="7.0.0").await_first(5.0)
    with pytest.raises(RuntimeError):
        Peers(store, 1, 2, run="7.1.0").await_first(0.1)


def test_who_never_came_is_named(videos: Path, tmp_path: Path):
    where = meeting_point(size=4)
    argv = pretrain_argv(videos, tmp_path / "run", "--timeout_s", "10")
    ranks = [
        warm.start("-m", "ssvid.pretrain", *argv, env={**where, "RANK": rank}) for rank in "02"
    ]
    said = [(process.communicate(timeout=120), process.wait()) for process in ranks]
    for (out, err), code in said:
        sentence(subprocess.CompletedProcess(argv, code, out, err), code=3)
    assert tells(said[0][0][1], "process 1", "process 3")


FAULTY = """
import os, signal, time
from ssvid import pretrain
from ssvid.cli import run_command
from ssvid.engine import run
%s
run_command("pretrain")
"""
STOPS = "pretrain.build = lambda *_: os.kill(os.getpid(), signal.SIGSTOP)"
STARVES = "run.train_loader = lambda *_, **__: (time.sleep(1000) for _ in range(1))"


@pytest.mark.parametrize("fault, word", [(STOPS, "lost"), (STARVES, "clips")])
def test_a_process_that_hangs_is_named_with_its_host(
    fault: str, word: str, videos: Path, tmp_path: Path
):
    """In the building, before the first step; and one that is alive, whose data never come."""
    where = meeting_point(size=2)
    argv = pretrain_argv(videos, tmp_path / "run", "--timeout_s", "10")
    with warm.start("-c", FAULTY % fault, *argv, env={**where, "RANK": "1"}) as hangs:
        try:
            said = sentence(command("ssvid.pretrain", *argv, **where, RANK="0"), code=3)
        finally:
            hangs.kill()
    assert tells(said, "0", "2", "1", host_name(), word), said


def test_a_checkpoint_that_one_node_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "LISTING_DELAY_S", 0.1)
    monkeypatch.setattr(run, "gather", lambda value, world: [5, value])
    with pytest.raises(RunError, match=facts("1", "5")):
        run.find_newest_checkpoint(RunFolder(tmp_path), World(1, 2, torch.device("cpu")))


def test_the_first_names_the_silent_while_it_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(rendezvous, "BEAT_S", 0.1)
    monkeypatch.setattr(rendezvous, "SILENT_S", 2.0)
    store = HashStore()
    all_three = [Peers(store, rank, 3) for rank in range(3)]
    all_three[2].ended.set()
    all_three[0].await_all(5.0)
    said, deadline = "", time.monotonic() + 60
    while not said and time.monotonic() < deadline:
        time.sleep(0.1)
        said += capsys.readouterr().err
    for one in all_three:
        one.ended.set()
    assert said.count("\n") == 1 and tells(said, "warning", "2", host_name())


SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "3",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "n[2-3]",
}
SRUN |= {
    "SLURM_JOB_NODELIST": "n[1-4]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


def test_what_srun_says(monkeypatch: pytest.MonkeyPatch):
    """Of the step, not of its job.

    A port that was chosen stays; else each step and each start of a job has its own.
    """
    for key in ("MASTER_ADDR", "MASTER_PORT", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(key, raising=False)
    for key, value in SRUN.items():
        monkeypatch.setenv(key, value)
    first = read_slurm()
    assert first == read_slurm() and 20000 <= int(first.pop("MASTER_PORT")) < 32768
    assert first == {"MASTER_ADDR": "n2", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    ports = set()
    for step, restarts in (("3", "0"), ("4", "0"), ("3", "1")):
        monkeypatch.setenv("SLURM_STEP_ID", step)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        ports.add(read_slurm()["MASTER_PORT"])
    assert len(ports) == 3
    monkeypatch.setenv("MASTER_PORT", "12345")
    assert read_slurm()["MASTER_PORT"] == "12345"


def two(videos: Path, out: Path, *more: str) -> str:
    """The run as two processes; what they printed."""
    ranks = run_ranks("-m", "ssvid.pretrain", *pretrain_argv(videos, out, *more))
    for result in ranks:
        assert result.returncode == 0, result.stderr[-2000:]
    return "".join(result.stdout for result in ranks)


def test_two_processes_are_one(videos: Path, tmp_path: Path):
    """Same samples, same masks, averaged gradients: the losses of 2 ranks are those of 1."""
    run_pretrain(videos, tmp_path / "one")
    said = two(videos, tmp_path / "two")
    assert len([line for line in said.splitlines() if line.startswith("{")]) == 1
    one, rows = weights(tmp_path / "one"), metrics(tmp_path / "one")
    assert max(float((one[k] - weights(tmp_path / "two")[k]).abs().max()) for k in one) < 1e-4
    for key in ("loss", "grad_norm"):
        pairs = list(zip(rows, metrics(tmp_path / "two"), strict=True))
        assert all(abs(a[key] - b[key]) < 1e-3 * a[key] for a, b in pairs if key in a)


def test_two_processes_go_on_where_one_stopped(videos: Path, tmp_path: Path):
    run_pretrain(videos, tmp_path / "one")
    whole = weights(tmp_path / "one")
    (tmp_path / "one" / "checkpoints" / "step_00000006.pt").unlink()
    two(videos, tmp_path / "one")
    assert (
        max(float((whole[k] - v).abs().max()) for k, v in weights(tmp_path / "one").items()) < 1e-4
    )
