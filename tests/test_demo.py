"""The demo promises: over pretraining seeds the pretrained probe beats its untrained twin, and reads time alone."""

import json
from pathlib import Path

import pytest

from benchmarks.demo import demo

SEEDS = (0, 1, 2)


@pytest.mark.slow
def test_pretraining_gains_over_three_seeds(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("demo")
    gains = []
    for seed in SEEDS:
        found = demo(str(folder / str(seed)), seed=seed, cache=str(folder / "cache"))
        result = json.loads((folder / str(seed) / "probe" / f"{seed}.json").read_text())
        print(json.dumps(found))
        gains.append(found["pretrained"] - found["random"])
        assert found["pretrained"] > found["pixels"]
        assert result["data"]["clips"]["test"] >= 400
        for control in ("single_frame", "shuffled"):
            low, high = result["controls"][control]["interval"]
            margin = 0.02  # six intervals of 95 % are read here: one may miss by a little
            assert low - margin <= found["chance"] <= high + margin, f"{control} reads the label: {low} to {high}"
    assert sum(gains) / len(gains) >= 0.15 and min(gains) >= 0.08, gains


@pytest.mark.slow
def test_the_small_demo_ends_in_one_line(tmp_path: Path):
    from tests.helpers import command

    argv = ["--small", "--out", str(tmp_path / "demo"), "--cache", str(tmp_path / "cache")]
    result = command("benchmarks.demo", *argv)
    assert result.returncode == 0, result.stderr[-2000:]
    last = json.loads(result.stdout.splitlines()[-1])
    assert {"pretrained", "random", "pixels", "chance", "report"} <= last.keys()
    assert Path(last["report"]).exists()
