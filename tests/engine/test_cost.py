"""What a run has cost: it grows over starts, and loaders are in it."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from ssvid.engine import cost, optim
from ssvid.errors import UserError
from tests.helpers import facts, metrics, run_pretrain


def test_cost_goes_on_over_starts(videos: Path, tmp_path: Path):
    out = tmp_path / "run"
    run_pretrain(videos, out)
    spent = [(m["cpu_s"], m["wall_s"]) for m in metrics(out) if "cpu_s" in m]
    assert len(spent) == 6 and spent == sorted(spent) and all(0 < value < 60 for value in spent[-1])
    with open(
        out / "metrics.jsonl", "a"
    ) as file:  # a step beyond the checkpoint, which will be undone
        file.write(
            json.dumps({"step": 7, "loss": 1.0, "cpu_s": 1000.0, "wall_s": 2000.0})
            + '\n{"step": 8, "cpu'
        )
    result = run_pretrain(videos, out, "--steps", "8")
    assert [m["step"] for m in metrics(out) if "cpu_s" in m] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert 1000 < metrics(out)[-2]["cpu_s"] < 1060 and 2000 < result["wall_s"] < 2060


def test_every_process_counts():
    spent = cost.Cost(None)
    total = spent.total([1.5, 2.5])
    assert total["cpu_s"] == 4.0 and total["wall_s"] >= 0


def burn() -> None:
    while time.process_time() < 0.3:
        pass
    time.sleep(60)


def test_living_loaders_count():
    child = multiprocessing.get_context("fork").Process(target=burn, daemon=True)
    child.start()
    try:
        spent, mine, until = cost.Cost(None), time.process_time(), time.monotonic() + 30
        while (
            others := spent.cpu() - (time.process_time() - mine)
        ) < 0.2 and time.monotonic() < until:
            time.sleep(0.05)
        assert others >= 0.2
    finally:
        child.terminate()
        child.join()


def test_rates_that_fall_by_steps():
    """MemDPC, CoCLR: a tenth from each milestone; without any the cosine goes on as before."""
    shape = {"peak": 1.0, "warmup": 2, "last": 0.0}
    rates = [optim.rate(step, 10, **shape, milestones=(6, 8)) for step in range(10)]
    assert rates == pytest.approx([0.0, 0.5, 1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert optim.rate(6, 10, **shape) == pytest.approx(0.5)
    assert optim.milestone_steps((0.6, 0.8), 10) == (6, 8)
    with pytest.raises(UserError, match=facts("300.0")):
        optim.milestone_steps((300.0,), 500)
