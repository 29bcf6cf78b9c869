"""The environment of torchrun or SLURM -> this process's place among the others."""

import contextlib
import os
import queue
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from ssvid.engine.rendezvous import Peers, host_name
from ssvid.errors import PeerLost, UserError

HANDSHAKE_S = 15.0  # what answers is no store of ours: that has a thread of its own, however busy its process is
PORTS = range(20000, 32768)  # below those that systems hand out by themselves


class World(NamedTuple):
    rank: int
    size: int
    device: torch.device
    peers: Peers | None = None  # None: alone

    @property
    def first(self) -> bool:
        return self.rank == 0

    def doing(self, what: str) -> None:
        """What this process is at, alone, while the others may wait for it; "": at nothing of its own."""
        if self.peers:
            self.peers.doing = what


def join(devices: str = "auto", timeout_s: float = 600) -> World:
    """Join the process group that torchrun, SLURM or an environment like theirs started; alone otherwise."""
    # SLURM_NTASKS is there in an salloc shell too, where one process runs; only srun sets the step's.
    by_slurm = "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1
    if by_slurm:
        os.environ.update(of_slurm())
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available() if devices == "auto" else devices == "cuda"
    if cuda and not torch.cuda.is_available():
        raise UserError("--devices cuda: torch sees no GPU here; python -m ssvid.doctor says more.")
    device = torch.device("cpu")
    if cuda:  # SLURM's --gpus-per-task shows each process its own GPU alone, as number 0
        device = torch.device(
            "cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
        )
        torch.cuda.set_device(device)
    world = World(rank, size, device)
    if size == 1 or dist.is_initialized():
        return world
    return world._replace(peers=meet(world, timeout_s, step() if by_slurm else ""))


def step() -> str:
    """What SLURM calls this step, and this start of its job. A restart must not meet its dead predecessor."""
    keys = "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"
    return ".".join(os.environ.get(key, "0") for key in keys)


def of_slurm() -> dict[str, str]:
    """torch's variables from srun's. The step's own nodes: its job may hold more. Who chose a port keeps it."""
    from submitit.slurm.slurm import SlurmJobEnvironment

    class Step(SlurmJobEnvironment):  # made by hand: submitit looks for one only in its own jobs
        _env = {**SlurmJobEnvironment._env, "nodes": "SLURM_STEP_NODELIST"}  # noqa: RUF012

    port = PORTS[zlib.crc32(step().encode()) % len(PORTS)]
    return {
        "MASTER_ADDR": os.environ.get("MASTER_ADDR") or Step().hostnames[0],
        "MASTER_PORT": os.environ.get("MASTER_PORT") or str(port),
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": os.environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
    }


def meet(world: World, timeout_s: float, run: str) -> Peers:
    """All processes of the run, or one sentence that says why not and, where the store can tell, who is missing."""
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    deadline = time.monotonic() + timeout_s
    try:
        if not host or not port.isdigit():
            raise ValueError(
                "MASTER_ADDR and MASTER_PORT must be set where RANK and WORLD_SIZE are"
            )
        store = shared_store(host, int(port), world.rank, timeout_s)
        peers = Peers(store, world.rank, world.size, run)
        if not held_by_torchrun():
            peers.first_here(HANDSHAKE_S)
        peers.all_here(max(1.0, deadline - time.monotonic()))
        wait = timedelta(seconds=timeout_s)
        store.set_timeout(wait)
        with together(world._replace(peers=peers)):  # one may end or hang right here
            dist.init_process_group(
                "nccl" if world.device.type == "cuda" else "gloo",
                store=PrefixStore(f"{run}/group", store),
                rank=world.rank,
                world_size=world.size,
                timeout=wait,
            )
    except (RuntimeError, ValueError, OSError) as error:
        why = str(error).splitlines()[0]
        raise PeerLost(
            f"Process {world.rank} of {world.size} could not meet the others at {host}:{port} from {host_name()} "
            f"({why}). Check that the name resolves, that the port is free (MASTER_PORT, torchrun --master_port) and "
            "that all were started."
        ) from error
    met.append(peers)
    return peers


met: list[Peers] = []  # of the process group that is up


def leave() -> None:
    """At a command's good end; after a fault a lost process could keep this from returning."""
    if met and dist.is_initialized():
        dist.destroy_process_group()
        met.pop().part()


def held_by_torchrun() -> bool:
    """Its own process holds the store then, and has opened it before it started us."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def shared_store(host: str, port: int, rank: int, timeout_s: float) -> TCPStore:
    """The first process opens it, the others may come earlier and wait; but what answers must be a store."""
    try:
        socket.getaddrinfo(host, port)  # torch would try an unknown name until its time is up
    except OSError as error:
        raise RuntimeError(f"the name {host} does not resolve here: {error.strerror}") from error
    opens = rank == 0 and not held_by_torchrun()
    if not opens:
        await_open(host, port, timeout_s)
    # Nonsense torch meets again and again until its own time is up: long before ours, or it would end in a thread of a
    # process that is ending. Silence it waits for without end.
    wait = timedelta(seconds=min(timeout_s, HANDSHAKE_S / 3))
    try:
        return in_time(
            lambda: TCPStore(host, port, None, opens, wait, wait_for_workers=False), HANDSHAKE_S
        )
    except (RuntimeError, TimeoutError) as error:
        why = "something else answers there, which is no process of this run"
        if opens:
            taken = "EADDRINUSE" in str(error)  # torch tells it by its words alone
            why = (
                "another process of this machine has that port"
                if taken
                else f"is {host} this machine?"
            )
        raise RuntimeError(f"{why}: {str(error).splitlines()[0]}") from error


def await_open(host: str, port: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(
                (host, port), timeout=max(1.0, deadline - time.monotonic())
            ).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                why = error.strerror or str(error)
                raise RuntimeError(
                    f"process 0 never opened that port, for {timeout_s:g} s: {why}"
                ) from error
        time.sleep(0.1)


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
        got = found.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:g} s") from None
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
        waited = "timed out" in str(error).lower()  # torch tells it by its words alone
        fault = lost(world, waited)
        if fault is None:
            raise
        raise fault from error


def lost(world: World, waited: bool) -> PeerLost | None:
    """The process that was missed: it ended or hangs; or, where time ran out, it is alive and at something else."""
    peers, me = world.peers, f"Process {world.rank} of {world.size}"
    if peers is None:
        return None
    if gone := peers.gone():
        return PeerLost(
            f"{me} lost {peers.name(gone)}, which ended or hangs; its own last words say why, if it had any. The same "
            "command goes on from the last checkpoint."
        )
    if waited and (busy := peers.busy()):
        at = ", ".join(f"{peers.name([rank])} {doing}" for rank, doing in busy.items())
        return PeerLost(
            f"{me} waited in vain for others that are alive: {at}. The same command goes on from the last checkpoint; "
            "where they need that long, give --timeout_s more."
        )
    return None


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
