"""A counted line -> what a step costs on so many processes, and the limit that it reaches first.

These are estimates, not measurements: no GPU was there. They assume a GPU of 80 GB that computes
150 TFLOP/s of the counted FLOPs. It sends 200 GB/s to the seven others of its node and 25 GB/s (a
card of 200 Gbit/s for each GPU) beyond. A message that waits for an answer takes 50 us.
"""

import math
from typing import Any

from benchmarks.profiling.scaling.scaled import merge_traffic
from benchmarks.profiling.scaling.traffic import Part, Traffic, count_sent_bytes

ROOM, SPEED, WITHIN, BEYOND, MESSAGE = 80e9, 150e12, 200e9, 25e9, 50e-6
NODE = 8  # GPUs
AT_REST = ("parameters", "buffers", "gradients", "buckets", "moments")  # keys of bytes

Line = dict[str, Any]


def traffic_of(line: Line) -> dict[str, Traffic]:
    """Part of a step -> kind of collective -> what one process brings."""
    traffic: dict[str, Traffic] = {}
    for part, kinds in line["sent"].items():
        traffic[part] = {kind: Part(*numbers) for kind, numbers in kinds.items()}
    return traffic


def bytes_sent(line: Line, world: int) -> float:
    """Bytes that a process sends in a step."""
    return count_sent_bytes(merge_traffic(list(traffic_of(line).values())), world)


def bytes_at_rest(line: Line) -> int:
    """Bytes that lie in memory all the time."""
    return sum(line[key] for key in AT_REST)


def memory_of_head(line: Line, world: int) -> float:
    """Bytes beside the encoder's: what is saved for backward, and what is gathered at once.

    Some of them grow with the number of processes.
    """
    a, b, c = line["kept"]
    return float(a + b * world + c * world * world + line["gathered"] * world)


def gflops(line: Line, world: int) -> float:
    """GFLOPs of a step on one GPU.

    They grow with the number of processes where each process computes the loss of all clips.
    """
    a, b, c = line["gflops"]
    return float(line["encoder_gflops"] + a + b * world + c * world * world)


def total_memory(line: Line, world: int) -> float:
    return bytes_at_rest(line) + line["activations"] + memory_of_head(line, world)


def count_small_messages(line: Line) -> int:
    """Messages that a step waits for. Gradients are left out: they are sent while backward runs."""
    messages = 0
    for name, kinds in traffic_of(line).items():
        if name != "gradients":
            messages += sum(part.messages for part in kinds.values())
    return messages


def seconds_of_step(line: Line, world: int) -> dict[str, float]:
    link = WITHIN if world <= NODE else BEYOND
    return {
        "computing": 1e9 * gflops(line, world) / SPEED,
        "sending": bytes_sent(line, world) / link,
        "waiting": count_small_messages(line) * MESSAGE,
    }


def list_strains(line: Line, world: int) -> list[tuple[float, str]]:
    """How near each limit is (1: reached), and its description.

    Limits that make a run impossible come first, then those that make it slow.
    """
    seconds, batch, queue = seconds_of_step(line, world), line["clips"] * world, line["queue"]
    memory, computing = total_memory(line, world), milliseconds(seconds["computing"])
    stops = [(memory / ROOM, f"memory {short(memory / 1e9)} GB")]
    sending = f"link: sends {milliseconds(seconds['sending'])}, computes {computing}"
    waiting = milliseconds(seconds["waiting"])
    waiting = f"{count_small_messages(line)} messages: {waiting} of {computing}"
    slow = [
        (seconds["sending"] / seconds["computing"], sending),
        (seconds["waiting"] / seconds["computing"], waiting),
    ]
    if queue and queue % batch:
        stops.append((math.inf, f"refused: {batch} keys a step, queue {queue}"))
    return sorted(stops, reverse=True) + sorted(slow, reverse=True)


def milliseconds(seconds: float) -> str:
    return f"{short(1e3 * seconds)} ms"


def describe_limit(line: Line, world: int) -> str:
    """The limits that are reached, in bold; otherwise the nearest limit with its share."""
    strains = list_strains(line, world)
    reached = [limit for share, limit in strains if share >= 1]
    share, limit = max(strains)
    return f"**{'; '.join(reached)}**" if reached else f"{limit} ({share:.0%})"


def count_workers(rate: float, clips: int) -> int:
    """Loader processes for so many clips a second. `rate` is the clips a second of one process."""
    return math.ceil(clips / rate)


def short(value: float) -> str:
    """A number with three digits, or all digits from 1000 on; a dash for zero."""
    if value == 0:
        return "-"
    if value < 0.001:
        return "< 0.001"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
