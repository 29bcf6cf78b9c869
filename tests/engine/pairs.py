"""Runs as several processes: a step in float64 beside that of one process, and commands that tests
disturb.
"""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ssvid.engine.distributed import join
from tests import warm
from tests.helpers import metrics
from tests.warm import run_ranks

Found = dict[str, torch.Tensor]


def same_as_two(one: Found, file: Path, module: str, *argv: str) -> None:
    """Two processes of `module` leave the gradients of one process in `file`.

    The bound is 1e-6 of the largest gradient.
    """
    for rank in run_ranks("-m", module, *argv, str(file)):
        assert rank.returncode == 0, rank.stderr[-2000:]
    same_numbers(one, torch.load(file, weights_only=True))


def same_numbers(one: Found, two: Found) -> None:
    assert one.keys() == two.keys()
    largest = max(float(v.abs().max()) for k, v in one.items() if k.startswith("grad/"))
    for key, value in one.items():
        scale = largest if key.startswith("grad/") else float(value.abs().max())
        assert float((two[key] - value).abs().max()) <= 1e-6 * scale + 1e-12, key


def leave(step: Callable[..., Found], argv: list[str]) -> None:
    """What each of these processes runs: the step, and the first one writes what it found."""
    torch.set_num_threads(1)
    found = step(*argv[:-1])
    if join("cpu").first:
        torch.save(found, Path(argv[-1]))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def metrics_so_far(out: Path) -> list[dict[str, Any]]:
    try:
        return metrics(out)
    except (ValueError, FileNotFoundError):  # a line half written, or none yet
        return []


def meeting_point(size: int) -> dict[str, str]:
    """Where the processes of a run are to find each other: a port of this machine that is free."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}


class Run:
    """The processes of one run, in a group of their own."""

    def __init__(self, argv: list[str], size: int = 1, module: str = "ssvid.pretrain") -> None:
        self.ranks: list[warm.Process] = []
        shared = meeting_point(size)
        for rank in range(size):
            env = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            group = self.ranks[0].pid if self.ranks else 0
            self.ranks.append(warm.start("-m", module, *argv, env=env, group=group))

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.ranks:
            process.kill()
            process.communicate()

    def at(self, out: Path, step: int) -> "Run":
        """Once a step is logged."""
        while not any(row["step"] >= step for row in metrics_so_far(out)):
            assert self.ranks[0].poll() is None, self.ranks[0].communicate()[1]
            time.sleep(0.005)
        return self

    def send(self, number: signal.Signals, rank: int | None = None) -> "Run":
        """To one process, or to the whole group, its loaders too."""
        if rank is None:
            os.killpg(self.ranks[0].pid, number)
        else:
            self.ranks[rank].send_signal(number)
        return self

    def ended(self) -> list[tuple[int, str, str]]:
        """code, stdout, stderr of each"""
        said = [process.communicate(timeout=240) for process in self.ranks]
        return [(process.wait(), *words) for process, words in zip(self.ranks, said, strict=True)]
