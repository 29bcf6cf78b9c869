"""A run that is told to leave: by whom, when, alone and among others; it goes on as if nothing had been."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import torch

from objectives.mae import MAE
from ssvid.cli import parse
from ssvid.engine.distributed import World
from ssvid.engine.stop import HEEDED, Stop
from ssvid.errors import Stopped
from ssvid.finetune import finetune
from ssvid.hub import create_encoder
from ssvid.shapes import Batch, Loss
from ssvid.weights.encoders import save_encoder
from tests import warm
from tests.engine.test_faults import metrics_so_far
from tests.engine.test_run import same, weights
from tests.helpers import metrics, pretrain_argv, run_pretrain, squares, write_video

LAST, EVERY = 40, 1000  # steps; no checkpoint comes but by the signal, and at the end
LONG = ("--encoder.dropout", "0.2", "--steps", str(LAST), "--checkpoint_every", str(EVERY), "--log_every", "1")


class Run:
    """The processes of one run, in a group of their own."""

    def __init__(self, argv: list[str], size: int = 1, module: str = "ssvid.pretrain") -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = str(server.getsockname()[1])
        self.ranks = []
        for rank in range(size):
            env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            env |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
            group = self.ranks[0].pid if self.ranks else 0
            self.ranks.append(warm.start("-m", module, *argv, env=env, group=group))

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.ranks:
            process.kill()
            process.communicate()

    def at(self, out: Path, step: int) -> "Run":
        """Once a step is logged."""
        while not any(row["step"] >= step for row in metrics_so_far(out)):
            assert self.ranks[0].poll() is None, self.ranks[0].communicate()[1]
            time.sleep(0.005)
        return self

    def send(self, number: signal.Signals, rank: int | None = None) -> "Run":
        """To one process, or to the whole group, its loaders too."""
        if rank is None:
            os.killpg(self.ranks[0].pid, number)
        else:
            self.ranks[rank].send_signal(number)
        return self

    def ended(self) -> list[tuple[int, str, str]]:
        """code, stdout, stderr of each"""
        said = [process.communicate(timeout=240) for process in self.ranks]
        return [(process.wait(), *words) for process, words in zip(self.ranks, said, strict=True)]


def left(ended: list[tuple[int, str, str]], by: str, out: Path) -> int:
    """All with 75, one line, no result, no fault, and one checkpoint, of the step that is returned."""
    assert [code for code, _, _ in ended] == [75] * len(ended), ended[0][2][-2000:]
    lines = [line for _, _, said in ended for line in said.splitlines() if "stopped by" in line]
    step = max(row["step"] for row in metrics(out))
    expected = f"stopped by {by} at step {step}: the checkpoint is written; the same command goes on."
    assert lines == [expected]
    for _, result, said in ended:
        assert result == "" and "Traceback" not in said and "error:" not in said and "Error" not in said, said[-2000:]
    assert [path.name for path in (out / "checkpoints").iterdir()] == [f"step_{step:08d}.pt"]
    return step


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("whole") / "run"
    run_pretrain(videos, out, *LONG)
    return weights(out)


@pytest.fixture(scope="module")
def undisturbed_pair(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("pair") / "run"
    for rank in warm.run_ranks("-m", "ssvid.pretrain", *pretrain_argv(videos, out, *LONG, "--workers", "1")):
        assert rank.returncode == 0, rank.stderr[-2000:]
    return weights(out)


@pytest.mark.parametrize("number", HEEDED)
def test_told_to_leave_it_goes_on_as_if_nothing_had_been(
    number: signal.Signals, videos: Path, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
):
    out = tmp_path / "run"
    argv = pretrain_argv(videos, out, *LONG)
    with Run(argv) as run:
        step = left(run.at(out, 2).send(number).ended(), number.name, out)
    assert 2 <= step < LAST
    assert run_pretrain(videos, out, *LONG)["step"] == LAST
    assert same(weights(out), undisturbed)


def test_a_signal_to_the_whole_group_spares_the_loaders(
    videos: Path, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
):
    """torch turns the end of a loader process into a fault in the middle of a step."""
    out = tmp_path / "run"
    argv = pretrain_argv(videos, out, *LONG, "--workers", "2")
    with Run(argv) as run:
        left(run.at(out, 1).send(signal.SIGTERM).ended(), "SIGTERM", out)
    run_pretrain(videos, out, *LONG)
    assert same(weights(out), undisturbed)


@pytest.mark.parametrize("rank, number", [(0, signal.SIGUSR2), (1, signal.SIGTERM), (None, signal.SIGTERM)])
def test_told_to_one_of_two_both_leave_at_the_same_step(
    rank: int | None, number: signal.Signals, videos: Path, tmp_path: Path, undisturbed_pair: dict[str, torch.Tensor]
):
    out = tmp_path / "stopped"
    argv = pretrain_argv(videos, out, *LONG, "--workers", "1")
    with Run(argv, size=2) as run:
        left(run.at(out, 2).send(number, rank).ended(), number.name, out)
    with Run(argv, size=2) as again:
        for code, _, said in again.ended():
            assert code == 0 and "Error" not in said and "[W" not in said, said[-2000:]
    assert same(weights(out), undisturbed_pair)


def test_the_handlers_are_there_only_while_the_loop_runs():
    before = [signal.getsignal(number) for number in HEEDED]
    with Stop(World(0, 1, torch.device("cpu"))) as stop:
        assert stop.agreed() == 0
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.agreed() == signal.SIGUSR2
    assert [signal.getsignal(number) for number in HEEDED] == before


def test_in_another_thread_signals_stay_as_they_are():
    def run() -> None:
        with Stop(World(0, 1, torch.device("cpu"))) as stop:
            found.append((stop.agreed(), signal.getsignal(signal.SIGTERM)))

    found: list[tuple[int, object]] = []
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(0, before)]


SMALL_VIT = {"dim": 24, "depth": 2, "heads": 2, "patch": 8, "frames": 4, "stride": 1, "size": 16}
EVERYWHERE = ("--encoder.dropout", "0.2", "--warmup", "0.5", "--checkpoint_every", "4", "--log_every", "2")


@pytest.mark.parametrize("skips", [False, True])
def test_stopped_at_every_step(skips: bool, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also where a checkpoint is due anyway, in the warm-up, and where the optimiser waits for a queue to fill."""
    forward = MAE.forward

    def some_skipped(self: MAE, batch: Batch) -> Loss:
        return forward(self, batch)._replace(skip=int(batch["index"][0]) % 2 == 0)

    def run(out: Path) -> int:
        return run_pretrain(videos, out, *EVERYWHERE, "--accumulate", "2")["step"]

    if skips:
        monkeypatch.setattr(MAE, "forward", some_skipped)
    run(tmp_path / "whole")
    monkeypatch.setattr(Stop, "agreed", lambda self: signal.SIGUSR2)
    out = tmp_path / "stopped"
    for step in range(1, 6):
        with pytest.raises(Stopped, match=f"stopped by SIGUSR2 at step {step}: "):
            run(out)
    assert run(out) == 6
    assert same(weights(out), weights(tmp_path / "whole"))
    assert [row["step"] for row in metrics(out) if "loss" in row] == [1, 2, 3, 4, 5, 6]


