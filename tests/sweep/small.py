"""The smallest sweep that trains and is asked."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ssvid.files import locked

SMALL = {
    "data": {"name": "synthetic", "train": 24, "val": 12, "test": 12},
    "objective": {"name": "mae", "mask_ratio": 0.75, "dec_dim": 16, "dec_depth": 1, "dec_heads": 2},
    "encoder": {
        "name": "vit",
        "dim": 24,
        "depth": 1,
        "heads": 2,
        "patch": 8,
        "frames": 6,
        "stride": 1,
        "size": 32,
    },
    "steps": 60,
    "batch_size": 4,
    "threads": 1,
    "workers": 0,
    "log_every": 2,
    "checkpoint_every": 5,
    "picture_every": 100,
}
SUITE = {"suite": "quick", "data": SMALL["data"], "threads": 1, "workers": 0}


def write_sweep(folder: Path, **parts: Any) -> str:
    """The file of a sweep whose synthetic set lies beside it."""
    file = folder / "s.yaml"
    flags = {"data.root": str(folder / "set"), **parts.pop("set", {})}
    file.write_text(yaml.safe_dump({"base": SMALL, "set": flags, **parts}, sort_keys=False))
    return str(file)


@contextmanager
def take_slurm() -> Iterator[None]:
    """One test of SLURM at a time, in whichever process of pytest: each wants both nodes and waits
    a limited time.
    """
    with locked(Path(tempfile.gettempdir()) / "ssvid_slurm_tests.lock", wait=True, what="SLURM"):
        yield


def until(true: Callable[[], object], seconds: float = 180.0) -> None:
    for _ in range(int(seconds * 5)):
        if true():
            return
        time.sleep(0.2)
    raise AssertionError("it never came")
