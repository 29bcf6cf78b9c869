"""state <-> run folder: config.yaml, provenance.json, checkpoints/step_*.pt, and what others write beside them.

The only file that decides what a run folder is, whether a start goes on in it, and which checkpoint is whole.
"""

import json
import os
import pickle
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.files import locked, write_json_whole, write_text_whole, write_whole
from ssvid.log import log
from ssvid.old_names import rename_config

# What a run may change between two starts without being another run. `data` is compared by its rows, not its place.
FREE = {
    "out",
    "steps",
    "epochs",
    "workers",
    "devices",
    "log_every",
    "picture_every",
    "checkpoint_every",
    "keep_checkpoints",
}
FREE |= {
    "recompute",
    "stop_on_collapse",
    "max_bad",
    "data.root",
    "compile",
    "decoder",
    "timeout_s",
    "probe_every",
}
FREE |= {
    "encoder"
}  # a fine-tuning's, whose encoder is a path, compared by its weights; others are encoder.name, ...


PROVENANCE = "provenance.json"


class RunFolder:
    def __init__(self, out: str | Path, made: dict[str, Any] | None = None) -> None:
        """`made`: what a run was made from beside its clips. `start`, a hash of weights, may not change."""
        self.path, self.made = Path(out), made or {}
        self.checkpoints = self.path / "checkpoints"

    @contextmanager
    def opened(self, config: dict[str, Any], rows: str) -> Iterator["RunFolder"]:
        """Hold the folder as its one writer; refuse the folder of another run. `rows`: hash of the clips it reads."""
        if self.path.is_file():
            raise UserError(f"--out {self.path} is a file; name a folder.")
        if self.path.is_dir() and not (self.path / "config.yaml").exists():
            strangers = [p.name for p in self.path.iterdir() if p.name != "lock"]
            if strangers:
                raise UserError(
                    f"--out {self.path} holds {strangers[0]!r} but no run; name a new or an empty folder."
                )
        with locked(self.path / "lock", wait=False, what=f"--out {self.path}"):
            self.compare(config, rows)
            self.checkpoints.mkdir(exist_ok=True)
            for rest in self.path.rglob(".*.tmp"):
                rest.unlink()  # of a writer that was killed
            write_text_whole(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
            yield self

    @contextmanager
    def joined(self) -> Iterator["RunFolder"]:
        """The same folder for the other ranks, which write nothing."""
        yield self

    def known(self, key: str) -> Any:
        """What the run in this folder was started with; None where there is none."""
        file = self.path / "config.yaml"
        return yaml.safe_load(file.read_text()).get(key) if file.is_file() else None

    def compare(self, config: dict[str, Any], rows: str) -> None:
        file, made = self.path / "config.yaml", self.path / PROVENANCE
        if not file.exists() or not self.whole():
            return  # nothing was made yet, so nothing can be mixed up
        known = json.loads(made.read_text()) if made.exists() else {}
        written = rename_config(yaml.safe_load(file.read_text()))
        old, new = flat(written), flat(config)
        for what, key, now in (
            ("data", "hash", rows),
            ("encoder", "start", self.made.get("start", "")),
        ):
            name = f"{what} (hash of its {'rows' if what == 'data' else 'weights'})"
            old[name], new[name] = known.get(key, now)[:8], now[:8]
        differing = [k for k in sorted(old | new) if k not in FREE and old.get(k) != new.get(k)]
        if differing:
            shown = ", ".join(f"{k} ({old.get(k)} there, {new.get(k)} now)" for k in differing)
            raise UserError(
                f"--out {self.path} holds another run, with other {shown}. Name another folder."
            )

    def whole(self) -> list[Path]:
        """Checkpoint files, newest first."""
        found = [
            p for p in self.checkpoints.glob("step_*.pt") if re.fullmatch(r"step_\d+\.pt", p.name)
        ]
        return sorted(found, key=lambda p: int(p.stem[5:]), reverse=True)

    def last_good(self) -> str:
        return str(self.whole()[0]) if self.whole() else "none yet"

    def readable(self, said: str) -> dict[str, Any]:
        """The newest checkpoint that can be read, of a run that another command names; nothing is moved."""
        why = "it has none yet"
        for path in self.whole():
            try:
                return whole_state(path)
            except UserError as error:
                why = str(error).rstrip(".")
        raise UserError(
            f"{said} holds no checkpoint that can be read: {why}. Train it first, or name another."
        )

    def newest(self) -> dict[str, Any] | None:
        """The newest checkpoint that can be read; a damaged one is set aside under another name and said so.

        Where none can be read the run is refused: to begin anew would overwrite what it made.
        """
        damaged: list[tuple[Path, UserError]] = []
        for path in self.whole():
            try:
                state = whole_state(path)
            except UserError as error:
                damaged.append((path, error))
                continue
            for old, why in damaged:
                aside = old.with_suffix(".damaged")
                old.rename(aside)
                log.warning(f"{why} It is kept as {aside.name}; going on from {path.name}.")
            return state
        if damaged:
            raise UserError(
                f"No checkpoint of {self.path} can be read. {damaged[0][1]} Name another --out to begin anew."
            )
        return None

    def save(self, step: int, state: dict[str, Any], keep: int) -> Path:
        path = self.checkpoints / f"step_{step:08d}.pt"
        write_whole(path, lambda file: torch.save(state, file))
        for old in self.whole()[keep:]:
            old.unlink()
        return path


def whole_state(path: Path) -> dict[str, Any]:
    """A checkpoint of this loop."""
    state = read(path)
    missing = (
        {"step", "model", "optimizer", "rng"} - state.keys()
        if isinstance(state, dict)
        else {"everything"}
    )
    if missing:
        raise UserError(
            f"{path} is no checkpoint of ssvid.pretrain: it lacks {', '.join(sorted(missing))}."
        )
    return state


def read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {path}.") from None
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors ({str(error).splitlines()[0]}). "
            "Save its state dict again with torch.save or safetensors, from a place you trust."
        ) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        UnicodeDecodeError,
    ) as error:
        why = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise UserError(f"{path} is damaged or no checkpoint ({why}).") from error


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    rows: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            rows |= flat(value, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return rows


def provenance(folder: RunFolder, data: Manifest) -> None:
    """What the run was made from, beside its config: the clips (for later leak checks), the code and the machine."""
    rows = [[row.path, row.label, row.split, row.group, row.video_id] for row in data.rows]
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    made = {
        "root": str(data.root.resolve()),
        "hash": data.hash,
        "rows": rows,
        "git": git.stdout.strip() or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    made |= folder.made
    write_json_whole(folder.path / PROVENANCE, made)


def _cpu() -> str:
    """The model, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return (
        names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    )
