"""Every command once as the interpreter itself starts it: what tests/warm.py leaves out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers import ROOT, command, for_each, pretrain_argv, sentence
from tests.test_stages import SHARED

COMMANDS = (
    "ssvid.pretrain",
    "ssvid.finetune",
    "ssvid.extract",
    "ssvid.stages",
    "ssvid.sweep",
    "ssvid.weights",
)
COMMANDS += ("ssvid.data.flow", "ssvid.data.prepare", "ssvid.text.words", "ssvid.doctor")
COMMANDS += (
    "benchmarks.run",
    "benchmarks.compare",
    "benchmarks.report",
    "benchmarks.align",
    "benchmarks.demo",
)
COMMANDS += ("benchmarks.linear_probe", "benchmarks.suite")


def cold(*argv: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *argv], capture_output=True, text=True, cwd=cwd, timeout=300
    )


@for_each("module", COMMANDS)
def test_every_command_has_help(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    shown = command(module, "--help")
    assert shown.returncode == 0 and module in shown.stdout, shown.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("module", COMMANDS)
def test_a_flag_that_is_none(module: str, tmp_path: Path):
    """From another folder, as a user of an installed package."""
    assert "no_such_flag" in sentence(cold(module, "--no_such_flag", "1", cwd=tmp_path))


@pytest.mark.slow
def test_a_run_of_torchrun(videos: Path, tmp_path: Path):
    argv = pretrain_argv(videos, tmp_path / "run")
    result = cold(
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "ssvid.pretrain",
        *argv,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("{")]
    assert json.loads(line)["step"] == 6


@pytest.mark.slow
def test_a_run_of_one_stage(videos: Path, tmp_path: Path):
    recipe = {"shared": {**SHARED, "steps": 1}, "stages": {"first": {}}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    argv = [
        str(tmp_path / "r.yaml"),
        "--out",
        str(tmp_path / "out"),
        "--",
        "--data.root",
        str(videos),
    ]
    result = cold("ssvid.stages", *argv)
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads(result.stdout.splitlines()[-1])["stages"]["first"]["step"] == 1
