"""two functions -> the ratio of their CPU-seconds, read in turn so that a busy machine slows both alike."""

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from ssvid.engine.features import cpu_seconds

PAIRS = 9


class Case(NamedTuple):
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    unit: str = "CPU-seconds"
    close: Callable[[], Any] = lambda: None
    memory: bool = True  # measured in torch's own allocations; False where the work is outside torch


def spent(function: Callable[[], Any]) -> float:
    began = cpu_seconds()
    function()
    return cpu_seconds() - began


def peak(function: Callable[[], Any]) -> int:
    """Bytes that torch held at most over what it held before: a high-water mark of its own allocations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    held = high = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            high = max(high, held)
    return high


def compare(name: str, case: Case, pairs: int = PAIRS) -> dict[str, Any]:
    """One line of the speed table. ratio = ours / theirs: below 1 we are cheaper."""
    case.ours(), case.theirs()  # the first of each warms up
    read = [(spent(case.ours), spent(case.theirs)) for _ in range(pairs)]
    ours, theirs = (statistics.median(side) for side in zip(*read, strict=True))
    memory = peak(case.ours) / max(1, peak(case.theirs)) if case.memory else None
    case.close()
    return {
        "case": name,
        "ours": round(ours, 4),
        "theirs": round(theirs, 4),
        "ratio": round(statistics.median(a / b for a, b in read), 4),
        "unit": case.unit,
        "memory_ratio": memory if memory is None else round(memory, 4),
        "threads": torch.get_num_threads(),
    }
