"""Every command is interrupted at seeded moments; the same command again gives the same bits.

Nightly: nine commands, each killed three times and once sent SIGTERM, SIGINT and SIGUSR1.
"""

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from tests import warm
from tests.helpers import ROOT, metrics, pretrain_argv, squares, write_video

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

SIGNALS = (*[signal.SIGKILL] * 3, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
LIMIT_S = 300.0  # no command of these takes as long
# Entries of results that say what a run cost, where it lies and when it was.
UNCOMPARED = {"cost", "cpu_s", "wall_s", "commit", "command", "config", "time", "date", "starts"}
SET = {"train": 24, "val": 12, "test": 12}
NARRATED = {"train": 8, "val": 2, "test": 2, "seconds": 32}
NET = {"dim": 24, "depth": 1, "heads": 2, "patch": 8, "frames": 4, "stride": 1, "size": 16}
LONG = ("--encoder.dropout", "0.2", "--workers", "2", "--steps", "60", "--log_every", "5")
Results = dict[str, Any]


class Inputs(NamedTuple):
    """What the commands read. It is made once."""

    folder: Path

    @property
    def videos(self) -> Path:
        return self.folder / "videos"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def features(self) -> Path:
        return self.folder / "features"

    def list_data_flags(self) -> list[str]:
        flags = ["--data", "synthetic", "--data.root", str(self.folder / "set")]
        for split, count in SET.items():
            flags += [f"--data.{split}", str(count)]
        return [*flags, "--workers", "0", "--threads", "1"]


class Command(NamedTuple):
    argv: Callable[[Inputs, Path], list[str]]  # the words after `python`, for a folder of results
    read_results: Callable[[Path], Results]


def hash_files(folder: Path, *patterns: str) -> Results:
    hashes = {}
    for pattern in patterns:
        for file in sorted(folder.rglob(pattern)):
            name = file.relative_to(folder).as_posix()
            hashes[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return hashes


def read_run(out: Path) -> Results:
    """The exported weights and all losses of a run. The card beside them names the run's folder."""
    losses = [(row["step"], row["loss"]) for row in metrics(out) if "loss" in row]
    return {**hash_files(out, "*.safetensors"), "losses": losses}


def read_arrays(out: Path) -> Results:
    with np.load(out / "features.npz") as arrays:
        return {name: hashlib.sha256(arrays[name].tobytes()).hexdigest() for name in arrays.files}


def read_json_files(out: Path) -> Results:
    results = {}
    for file in sorted(out.rglob("*.json")):
        results[file.name] = drop_uncompared(json.loads(file.read_text()))
    return results


def read_rows(out: Path) -> Results:
    """The rows of a sweep's cells, and the weights of their runs."""
    rows = {}
    for file in sorted(out.glob("cells/*/row.json")):
        rows[file.parent.name] = drop_uncompared(json.loads(file.read_text()))
    return {**rows, **hash_files(out / "cells", "encoder.safetensors")}


def drop_uncompared(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: drop_uncompared(v) for k, v in content.items() if k not in UNCOMPARED}
    return [drop_uncompared(part) for part in content] if isinstance(content, list) else content


def list_pretrain_words(inputs: Inputs, out: Path) -> list[str]:
    return ["-m", "ssvid.pretrain", *pretrain_argv(inputs.videos, out, *LONG)]


def list_finetune_words(inputs: Inputs, out: Path) -> list[str]:
    words = ["-m", "ssvid.finetune", "--encoder", str(inputs.run), *inputs.list_data_flags()]
    words += ["--out", str(out), "--steps", "40", "--batch_size", "4", "--checkpoint_every", "5"]
    return [*words, "--test_clips", "1", "--test_crops", "1", "--dropout", "0.1"]


def list_tan_words(inputs: Inputs, out: Path) -> list[str]:
    sizes = {"features": 24, "dim": 16, "heads": 2, "video_layers": 1, "joint_layers": 1}
    options = {"length": 6, "width": 8, "hidden": 16, "dim": 16, "buckets": 64}
    recipe = {
        "objective": {"name": "tan", **sizes, "options": options},
        "data": {
            "name": "synthetic_narrated",
            "root": str(inputs.folder / "narrated"),
            "features": str(inputs.features),
            **NARRATED,
        },
        **{"steps": 60, "batch_size": 4, "workers": 0, "threads": 1, "checkpoint_every": 5},
    }
    file = inputs.folder / "tan.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return ["-m", "ssvid.pretrain", "--config", str(file), "--out", str(out)]


def list_sweep_words(inputs: Inputs, out: Path) -> list[str]:
    data = {"name": "synthetic", **SET, "root": str(inputs.folder / "set")}
    base = {
        "objective": {"name": "mae", "dec_dim": 16, "dec_depth": 1, "dec_heads": 2},
        "encoder": {"name": "vit", **NET},
        "data": data,
        **{"steps": 40, "batch_size": 4, "workers": 0, "threads": 1, "checkpoint_every": 5},
    }
    suite = {"suite": "quick", "data": data, "threads": 1, "workers": 0}
    suite["cache"] = str(inputs.folder / "cache")  # the hash of a cell counts it
    file = inputs.folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"base": base, "grid": {"seed": [0, 1]}, "suite": suite}))
    words = ["-m", "ssvid.sweep", str(file), "--out", str(out)]
    return [*words, "--cluster", "local", "--parallel", "2", "--wait"]


