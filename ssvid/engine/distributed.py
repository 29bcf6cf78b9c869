"""The environment of torchrun or SLURM -> the rank of this process among those of the run."""

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

from ssvid.commands import phrase_command
from ssvid.engine.rendezvous import Peers, host_name
from ssvid.errors import PeerLost, UserError

# A store answers within this time, however busy its process is, because it has its own thread.
HANDSHAKE_S = 15.0
PORTS = range(20000, 32768)  # below the ports that systems assign by themselves


class World(NamedTuple):
    """This process and the number of processes of the run."""

    rank: int
    size: int
    device: torch.device
    peers: Peers | None = None  # None: this process is the only one

    @property
    def first(self) -> bool:
        return self.rank == 0

    def announce_activity(self, activity: str) -> None:
        """Tell the others what this process does alone while they may wait for it; "": nothing."""
        if self.peers:
            self.peers.doing = activity


def join(devices: str = "auto", timeout_s: float = 600) -> World:
    """Join the process group that torchrun or SLURM started. Without one the process is alone.

    Raises a UserError if a GPU is wanted and there is none, and a PeerLost if the processes do not
    meet within `timeout_s`.
    """
    # SLURM_NTASKS is also set in an salloc shell with one process. Only srun sets the step's.
    by_slurm = "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1
    if by_slurm:
        os.environ.update(read_slurm())
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    use_cuda = torch.cuda.is_available() if devices == "auto" else devices == "cuda"
    if use_cuda and not torch.cuda.is_available():
        raise UserError(
            f"--devices cuda: torch sees no GPU here; {phrase_command('doctor')} says more."
        )
    device = torch.device("cpu")
    if use_cuda:
        # With SLURM's --gpus-per-task each process sees only its own GPU, as number 0.
        number = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    world = World(rank, size, device)
    if size == 1 or dist.is_initialized():
        return world
    return world._replace(peers=meet(world, timeout_s, name_slurm_step() if by_slurm else ""))


def name_slurm_step() -> str:
    """A name for this step and this start of its job.

    A restart must not meet its dead predecessor.
    """
    keys = "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"
    return ".".join(os.environ.get(key, "0") for key in keys)


def read_slurm() -> dict[str, str]:
    """srun's variables -> torch's. A port or an address that the user has chosen stays."""
    from submitit.slurm.slurm import SlurmJobEnvironment

    # The job may hold more nodes than this step. submitit looks for a step only in its own jobs.
    class Step(SlurmJobEnvironment):
        _env = {**SlurmJobEnvironment._env, "nodes": "SLURM_STEP_NODELIST"}  # noqa: RUF012

    port = PORTS[zlib.crc32(name_slurm_step().encode()) % len(PORTS)]
    return {
        "MASTER_ADDR": os.environ.get("MASTER_ADDR") or Step().hostnames[0],
        "MASTER_PORT": os.environ.get("MASTER_PORT") or str(port),
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": os.environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
    }


def meet(world: World, timeout_s: float, run: str) -> Peers:
    """Wait for all processes of the run and set up their process group.

    Raises a PeerLost that says why they did not meet and, if the store knows, who is missing.
    """
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    deadline = time.monotonic() + timeout_s
    try:
        if not host or not port.isdigit():
            raise ValueError(
                "MASTER_ADDR and MASTER_PORT must be set where RANK and WORLD_SIZE are"
            )
        store = open_store(host, int(port), world.rank, timeout_s)
        peers = Peers(store, world.rank, world.size, run)
        if not is_held_by_torchrun():
            peers.await_first(HANDSHAKE_S)
        peers.await_all(max(1.0, deadline - time.monotonic()))
        wait = timedelta(seconds=timeout_s)
        store.set_timeout(wait)
        with together(world._replace(peers=peers)):  # another process may end or hang here
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
            f"Process {world.rank} of {world.size} could not meet the others at {host}:{port} from "
            f"{host_name()} ({why}). Check that the name resolves, that the port is free "
            "(MASTER_PORT, torchrun --master_port) and that all were started."
        ) from error
    joined.append(peers)
    return peers


joined: list[Peers] = []  # the peers of the process group that is up


def leave() -> None:
    """Leave the process group at the good end of a command.

    After an error a lost process could keep this from returning.
    """
    if joined and dist.is_initialized():
        dist.destroy_process_group()
        joined.pop().leave()


