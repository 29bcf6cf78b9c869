"""Tiny runs of the commands -> JSON of the numbers that a refactoring must not change.

Run this file in two checkouts, each time from the checkout's own folder with PYTHONPATH set to it,
and compare what it writes (names and schemas may differ, numbers may not):

    python benchmarks/profiling/fingerprint.py OUT.json

It uses the commands alone, so that it also runs in a checkout without this file.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

Numbers = dict[str, Any]
DATA = ["--data", "synthetic", "--data.train", "24", "--data.val", "12", "--data.test", "24"]
VIT = ["--encoder", "vit", "--encoder.dim", "24", "--encoder.depth", "2", "--encoder.heads", "2"]
VIT += ["--encoder.patch", "8", "--encoder.frames", "6", "--encoder.stride", "1"]
VIT += ["--encoder.size", "32"]
DECODER = ["--objective.dec_dim", "16", "--objective.dec_depth", "1", "--objective.dec_heads", "2"]
LOOP = ["--steps", "4", "--batch_size", "8", "--log_every", "1", "--threads", "1", "--workers", "0"]
RUNS = {
    "mae": ["--objective", "mae", "--objective.mask_ratio", "0.5", *DECODER],
    "partial_mae": ["--objective", "partial_mae", "--objective.drop_ratio", "0.5", *DECODER],
    "infonce": ["--objective", "infonce", "--objective.queue", "8"],
    "two_view": ["--objective", "two_view", "--drop_tokens", "0.5"],
}


def run_command(module: str, *flags: str) -> Numbers:
    """The last line of its standard output."""
    shell = [sys.executable, "-m", module, *flags]
    ended = subprocess.run(shell, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def read_run(folder: Path) -> Numbers:
    """Losses by step, and the hash of every weight of the last checkpoint."""
    newest = max((folder / "checkpoints").glob("step_*.pt"))
    weights = hashlib.sha256()
    for name, tensor in sorted(torch.load(newest, weights_only=True)["model"].items()):
        weights.update(
            name.encode() + tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {"loss": list(map(read_loss, rows)), "weights": weights.hexdigest()[:16]}


def read_loss(row: Numbers) -> float | None:
    return row.get("loss")


def read_results(folder: Path) -> Numbers:
    """Scores, intervals, controls and gains of every result file."""
    wanted = ("metric", "top1", "recall1", "interval", "chosen", "controls", "gains", "chance")
    results = {}
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text())
        results[file.name] = {key: content[key] for key in wanted if key in content}
    return results


def measure(folder: Path) -> Numbers:
    data = [*DATA, "--data.root", str(folder / "set")]
    numbers: Numbers = {}
    for name, objective in RUNS.items():
        run_command("ssvid.pretrain", *objective, *VIT, *data, *LOOP, "--out", str(folder / name))
        numbers[name] = read_run(folder / name)
    shared = ["--encoder", str(folder / "mae"), *data]
    tuned = run_command("ssvid.finetune", *shared, *LOOP, "--out", str(folder / "tuned"))
    scores = {key: tuned[key] for key in ("top1", "interval", "val_top1", "chance")}
    numbers["finetune"] = {**read_run(folder / "tuned"), **scores}
    shared += ["--cache", str(folder / "cache"), "--workers", "0", "--threads", "1"]
    probed = run_command("benchmarks.linear_probe", *shared, "--out", str(folder / "probe"))
    numbers["linear_probe"] = probed["results"]
    run_command("benchmarks.run", *shared, "--suite", "quick", "--out", str(folder / "bench"))
    numbers["benchmark"] = read_results(folder / "bench")
    return numbers


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        Path(sys.argv[1]).write_text(
            json.dumps(measure(Path(folder)), indent=1, sort_keys=True) + "\n"
        )
