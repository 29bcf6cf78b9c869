"""Training state <-> run folder: config.yaml, provenance.json and checkpoints/step_*.pt.

This file decides what a run folder is, whether a command resumes in it, and which checkpoint is
whole.
"""

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
from ssvid.files import (
    locked,
    read_json_lines,
    read_json_mapping,
    read_yaml_mapping,
    write_json_whole,
    write_text_whole,
    write_whole,
)
from ssvid.log import log
from ssvid.old_names import rename_config

# Settings that may change between two starts of the same run. `data` is compared by its rows and
# not by its folder.
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
    "preset",  # the values that it gave are compared
    "recompute",
    "stop_on_collapse",
    "max_bad",
    "data.root",
    "compile",
    "decoder",
    "timeout_s",
    "probe_every",
}
# The encoder of a fine-tuning is a path and is compared by its weights. Elsewhere the settings are
# encoder.name and so on, which are compared. Its twins are runs of their own.
FREE |= {"encoder", "twins"}
PROVENANCE, LOG = "provenance.json", "metrics.jsonl"
WRITTEN = (LOG, "quarantine.jsonl", "tensorboard", "checkpoints", "lock")


class RunFolder:
    """The folder of one run."""

    def __init__(self, out: str | Path, origin: dict[str, Any] | None = None) -> None:
        """`origin`: what the run started from, for its provenance. Its `start` may not change."""
        self.path, self.origin = Path(out), origin or {}
        self.checkpoints = self.path / "checkpoints"

    @contextmanager
    def open_as_writer(self, config: dict[str, Any], rows: str) -> Iterator["RunFolder"]:
        """Lock the folder and write the config. `rows`: hash of the clips that the run reads.

        Raises a UserError if the folder holds another run or other files.
        """
        self.check_place()
        with locked(self.path / "lock", wait=False, what=f"--out {self.path}"):
            self.compare(config, rows)
            read_log(self.path)
            self.checkpoints.mkdir(exist_ok=True)
            for temporary in self.path.rglob(".*.tmp"):
                temporary.unlink()  # a writer was killed
            write_text_whole(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
            yield self

    def check_place(self) -> None:
        """Raise a UserError if no run can be written here. Nothing is made."""
        if self.path.is_file():
            raise UserError(f"--out {self.path} is a file; name a folder.")
        if self.path.is_dir() and not (self.path / "config.yaml").exists():
            strangers = [p.name for p in self.path.iterdir() if p.name != "lock"]
            if strangers:
                raise UserError(
                    f"--out {self.path} holds {strangers[0]!r} but no run; name a new or an empty "
                    "folder."
                )
        self.check_links()
        existing = next(
            path for path in (self.path, *self.path.absolute().parents) if path.exists()
        )
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(
                f"--out {self.path} cannot be written, for {existing} is no folder that you may "
                "write to: name another place."
            )

    def check_links(self) -> None:
        """Raise a UserError if a file or folder that the run writes to leads to another place."""
        for name in WRITTEN:
            if (self.path / name).is_symlink():
                raise UserError(
                    f"--out {self.path} holds a link {name}, and a run writes into its own folder "
                    "alone: put the files in its place, or name another folder."
                )

    @contextmanager
    def open_as_reader(self) -> Iterator["RunFolder"]:
        """The folder for the other processes of the run, which write nothing."""
        yield self

    def read_setting(self, key: str) -> Any:
        """A setting of the run in this folder; None if there is no run yet."""
        file = self.path / "config.yaml"
        return read_yaml_mapping(file, "config").get(key) if file.is_file() else None

    def compare(self, config: dict[str, Any], rows: str) -> None:
        """Raise a UserError if the folder's run has other settings, clips or start weights."""
        file, provenance_file = self.path / "config.yaml", self.path / PROVENANCE
        if not file.exists() or not self.list_checkpoints():
            return  # there is no checkpoint yet, so nothing can be mixed up
        provenance = {}
        if provenance_file.exists():
            provenance = read_json_mapping(provenance_file, "provenance")
        before = flatten_config(rename_config(read_yaml_mapping(file, "config"), config))
        now = flatten_config(config)
        start = self.origin.get("start", "")
        before["data (hash of its rows)"] = str(provenance.get("hash", rows))[:8]
        before["encoder (hash of its weights)"] = str(provenance.get("start", start))[:8]
        now["data (hash of its rows)"] = rows[:8]
        now["encoder (hash of its weights)"] = start[:8]
        differences = []
        for key in sorted(before | now):
            if not is_free(key) and before.get(key) != now.get(key):
                differences.append(f"{key} ({before.get(key)} there, {now.get(key)} now)")
        if differences:
            raise UserError(
                f"--out {self.path} holds another run, with other {', '.join(differences)}. "
                "Name another folder."
            )

    def list_checkpoints(self) -> list[Path]:
        """Checkpoint files, newest first."""
        files = self.checkpoints.glob("step_*.pt")
        checkpoints = [file for file in files if re.fullmatch(r"step_\d+\.pt", file.name)]
        return sorted(checkpoints, key=lambda file: int(file.stem[5:]), reverse=True)

    def describe_newest(self) -> str:
        """The newest checkpoint as a text for messages."""
        return str(self.list_checkpoints()[0]) if self.list_checkpoints() else "none yet"

    def read_newest(self, name: str) -> dict[str, Any]:
        """The newest checkpoint that can be read, for another command. No file is moved.

        The UserError, if there is none, calls the folder `name`.
        """
        why = "it has none yet"
        for path in self.list_checkpoints():
            try:
                return read_training_state(path)
            except UserError as error:
                why = str(error).rstrip(".")
        raise UserError(
            f"{name} holds no checkpoint that can be read: {why}. Train it first, or name another."
        )

    def load_newest(self) -> dict[str, Any] | None:
        """The newest checkpoint that can be read; None if the run has none yet.

        Damaged checkpoints are renamed and logged. A UserError if all are damaged: starting anew
        would overwrite what the run has left.
        """
        damaged: list[tuple[Path, UserError]] = []
        for path in self.list_checkpoints():
            try:
                state = read_training_state(path)
            except UserError as error:
                damaged.append((path, error))
                continue
            for file, why in damaged:
                new_name = file.with_suffix(".damaged")
                file.rename(new_name)
                log.warning(f"{why} It is kept as {new_name.name}; going on from {path.name}.")
            return state
        if damaged:
            raise UserError(
                f"No checkpoint of {self.path} can be read. {damaged[0][1]} "
                "Name another --out to begin anew."
            )
        return None

    def save(self, step: int, state: dict[str, Any], keep: int) -> Path:
        """Write a checkpoint, and remove all but the newest `keep`."""
        path = self.checkpoints / f"step_{step:08d}.pt"
        write_whole(path, lambda file: torch.save(state, file))
        for old in self.list_checkpoints()[keep:]:
            old.unlink()
        return path


def read_log(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, each with its step. A UserError if it is damaged."""
    path = run / LOG
    rows, damaged = read_json_lines(path, "log")
    for number, row in enumerate(rows):
        if not isinstance(row.get("step"), int):
            raise UserError(f"The log {path} is damaged: row {number + 1} has no step. Remove it.")
    if damaged:
        raise UserError(
            f"The log {path} is damaged in line {damaged[0]}: remove the line, or move the file "
            "away. The run then goes on."
        )
    return rows


def read_training_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint of the training loop. A UserError if the file is something else."""
    state = read(path)
    missing = {"everything"}
    if isinstance(state, dict):
        missing = {"step", "model", "optimizer", "rng"} - state.keys()
    if missing:
        raise UserError(
            f"{path} is no checkpoint of ssvid.pretrain: it lacks {', '.join(sorted(missing))}."
        )
    return state


def read(path: Path) -> Any:
    """Read a file of torch.save that holds tensors and plain data only.

    A UserError if it cannot.
    """
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


def is_free(key: str) -> bool:
    """Whether a setting may change between two starts, as the roots of data sets may."""
    return key in FREE or re.fullmatch(r"data\.parts\.[\w-]+\.root", key) is not None


def flatten_config(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}. Tuples become lists, as in YAML."""
    rows: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            rows |= flatten_config(value, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return rows


def write_provenance(folder: RunFolder, data: Manifest) -> None:
    """Write the origin of a run: its clips (for later leak checks), the code and the machine."""
    rows = [[row.path, row.label, row.split, row.group, row.video_id] for row in data.rows]
    parts = {}
    for part in data.mixture.parts if data.mixture else ():
        parts[part.name] = {**part._asdict(), "root": str(part.root.resolve())}
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    provenance: dict[str, Any] = {
        "root": str(data.root.resolve()),
        "hash": data.hash,
        "rows": rows,
        "git": git.stdout.strip() or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": _read_cpu_model(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    if data.mixture is not None:
        provenance["mixture"] = {"order": data.mixture.order, "parts": parts}
    provenance |= folder.origin
    write_json_whole(folder.path / PROVENANCE, provenance)


def _read_cpu_model() -> str:
    """The model of the CPU. Only Linux has the file; elsewhere it is the architecture."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