def list_bench_words(inputs: Inputs, out: Path) -> list[str]:
    words = ["-m", "benchmarks.run", "--encoder", str(inputs.run), "--suite", "quick"]
    words += inputs.list_data_flags()
    return [*words, "--out", str(out / "results"), "--cache", str(out / "cache")]


def list_extract_words(inputs: Inputs, out: Path) -> list[str]:
    words = ["-m", "ssvid.extract", "--encoder", str(inputs.run), "--data", "folder"]
    words += ["--data.root", str(inputs.videos), "--workers", "0", "--clips", "8"]
    return [*words, "--out", str(out / "features.npz")]


def list_store_words(inputs: Inputs, out: Path) -> list[str]:
    words = ["-m", "ssvid.extract", "--encoder", str(inputs.run), "--data", "folder"]
    words += ["--data.root", str(inputs.videos), "--workers", "0", "--per_second"]
    return [*words, "--out", str(out)]


def list_prepare_words(inputs: Inputs, out: Path) -> list[str]:
    words = ["-m", "ssvid.data.prepare", "--source", str(inputs.folder / "long")]
    return [*words, "--out", str(out), "--workers", "2", "--short_side", "64"]


def list_flow_words(inputs: Inputs, out: Path) -> list[str]:
    words = ["-m", "ssvid.data.flow", "--data", "folder", "--data.root", str(inputs.videos)]
    return [*words, "--out", str(out), "--workers", "2"]


def list_words_of_two(inputs: Inputs, out: Path) -> list[str]:
    ranks = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    return [*ranks, "-m", "ssvid.pretrain", *pretrain_argv(inputs.videos, out, *LONG)]


COMMANDS = {
    "pretrain": Command(list_pretrain_words, read_run),
    "finetune": Command(list_finetune_words, read_run),
    "tan": Command(list_tan_words, read_run),
    "two_processes": Command(list_words_of_two, read_run),
    "prepare": Command(list_prepare_words, lambda out: hash_files(out, "*.mp4")),
    "flow": Command(list_flow_words, lambda out: hash_files(out, "*.mkv")),
    "extract": Command(list_extract_words, read_arrays),
    "store": Command(list_store_words, lambda out: hash_files(out, "*.npy", "store.json")),
    "benchmarks": Command(list_bench_words, lambda out: read_json_files(out / "results")),
    "sweep": Command(list_sweep_words, read_rows),
}


@pytest.fixture(scope="module")
def inputs(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    inputs = Inputs(tmp_path_factory.mktemp("inputs"))
    inputs.videos.symlink_to(videos)
    for number in range(8):
        write_video(inputs.folder / "long" / f"{number}.mp4", squares(number, frames=60, size=128))
    flags = [f"--encoder.{key}={value}" for key, value in NET.items()]
    argv = pretrain_argv(inputs.videos, inputs.run, *flags, "--steps", "3")
    finish(["-m", "ssvid.pretrain", *argv])
    words = ["-m", "ssvid.extract", "--encoder", str(inputs.run), "--data", "synthetic_narrated"]
    words += ["--data.root", str(inputs.folder / "narrated")]
    words += [f"--data.{name}={value}" for name, value in NARRATED.items()]
    finish([*words, "--per_second", "--workers", "0", "--out", str(inputs.features)])
    return inputs


def finish(words: list[str]) -> float:
    """Run a command to its end, and return the seconds that it took."""
    began = time.monotonic()
    process = warm.start(*words)
    _, errors = process.communicate(LIMIT_S)
    assert process.returncode == 0, errors[-3000:]
    return time.monotonic() - began


def interrupt(words: list[str], number: signal.Signals, after_s: float) -> bool:
    """Start a command and interrupt it after some seconds; False if it had ended before.

    Ctrl-C and kill -9 reach the whole process group; other signals reach the first process.
    """
    process = warm.start(*words)
    time.sleep(after_s)
    had_ended = process.poll() is not None
    if not had_ended and number in (signal.SIGKILL, signal.SIGINT):
        os.killpg(process.pid, number)
    elif not had_ended:
        os.kill(process.pid, number)
    process.wait(LIMIT_S)
    assert had_ended or process.returncode != 0 or number != signal.SIGKILL
    return not had_ended


@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupted_command_gives_the_same_bits(
    name: str, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    command, chance = COMMANDS[name], random.Random(name)
    seconds = finish(command.argv(inputs, tmp_path / "calm"))
    expected = command.read_results(tmp_path / "calm")
    assert expected
    hits = 0
    for trial, number in enumerate(SIGNALS):
        out = tmp_path / f"{trial}_{number.name}"
        words = command.argv(inputs, out)
        hits += interrupt(words, number, chance.uniform(0.15, 0.9) * seconds)
        finish(words)
        assert command.read_results(out) == expected, f"{name} after {number.name}"
        assert not list(out.rglob("*.tmp")) + list(out.rglob("*.part")), number.name
    assert hits >= len(SIGNALS) // 2, f"{name} had ended before most interruptions came"
    print(f"{name}: {hits} of {len(SIGNALS)} interruptions hit; {seconds:.1f} s undisturbed")
