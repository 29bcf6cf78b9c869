"""A step among n processes -> what each of them sends, by kind of collective.

The calls of torch's collectives are recorded. The processes are real, or `play_process` stands for
them: one process plays the first of n, and the others are simulated.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

WARMED = 3  # steps: in the first steps torch rearranges its buckets


class Part(NamedTuple):
    """What one process contributes to all collectives of a kind.

    For an exchange this is what it sends to each other process.
    """

    messages: int
    bytes: int


Traffic = dict[str, Part]  # by kind of collective


class Sent(TorchDispatchMode):
    """Records the collectives that this process calls while the mode is on."""

    def __init__(self, world: int) -> None:
        super().__init__()
        self.world, self.messages, self.bytes = world, dict[str, int](), dict[str, Fraction]()
        self.largest_gather = 0  # bytes of one process

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.note(func._schema.name.removeprefix("c10d::").strip("_"), args)
        return func(*args, **(kwargs or {}))

    def note(self, name: str, args: Any) -> None:
        kind, brought = collective(name, args, self.world)
        self.messages[kind] = self.messages.get(kind, 0) + 1
        self.bytes[kind] = self.bytes.get(kind, Fraction(0)) + brought
        if kind == "all_gather":
            self.largest_gather = max(self.largest_gather, int(brought))

    @property
    def traffic(self) -> Traffic:
        return {kind: Part(n, int(self.bytes[kind])) for kind, n in sorted(self.messages.items())}


def collective(name: str, args: Any, world: int) -> tuple[str, Fraction]:
    """A collective's kind, and the bytes that one process contributes.

    Raises NotImplementedError for an unknown kind, because zero would be wrong.
    """
    if name == "allreduce":
        return "all_reduce", size(args[0])
    if name == "broadcast":
        return "broadcast", size(args[0])
    if name in ("allgather", "allgather_base"):
        return "all_gather", size(args[1])
    if name == "alltoall":
        return "exchange", size(args[1]) / world
    if name == "scatter":  # gloo has no exchange: each process scatters in turn
        return "exchange", size(args[0]) / world
    if name == "barrier":
        return "barrier", Fraction(0)
    raise NotImplementedError(f"bytes of the collective {name}")


def size(tensors: Any) -> Fraction:
    """Bytes of all tensors in lists of lists."""
    if isinstance(tensors, Tensor):
        return Fraction(tensors.numel() * tensors.element_size())
    return sum((size(part) for part in tensors), Fraction(0))


def count_sent_bytes(traffic: Traffic, world: int) -> float:
    """Bytes that a process sends, as the mean of all processes.

    The algorithms are rings, and trees whose inner nodes pass on what they receive.
    """
    n = world
    share = {
        "all_reduce": 2 * (n - 1) / n,
        "broadcast": (n - 1) / n,
        "all_gather": n - 1,
        "exchange": n - 1,
    }
    return float(sum(share[kind] * part.bytes for kind, part in traffic.items() if kind in share))


@contextmanager
def play_process(world: int) -> Iterator[None]:
    """Plays the first of `world` processes; with 1 it is alone.

    What it gathers is its own data, repeated.
    """
    if world == 1:
        yield
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of functions that it will rename
            yield
    finally:
        dist.destroy_process_group()


class Everything(nn.Module):
    """A loss that uses every weight, whatever the objective does with it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self) -> Tensor:
        return torch.stack([p.sum() for p in self.module.parameters()]).sum()


def synchronising(module: nn.Module, world: int) -> Traffic:
    """Gradients (all_reduce) and buffers (broadcast) of a step, as torch's DDP sends them."""
    wrapped = DistributedDataParallel(Everything(module))
    # The played group's own reduction returns a result that DDP does not accept.
    wrapped.register_comm_hook(None, reduce_bucket)
    for _ in range(WARMED):
        with Sent(world) as sent:
            wrapped().backward()
    return sent.traffic


# torch checks these annotations itself, so that `Any` is not possible.
def reduce_bucket(
    state: None,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    dist.all_reduce(bucket.buffer())
    future.set_result(bucket.buffer())
    return future
