"""SIGTERM or SIGUSR2 to any process -> the step after which all processes stop.

A cluster sends such a signal before it takes a node away.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from ssvid.engine.distributed import World

# SLURM sends SIGTERM at a time limit or a preemption; submitit asks for SIGUSR2 instead.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class Stop:
    """Notes signals. The loop asks at the end of every step whether all processes stop there."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.received = 0  # the signal that this process received last; 0: none
        self.question: StopQuestion | None = None
        self.handlers: dict[signal.Signals, Any] = {}  # from before

    def __enter__(self) -> "Stop":
        # Python delivers signals to the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self.handlers[number] = signal.signal(number, self.receive_signal)
        return self

    def receive_signal(self, number: int, _: FrameType | None) -> None:
        """The signal handler."""
        self.received = number

    def agree_on_signal(self) -> int:
        """The signal after which all processes stop now; 0 to continue.

        Every process has to call it at the end of every step. A question that is asked at the end
        of a step is read at the end of the next one, when its answer has long arrived. Reading it
        at once would block the host in every step until the device has finished its queue. So all
        processes stop one step after the signal.
        """
        if self.world.size == 1:
            return self.received
        answer = self.question.read() if self.question else 0
        self.question = None if answer else StopQuestion(self.received, self.world)
        return answer

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if self.question and kind is None:  # after an error nobody may be left to answer
            self.question.read()


class StopQuestion:
    """The largest signal number of all processes. It is reduced while the next step runs."""

    def __init__(self, received: int, world: World) -> None:
        self.number = torch.full((1,), received, dtype=torch.int32, device=world.device)
        self.work = dist.all_reduce(self.number, dist.ReduceOp.MAX, async_op=True)
        self.copied: torch.cuda.Event | None = None
        if world.device.type == "cuda":
            self.work.wait()  # with NCCL it blocks the stream and not the host
            self.on_host = torch.empty(1, dtype=torch.int32, pin_memory=True)
            self.on_host.copy_(self.number, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()

    def read(self) -> int:
        """The answer. On a GPU it waits at most for the step before the current one."""
        if self.copied is not None:
            self.copied.synchronize()
            return int(self.on_host)
        self.work.wait()
        return int(self.number)
