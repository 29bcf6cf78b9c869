"""Two functions -> the ratio of their costs.

Both are measured in turn, so that a busy machine slows both by the same amount.
"""

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
    """Two functions that do the same work, and how to measure them."""

    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    unit: str = "CPU-seconds"
    close: Callable[[], Any] = lambda: None
    memory: Callable[[Callable[[], Any]], int] | None = None  # of one side, in bytes
    clock: Callable[[], float] = cpu_seconds  # this process and its ended children
    extras: Callable[[], dict[str, Any]] = dict  # further keys of the output line
    pairs: int = PAIRS  # fewer where a side takes long


def steps(ours: Callable[[], Any], theirs: Callable[[], Any]) -> Case:
    """A case of two training steps.

    On a CPU it measures CPU-seconds and the bytes that autograd saves. On a GPU it measures
    seconds and the peak of the allocator.
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
    """Wall-clock seconds, read once the GPU has finished its work."""
    torch.cuda.synchronize()
    return time.perf_counter()


def allocated_bytes(function: Callable[[], Any]) -> int:
    """The peak of the GPU's allocated bytes, above those that were allocated before."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return torch.cuda.max_memory_allocated() - before


def saved_bytes(function: Callable[[], Any]) -> int:
    """The most bytes that `function` saves for backward at once."""
    saved = SavedTensors()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        function()
    return saved.most


class SavedTensors:
    """Counts the bytes that autograd saves.

    Each storage counts once, until the last node that needs it is freed. Parameters do not count.
    """

    def __init__(self) -> None:
        # Number of users by the handle of a storage: storages of fake tensors have no address.
        self.users: Counter[int] = Counter()
        self.current = self.most = 0  # bytes

    def pack(self, tensor: Tensor) -> "TrackedTensor | Tensor":
        whole = tensor if tensor._base is None else tensor._base
        # Without detach a node that saves its own result would keep itself alive.
        detached = tensor.detach()
        is_parameter = whole.is_leaf and whole.requires_grad
        return detached if is_parameter else TrackedTensor(self, detached)

    def unpack(self, packed: "TrackedTensor | Tensor") -> Tensor:
        return packed.tensor if isinstance(packed, TrackedTensor) else packed

    def use(self, storage: torch.UntypedStorage, users: int) -> None:
        """Adds `users` to the users of a storage; a negative number removes them."""
        before = self.users[storage._cdata]
        self.users[storage._cdata] += users
        if not before or not before + users:
            self.current += users * storage.nbytes()
            self.add_untracked(0)

    def add_untracked(self, untracked: int) -> None:
        """For a moment so many bytes are saved too, which the hooks do not see."""
        self.most = max(self.most, self.current + untracked)


class TrackedTensor:
    """A tensor in the graph. When its node is freed, it is deleted and no longer counts."""

    def __init__(self, saved: SavedTensors, tensor: Tensor) -> None:
        self.saved, self.tensor = saved, tensor
        saved.use(tensor.untyped_storage(), +1)

    def __del__(self) -> None:
        self.saved.use(self.tensor.untyped_storage(), -1)


def compare(name: str, case: Case, pairs: int | None = None) -> dict[str, Any]:
    """One line of the speed table. ratio = ours / theirs: below 1 ours is cheaper."""
    case.ours(), case.theirs()  # the first run of each side warms up
    costs = measure_in_turn((case.ours, case.theirs), case.clock, pairs or case.pairs)
    ours, theirs = (statistics.median(side) for side in zip(*costs, strict=True))
    memory_ratio = case.memory and case.memory(case.ours) / case.memory(case.theirs)
    case.close()
    return {
        "case": name,
        "ours": round(ours, 4),
        "theirs": round(theirs, 4),
        "ratio": round(statistics.median(a / b for a, b in costs), 4),
        "unit": case.unit,
        "memory_ratio": memory_ratio and round(memory_ratio, 4),
        "threads": torch.get_num_threads(),
        **case.extras(),
    }


def measure_in_turn(
    sides: Sequence[Callable[[], Any]], clock: Callable[[], float], rounds: int
) -> list[tuple[float, ...]]:
    """The cost of each side, round by round."""
    costs = []
    for _ in range(rounds):
        costs.append(tuple(measure_cost(side, clock) for side in sides))
    return costs


def measure_cost(function: Callable[[], Any], clock: Callable[[], float]) -> float:
    """How far `clock` goes while `function` runs."""
    began = clock()
    function()
    return clock() - began