def is_held_by_torchrun() -> bool:
    """Whether torchrun's own process holds the store.

    It opened it before it started this process.
    """
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def open_store(host: str, port: int, rank: int, timeout_s: float) -> TCPStore:
    """The store of the run. The first process opens it and the others wait for it.

    Raises a RuntimeError if something else answers at that address.
    """
    try:
        socket.getaddrinfo(host, port)  # torch would try an unknown name until its timeout
    except OSError as error:
        raise RuntimeError(f"the name {host} does not resolve here: {error.strerror}") from error
    opens = rank == 0 and not is_held_by_torchrun()
    if not opens:
        await_open(host, port, timeout_s)
    # torch retries after a wrong answer until its own timeout, which has to be shorter than ours:
    # its thread could outlive the process. It waits for a silent peer without end.
    wait = timedelta(seconds=min(timeout_s, HANDSHAKE_S / 3))

    def connect() -> TCPStore:
        return TCPStore(host, port, None, opens, wait, wait_for_workers=False)

    try:
        return call_with_timeout(connect, HANDSHAKE_S)
    except (RuntimeError, TimeoutError) as error:
        why = "something else answers there, which is no process of this run"
        if opens:
            why = f"is {host} this machine?"
            if "EADDRINUSE" in str(error):  # torch has no class for this error
                why = "another process of this machine has that port"
        raise RuntimeError(f"{why}: {str(error).splitlines()[0]}") from error


def await_open(host: str, port: int, timeout_s: float) -> None:
    """Wait until something listens on the port. A RuntimeError if nothing does."""
    deadline = time.monotonic() + timeout_s
    while True:
        left_s = max(1.0, deadline - time.monotonic())
        try:
            socket.create_connection((host, port), timeout=left_s).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                why = error.strerror or str(error)
                raise RuntimeError(
                    f"process 0 never opened that port, for {timeout_s:g} s: {why}"
                ) from error
        time.sleep(0.1)


def call_with_timeout(function: Callable[[], Any], seconds: float) -> Any:
    """The result of a function, or a TimeoutError.

    torch's own timeout has no effect if a stranger accepts the connection and says nothing.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put(function())
        except Exception as error:  # noqa: BLE001 - the caller's thread raises it below
            answers.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def gather(value: Any, world: World) -> list[Any]:
    """The value of every process, in order of rank. Every process has to call it."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    with together(world):
        dist.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def together(world: World) -> Iterator[None]:
    """Turn an error that a lost process caused into a PeerLost that names the process.

    The backends only say that a connection broke.
    """
    try:
        yield
    except RuntimeError as error:
        timed_out = "timed out" in str(error).lower()  # torch has no class for this error
        fault = find_lost_peer(world, timed_out)
        if fault is None:
            raise
        raise fault from error


def find_lost_peer(world: World, timed_out: bool) -> PeerLost | None:
    """The error that names the missing process; None if no process is missing.

    The process has ended or hangs. After a timeout it may also be alive and busy alone.
    """
    peers, me = world.peers, f"Process {world.rank} of {world.size}"
    if peers is None:
        return None
    if gone := peers.find_lost_ranks():
        return PeerLost(
            f"{me} lost {peers.name(gone)}, which ended or hangs; its own output may say why. The "
            "same command goes on from the last checkpoint."
        )
    if timed_out and (busy := peers.find_busy_ranks()):
        activities = ", ".join(f"{peers.name([rank])} {doing}" for rank, doing in busy.items())
        return PeerLost(
            f"{me} waited in vain for others that are alive: {activities}. The same command goes "
            "on from the last checkpoint; if they need that long, raise --timeout_s."
        )
    return None


def agree(config: dict[str, Any], world: World) -> None:
    """Raise a UserError if the processes have different flags. `config`: flag -> value."""
    for rank, other in enumerate(gather(config, world)):
        differing = [key for key in sorted(config | other) if config.get(key) != other.get(key)]
        if differing:
            key = differing[0]
            raise UserError(
                f"Process {rank} was started with other flags than process {world.rank}: --{key} "
                f"{other.get(key)} there, {config.get(key)} here. Start all of them alike."
            )


def gather_numbers(numbers: dict[str, float], world: World) -> dict[str, list[float]]:
    """Name -> the numbers of all processes, in order of rank."""
    rows = gather(numbers, world)
    return {name: [row[name] for row in rows] for name in numbers}
