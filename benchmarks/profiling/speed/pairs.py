"""two functions -> the ratio of their costs, read in turn so that a busy machine slows both alike."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssvid.engine.features import cpu_seconds

PAIRS = 9
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # of the cases that train


class Case(NamedTuple):
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    unit: str = "CPU-seconds"
    close: Callable[[], Any] = lambda: None
    memory: Callable[[Callable[[], Any]], int] | None = None  # of one side, in bytes
    clock: Callable[[], float] = cpu_seconds  # this process and its ended children
    more: Callable[[], dict[str, Any]] = dict  # what else the line tells
    pairs: int = PAIRS  # fewer where a side takes long


def steps(ours: Callable[[], Any], theirs: Callable[[], Any]) -> Case:
    """A training step of each side: CPU-seconds and what autograd keeps; on a GPU, seconds and the
    allocator's peak.
    """
    if DEVICE.type == "cpu":
        return Case(ours, theirs, "CPU-seconds of a step, forward and backward", memory=saved_bytes)
    return Case(
        ours,
        theirs,
        "seconds of a step, forward and backward",
        memory=allocated_bytes,
        clock=gpu_seconds,
    )


def gpu_seconds() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def allocated_bytes(function: Callable[[], Any]) -> int:
    """The most that the GPU's allocator gave out beyond what was there."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return torch.cuda.max_memory_allocated() - before


def saved_bytes(function: Callable[[], Any]) -> int:
    """The most that was kept for backward at once."""
    saved = Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        function()
    return saved.most


class Saved:
    """What autograd keeps: each storage once, until the last node that wants it is freed.

    Parameters do not count.
    """

    def __init__(self) -> None:
        self.users: Counter[int] = (
            Counter()
        )  # of a storage, by its handle: those of fake tensors have no address
        self.now = self.most = 0  # bytes

    def pack(self, tensor: Tensor) -> "Held | Tensor":
        whole = tensor if tensor._base is None else tensor._base
        alone = tensor.detach()  # else a node that saves its own result would hold itself
        return alone if whole.is_leaf and whole.requires_grad else Held(self, alone)

    def unpack(self, kept: "Held | Tensor") -> Tensor:
        return kept.tensor if isinstance(kept, Held) else kept

    def use(self, storage: torch.UntypedStorage, users: int) -> None:
        """`users` more, or less, of a storage."""
        before = self.users[storage._cdata]
        self.users[storage._cdata] += users
        if not before or not before + users:
            self.now += users * storage.nbytes()
            self.beside(0)

    def beside(self, more: int) -> None:
        """For a moment so many bytes are there too, of which the hooks hear nothing."""
        self.most = max(self.most, self.now + more)


class Held:
    """A tensor in the graph. It goes when its node is freed, and tells so."""

    def __init__(self, saved: Saved, tensor: Tensor) -> None:
        self.saved, self.tensor = saved, tensor
        saved.use(tensor.untyped_storage(), +1)

    def __del__(self) -> None:
        self.saved.use(self.tensor.untyped_storage(), -1)


def compare(name: str, case: Case, pairs: int | None = None) -> dict[str, Any]:
    """One line of the speed table. ratio = ours / theirs: below 1 we are cheaper."""
    case.ours(), case.theirs()  # the first of each warms up
    read = in_turn((case.ours, case.theirs), case.clock, pairs or case.pairs)
    ours, theirs = (statistics.median(side) for side in zip(*read, strict=True))
    held = case.memory and case.memory(case.ours) / case.memory(case.theirs)
    case.close()
    return {
        "case": name,
        "ours": round(ours, 4),
        "theirs": round(theirs, 4),
        "ratio": round(statistics.median(a / b for a, b in read), 4),
        "unit": case.unit,
        "memory_ratio": held and round(held, 4),
        "threads": torch.get_num_threads(),
        **case.more(),
    }


def in_turn(
    sides: Sequence[Callable[[], Any]], clock: Callable[[], float], rounds: int
) -> list[tuple[float, ...]]:
    """What each side costs, round by round."""
    return [tuple(spent(side, clock) for side in sides) for _ in range(rounds)]


def spent(function: Callable[[], Any], clock: Callable[[], float]) -> float:
    began = clock()
    function()
    return clock() - began
