"""predictions on test, and how they came about -> the parts that every result file has, and the file itself."""

import hashlib
import json
import re
import shlex
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Int
from torch import Tensor

from ssvid.data.manifest import Manifest, leaks
from ssvid.encoder import Encoder
from ssvid.engine.checkpoint import FREE, PROVENANCE, flat
from ssvid.files import write_json_whole
from ssvid.hub import stream_of
from ssvid.shapes import Row
from ssvid.statistics import chance, majority
from ssvid.weights.encoders import encoder_hash

Result = dict[str, Any]
PROBE, TUNED, BENCH = "linear probe", "fine-tuning", "benchmark"  # what a result is of


def answers(data: Manifest, rows: list[int], predictions: dict[str, Int[Tensor, " S"]]) -> Result:
    """What was said of each test clip. `predictions`: of the encoder, and of its controls where there are any."""
    labels = data.labels[rows]
    confusion = torch.zeros(len(data.classes), len(data.classes), dtype=torch.int64)
    confusion.index_put_((labels, predictions["encoder"]), torch.tensor(1), accumulate=True)
    return {
        "chance": chance(labels),
        "majority": majority(labels),
        "confusion": confusion.tolist(),  # label x prediction
        "test": {
            "paths": [data.rows[i].path for i in rows],
            "groups": [data.groups[i] for i in rows],
            "labels": labels.tolist(),
            "predictions": {name: said.tolist() for name, said in predictions.items()},
        },
    }


def describe_data(data: Manifest, splits: dict[str, list[int]], bad: list[str]) -> Result:
    stated = Counter(row.split for row in data.rows)
    return {
        "hash": data.hash,
        "classes": data.classes,
        "clips": {name: len(rows) for name, rows in splits.items()},
        "groups": {name: len({data.groups[i] for i in rows}) for name, rows in splits.items()},
        "listed": dict(stated),
        "bad_files": len(bad),
        "bad": [Path(path).name for path in bad[:20]],
    }


def describe_encoder(text: str, title: str, net: Encoder) -> Result:
    """`text`: as the user named it."""
    return {
        "title": title,
        "given": text,
        "weights": "trained" if Path(stream_of(text)[0]).exists() else "random (a registered name, no file)",
        "name": net.name,
        "kwargs": net.kwargs,
        "parameters": sum(p.numel() for p in net.parameters()),
        "licence": net.licence,
        "hash": encoder_hash(net),
        **recipe(text),
    }


def recipe(text: str) -> Result:
    """Of an encoder in a run folder: what the run was asked for but its seed, as a hash, and the seed."""
    path = Path(text)
    file = (path if path.is_dir() else path.parent) / "config.yaml"
    made = yaml.safe_load(file.read_text()) if path.exists() and file.is_file() else None
    if not isinstance(made, dict) or "seed" not in made:
        return {}
    counts = FREE - {"steps", "epochs"} | {"seed"}
    kept = {key: value for key, value in flat(made).items() if key not in counts}
    return {"recipe": digest(kept), "pretraining_seed": made["seed"]}


def title(text: str) -> str:
    """A name for the encoder that a user named: the last part of its path."""
    path = Path(text)
    last = path.parent.name if path.stem == "encoder" else path.name
    return re.sub(r"[^\w.-]+", "_", last.removesuffix(".safetensors")) or "encoder"


def trainings(text: str) -> list[Result]:
    """The `root` and `rows` of all that an encoder was trained on, its last training first, where its folder tells.

    `text`: as the user named it.
    """
    path = Path(text)
    file = (path if path.is_dir() else path.parent) / PROVENANCE
    if not path.exists() or not file.exists():
        return []
    made = json.loads(file.read_text())
    return [{key: each[key] for key in ("root", "rows")} for each in [made, *made.get("before", [])]]


def leak(text: str, test: Manifest) -> Result:
    """Test clips that an earlier training saw, where the run folder tells what it read."""
    before = trainings(text)
    if not before:
        return {"checked": False}
    fields = ("path", "label", "split", "group", "video_id")
    shared: list[str] = []
    for each in before:
        rows = tuple(Row(**dict(zip(fields, row, strict=False))) for row in each["rows"])
        shared += [row.path for row in leaks(Manifest(rows, Path(each["root"])), test)]
    shared = list(dict.fromkeys(shared))
    return {"checked": True, "clips": len(shared), "first": shared[:5]}


def digest(protocol: Result) -> str:
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:16]


def git() -> str | None:
    """The commit of this code, with a + where files differ from it."""
    try:
        here = partial(subprocess.run, capture_output=True, text=True, cwd=Path(__file__).parent, check=True)
        commit = here(["git", "rev-parse", "HEAD"]).stdout.strip()
        changed = here(["git", "status", "--porcelain", "-uno"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" * bool(changed)


def command_line(module: str, config: dict[str, Any] | None) -> str | None:
    """The resolved configuration as a command."""
    if config is None:
        return None
    words: list[str] = []

    def add(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for inner, part in value.items():
                add(key if inner == "name" else f"{key}.{inner}", part)
        elif value is not None:
            parts = value if isinstance(value, list) and key == "encoder" else [value]
            for part in parts:
                text = json.dumps(part) if isinstance(part, list | bool) else str(part)
                words.extend((f"--{key}", shlex.quote(text)))

    for key, value in config.items():
        add(key, value)
    return " ".join([f"python -m {module}", *words])


def write(path: Path, result: Result) -> None:
    write_json_whole(path, result, end="\n", indent=1)
