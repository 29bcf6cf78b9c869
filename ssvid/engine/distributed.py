"""The environment of torchrun or SLURM -> this process's place among the others."""

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from ssvid.engine.peers import Peers
from ssvid.errors import RunError, UserError


class World(NamedTuple):
    rank: int
    size: int
    device: torch.device
    peers: Peers | None = None  # None: alone

    @property
    def first(self) -> bool:
        return self.rank == 0


def join(devices: str = "auto", timeout_s: float = 600) -> World:
    """Join the process group that torchrun or SLURM started; alone otherwise."""
    # SLURM_NTASKS is there in an salloc shell too, where one process runs; only srun sets the step's.
    if "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available() if devices == "auto" else devices == "cuda"
    if cuda and not torch.cuda.is_available():
        raise UserError("--devices cuda: torch sees no GPU here; python -m ssvid.doctor says more.")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    peers = None
    if size > 1 and not dist.is_initialized():
        peers = meet("nccl" if cuda else "gloo", rank, size, timeout_s)
    return World(rank, size, device, peers)


def meet(backend: str, rank: int, size: int, timeout_s: float) -> Peers:
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        socket.getaddrinfo(os.environ.get("MASTER_ADDR"), None)  # torch would try an unknown name until its time is up
        wait = timedelta(seconds=timeout_s)
        store = in_time(lambda: next(dist.rendezvous("env://", rank, size, timeout=wait))[0], timeout_s)
        peers = Peers(store, rank, size)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
        return peers
    except (RuntimeError, ValueError, OSError) as error:
        why = str(error).splitlines()[0]
        raise RunError(
            f"Process {rank} of {size} could not meet the others at {where} ({why}). Check that the name resolves, "
            "that the port is free (torchrun --master_port) and that all were started."
        ) from error


def in_time(make: Callable[[], Any], seconds: float) -> Any:
    """What `make` gives. torch's own time-out does not hold where a stranger takes the call and says nothing."""
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            found.put(make())
        except Exception as error:  # noqa: BLE001 - raised again below, where somebody listens
            found.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        got = found.get(timeout=seconds + 5)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds + 5:g} s") from None
    if isinstance(got, Exception):
        raise got
    return got


def gather(value: Any, world: World) -> list[Any]:
    """Every rank's value, in order of rank."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    with together(world):
        dist.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def together(world: World) -> Iterator[None]:
    """A fault that comes of a lost process names it; the backends only say that a connection broke."""
    try:
        yield
    except RuntimeError as error:
        gone = world.peers.gone() if world.peers else []
        if not gone:
            raise
        names = " and ".join(str(rank) for rank in gone)
        raise RunError(
            f"Process {world.rank} of {world.size} lost process {names}, which ended or hangs; its own last words say "
            "why, if it had any. The same command goes on from the last checkpoint."
        ) from error


def agree(config: dict[str, Any], world: World) -> None:
    """Refuse processes that were started with different flags. `config`: flag -> value."""
    for rank, other in enumerate(gather(config, world)):
        differing = [key for key in sorted(config | other) if config.get(key) != other.get(key)]
        if differing:
            key = differing[0]
            raise UserError(
                f"Process {rank} was started with other flags than process {world.rank}: --{key} {other.get(key)} "
                f"there, {config.get(key)} here. Start all of them alike."
            )


def gathered(numbers: dict[str, float], world: World) -> dict[str, list[float]]:
    """name -> every rank's number."""
    rows = gather(numbers, world)
    return {name: [row[name] for row in rows] for name in numbers}
