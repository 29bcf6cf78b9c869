"""A run that is told to leave: by whom, when, alone and among others; it goes on as if nothing had
been.
"""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from objectives.mae import MAE
from ssvid.cli import parse
from ssvid.engine.distributed import World
from ssvid.engine.stop import STOP_SIGNALS, Stop
from ssvid.errors import Stopped
from ssvid.finetune import finetune
from ssvid.hub import create_encoder
from ssvid.shapes import Batch, Loss
from ssvid.weights.encoders import save_encoder
from tests import warm
from tests.engine.pairs import Run
from tests.engine.test_run import same, weights
from tests.helpers import facts, metrics, pretrain_argv, run_pretrain, squares, tells, write_video

LAST, EVERY = 40, 1000  # steps; no checkpoint comes but by the signal, and at the end
LONG = (
    "--encoder.dropout",
    "0.2",
    "--steps",
    str(LAST),
    "--checkpoint_every",
    str(EVERY),
    "--log_every",
    "1",
)


def left(ended: list[tuple[int, str, str]], by: str, out: Path) -> int:
    """All exit with 75 and one line, without result or fault; return the checkpoint's step."""
    assert [code for code, _, _ in ended] == [75] * len(ended), ended[0][2][-2000:]
    lines = [line for _, _, said in ended for line in said.splitlines() if tells(line, by)]
    step = max(row["step"] for row in metrics(out))
    assert len(lines) == 1 and tells(lines[0], by, str(step)), lines
    for _, result, said in ended:
        assert (
            result == ""
            and "Traceback" not in said
            and "error:" not in said
            and "Error" not in said
        ), said[-2000:]
    assert [path.name for path in (out / "checkpoints").iterdir()] == [f"step_{step:08d}.pt"]
    return step


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("whole") / "run"
    run_pretrain(videos, out, *LONG)
    return weights(out)


@pytest.fixture(scope="module")
def undisturbed_pair(
    videos: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("pair") / "run"
    for rank in warm.run_ranks(
        "-m", "ssvid.pretrain", *pretrain_argv(videos, out, *LONG, "--workers", "1")
    ):
        assert rank.returncode == 0, rank.stderr[-2000:]
    return weights(out)


ALONE = [*((number, "0") for number in STOP_SIGNALS), (signal.SIGTERM, "2")]


@pytest.mark.parametrize("number, workers", ALONE)
def test_told_to_leave_it_goes_on_as_if_nothing_had_been(
    number: signal.Signals,
    workers: str,
    videos: Path,
    tmp_path: Path,
    undisturbed: dict[str, torch.Tensor],
):
    """The whole group is told, but loaders are spared: torch turns their end into a fault in the
    middle of a step.
    """
    out = tmp_path / "run"
    argv = pretrain_argv(videos, out, *LONG, "--workers", workers)
    with Run(argv) as run:
        step = left(run.at(out, 2).send(number).ended(), number.name, out)
    assert 2 <= step < LAST
    assert run_pretrain(videos, out, *LONG)["step"] == LAST
    assert same(weights(out), undisturbed)


@pytest.mark.parametrize(
    "rank, number", [(0, signal.SIGUSR2), (1, signal.SIGTERM), (None, signal.SIGTERM)]
)
def test_told_to_one_of_two_both_leave_at_the_same_step(
    rank: int | None,
    number: signal.Signals,
    videos: Path,
    tmp_path: Path,
    undisturbed_pair: dict[str, torch.Tensor],
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
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with Stop(World(0, 1, torch.device("cpu"))) as stop:
        assert stop.agree_on_signal() == 0
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.agree_on_signal() == signal.SIGUSR2
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_in_another_thread_signals_stay_as_they_are():
    def run() -> None:
        with Stop(World(0, 1, torch.device("cpu"))) as stop:
            found.append((stop.agree_on_signal(), signal.getsignal(signal.SIGTERM)))

    found: list[tuple[int, object]] = []
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(0, before)]


SMALL_VIT = {"dim": 24, "depth": 2, "heads": 2, "patch": 8, "frames": 4, "stride": 1, "size": 16}
EVERYWHERE = (
    "--encoder.dropout",
    "0.2",
    "--warmup",
    "0.5",
    "--checkpoint_every",
    "4",
    "--log_every",
    "2",
)


@pytest.mark.parametrize("skips", [False, True])
def test_stopped_at_every_step(
    skips: bool, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also where a checkpoint is due anyway, in the warm-up, and where the optimiser waits for a
    queue to fill.
    """
    forward = MAE.forward

    def some_skipped(self: MAE, batch: Batch) -> Loss:
        return forward(self, batch)._replace(skip=int(batch["index"][0]) % 2 == 0)

    def run(out: Path) -> int:
        return run_pretrain(videos, out, *EVERYWHERE, "--accumulate", "2")["step"]

    if skips:
        monkeypatch.setattr(MAE, "forward", some_skipped)
    run(tmp_path / "whole")
    monkeypatch.setattr(Stop, "agree_on_signal", lambda self: signal.SIGUSR2)
    out = tmp_path / "stopped"
    for step in range(1, 6):
        with pytest.raises(Stopped, match=facts("SIGUSR2", str(step))):
            run(out)
    assert run(out) == 6
    assert same(weights(out), weights(tmp_path / "whole"))
    losses = []
    for name in ("whole", "stopped"):
        losses.append(
            [(row["step"], row["loss"]) for row in metrics(tmp_path / name) if "loss" in row]
        )
    assert losses[0] == losses[1] and len(losses[0]) == 3, "a line counts steps of both starts"


def test_fine_tuning_leaves_and_goes_on_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_encoder(create_encoder("vit", **SMALL_VIT), tmp_path / "start", "encoder", {})
    for i in range(8):
        write_video(tmp_path / "clips" / f"{i}.mp4", squares(i))
    rows = [
        f"clips/{i}.mp4,{'ab'[i % 2]},{split},g{i}"
        for i, split in enumerate(["train"] * 4 + ["val", "test"] * 2)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["path,label,split,group", *rows]) + "\n")
    shared = [
        "--encoder",
        str(tmp_path / "start"),
        "--data",
        "csv",
        "--data.root",
        str(tmp_path / "rows.csv"),
    ]
    shared += [
        "--steps",
        "2",
        "--batch_size",
        "2",
        "--workers",
        "0",
        "--threads",
        "1",
        "--dropout",
        "0.3",
    ]
    shared += ["--test_clips", "1", "--test_crops", "1"]

    def run(out: Path) -> int:
        return finetune(**parse(finetune, [*shared, "--out", str(out)]))["step"]

    run(tmp_path / "whole")
    with monkeypatch.context() as told:
        told.setattr(Stop, "agree_on_signal", lambda self: signal.SIGTERM)
        with pytest.raises(Stopped, match=facts("SIGTERM", "1")):
            run(tmp_path / "stopped")
    assert run(tmp_path / "stopped") == 2
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))