def test_fine_tuning_leaves_and_goes_on_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_encoder(create_encoder("vit", **SMALL_VIT), tmp_path / "start", "encoder", {})
    for i in range(8):
        write_video(tmp_path / "clips" / f"{i}.mp4", squares(i))
    rows = [f"clips/{i}.mp4,{'ab'[i % 2]},{split},g{i}" for i, split in enumerate(["train"] * 4 + ["val", "test"] * 2)]
    (tmp_path / "rows.csv").write_text("\n".join(["path,label,split,group", *rows]) + "\n")
    shared = ["--encoder", str(tmp_path / "start"), "--data", "csv", "--data.root", str(tmp_path / "rows.csv")]
    shared += ["--steps", "2", "--batch_size", "2", "--workers", "0", "--threads", "1", "--dropout", "0.3"]
    shared += ["--test_clips", "1", "--test_crops", "1"]

    def run(out: Path) -> int:
        return finetune(**parse(finetune, [*shared, "--out", str(out)]))["step"]

    run(tmp_path / "whole")
    with monkeypatch.context() as told:
        told.setattr(Stop, "agreed", lambda self: signal.SIGTERM)
        with pytest.raises(Stopped, match="stopped by SIGTERM at step 1: "):
            run(tmp_path / "stopped")
    assert run(tmp_path / "stopped") == 2
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))
