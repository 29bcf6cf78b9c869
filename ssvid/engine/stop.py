"""SIGUSR2 or SIGTERM to any process -> the step at which all leave: what a cluster sends before it takes a node."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from ssvid.engine.distributed import World

HEEDED = (
    signal.SIGTERM,
    signal.SIGUSR2,
)  # SLURM's at a limit or a preemption, and what submitit asks for instead


class Stop:
    """A signal only sets a number; the loop asks once per step, at its end, whether all leave there."""

    def __init__(self, world: World) -> None:
        self.world, self.came = world, 0
        self.asked: Asked | None = None
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stop":
        if (
            threading.current_thread() is threading.main_thread()
        ):  # Python gives signals to no other
            self.before = {heeded: signal.signal(heeded, self.note) for heeded in HEEDED}
        return self

    def note(self, number: int, _: FrameType | None) -> None:
        self.came = number

    def agreed(self) -> int:
        """The signal at which all processes leave now; 0 to go on. Every process calls it at the end of every step.

        Alone it is the flag. Several ask each other: what is asked at the end of a step is read at the end of the next,
        when the answer came long ago. Read at once it would hold the host, at every step, until the device has done
        all that is queued. So whoever got the signal leaves one step later, and all others with it.
        """
        if self.world.size == 1:
            return self.came
        most = self.asked.read() if self.asked else 0
        self.asked = None if most else Asked(self.came, self.world)
        return most

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        for heeded, before in self.before.items():
            signal.signal(heeded, before)
        if self.asked and kind is None:  # after a fault there may be nobody to answer
            self.asked.read()


class Asked:
    """The largest of all processes' numbers, on its way."""

    def __init__(self, mine: int, world: World) -> None:
        self.number = torch.full((1,), mine, dtype=torch.int32, device=world.device)
        self.work = dist.all_reduce(self.number, dist.ReduceOp.MAX, async_op=True)
        self.done: torch.cuda.Event | None = None
        if world.device.type == "cuda":
            self.work.wait()  # of NCCL this holds the stream, not the host
            self.told = torch.empty(1, dtype=torch.int32, pin_memory=True)
            self.told.copy_(self.number, non_blocking=True)
            self.done = torch.cuda.Event()
            self.done.record()

    def read(self) -> int:
        if self.done is not None:
            self.done.synchronize()  # waits for the step before this one, at most
            return int(self.told)
        self.work.wait()
        return int(self.number)
