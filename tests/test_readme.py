"""The objective that the README shows, as a plug-in in a folder of the user."""

import re
from pathlib import Path

from ssvid import load_encoder
from tests.helpers import ROOT, TINY, command

README = (ROOT / "README.md").read_text()


def test_the_objective_of_the_readme_trains_and_is_probed(videos: Path, tmp_path: Path):
    (code,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        if "class Mine(Objective)" in block
    ]
    assert len(code.splitlines()) <= 40
    plugin = tmp_path / "plugin"
    plugin.mkdir()
    (plugin / "my_module.py").write_text(code)
    out = tmp_path / "mine"
    argv = [
        "--objective",
        "my_module:Mine",
        "--encoder",
        "vit",
        *TINY,
        "--data",
        "folder",
        "--data.root",
        str(videos),
    ]
    argv += ["--out", str(out), "--steps", "3", "--batch_size", "4", "--workers", "0"]
    result = command("ssvid.pretrain", *argv, PYTHONPATH=str(plugin))
    assert result.returncode == 0, result.stderr[-2000:]
    assert load_encoder(out).name == "vit"
    argv = [
        "--encoder",
        str(out),
        "--data",
        "synthetic",
        "--data.train",
        "16",
        "--data.val",
        "8",
        "--data.test",
        "16",
    ]
    argv += [
        "--data.root",
        str(tmp_path / "data"),
        "--cache",
        str(tmp_path / "cache"),
        "--workers",
        "0",
        "--twins",
        "2",
        "--layers",
        "last",
        "--poolings",
        "[mean]",
    ]
    result = command(
        "benchmarks.linear_probe", *argv, "--out", str(tmp_path / "probe"), "--min_steps", "4"
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "probe" / "report.html").exists()
