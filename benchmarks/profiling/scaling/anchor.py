"""Steps of small objectives among two SLURM nodes -> bytes that went through sockets, against those
that were counted.

`srun -N2 -n2 --ntasks-per-node=1 python -m benchmarks.profiling.scaling.anchor` is one side, the
same with -N1 -n1 the other: one process that has the clips of both. Both nodes are on this machine,
so their network is its memory.
"""

import contextlib
import json
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.profiling.scaling.scaled import Subject, build_batch, count_traffic
from benchmarks.profiling.scaling.traffic import WARMED, Sent, wire
from ssvid.engine import optim
from ssvid.engine.distributed import gather, join
from ssvid.engine.features import cpu_seconds
from ssvid.errors import UserError
from ssvid.nn.sync_bn import synchronise

SMALL = {"frames": 8, "size": 64}
BLOCKS = {"blocks": 4, "predicted": 2}
ANCHORS = (  # clips of each of the two
    Subject("mae", "vit_small", 4, net=SMALL),
    Subject("partial_mae", "vit_small", 4, net=SMALL, options={"task": "video_text"}),
    Subject("dpc", "resnet18_2d3d", 2, net={"frames": 3, "size": 64}, options=BLOCKS),
    Subject("memdpc", "resnet18_2d3d", 2, net={"frames": 3, "size": 64}, options=BLOCKS),
    Subject("infonce", "s3d", 2, net=SMALL),
    Subject("infonce", "s3d", 2, net=SMALL, sync_bn=False, note="sync_bn false"),
    Subject("coclr", "s3d", 2, net=SMALL, options={"sampler": "random"}),
    Subject("mil_nce", "s3dg", 2, net=SMALL),
    Subject("tan", "", 4, options={"video_layers": 2, "joint_layers": 3}),
    Subject("two_view", "vit_small", 2, net=SMALL, note="ntxent"),
)
STEPS, ROUNDS = 4, 3
SENT_AT = 200  # of tcpi_bytes_sent in Linux' struct tcp_info
SIDES = {"one": ["-N1", "-n1"], "two": ["-N2", "-n2", "--ntasks-per-node=1"]}


def anchored() -> Iterator[dict[str, Any]]:
    if shutil.which("srun") is None:
        raise UserError(
            "There is no srun here: the measured part wants a SLURM of two nodes; leave out `anchor`."
        )
    rounds = [{side: run(side) for side in SIDES} for _ in range(ROUNDS)]
    for at, subject in enumerate(ANCHORS):
        one, two = ([each[side][at] for each in rounds] for side in SIDES)
        traffic = count_traffic(subject, 2, half=False)
        expected, measured = wire(traffic, 2), statistics.median(line["sent"] for line in two)
        ratios = [b["cpu"] / a["cpu"] for a, b in zip(one, two, strict=True)]
        yield {
            "part": "anchor",
            "name": subject.name,
            "objective": subject.objective,
            "clips": 2 * subject.clips,
            "seen": {kind: part[1] for kind, part in two[0]["traffic"].items()},
            "counted": {kind: part.bytes for kind, part in traffic.items()},
            "expected_sent": round(expected),
            "measured_sent": round(measured),
            "sent_ratio": round(measured / expected, 4),
            "cpu_one": round(statistics.median(line["cpu"] for line in one), 4),
            "cpu_two": round(statistics.median(line["cpu"] for line in two), 4),
            "cpu_ratio": round(statistics.median(ratios), 3),
            "rounds": ROUNDS,
            "steps": STEPS,
        }


def run(side: str) -> list[dict[str, Any]]:
    """All subjects, on one process or two; float32, one thread of each."""
    command = ["srun", *SIDES[side], sys.executable, "-m", "benchmarks.profiling.scaling.anchor"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise UserError(f"{' '.join(command[:4])} failed: {done.stderr.strip().splitlines()[-1]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def main(names: list[str]) -> None:
    """Those subjects that are named; without a name all."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch's own, of functions that it renames
    world = join("cpu", timeout_s=120.0)
    for subject in (one for one in ANCHORS if not names or one.name in names):
        torch.manual_seed(0)
        made = subject.build()
        module: torch.nn.Module = made
        if world.size > 1:
            if subject.sync_bn:
                synchronise(made)
            module = DistributedDataParallel(made)
        adam = optim.make("adamw", made, 0.05, (0.9, 0.95))
        optim.set_rates(adam, 1e-4, freeze=False)
        batch: Any = build_batch(made, 2 * subject.clips // world.size)
        for key in ("clips", "features"):
            if key in batch:
                batch[key] = torch.randn(batch[key].shape)

        def step(
            module: Any = module, made: Any = made, adam: Any = adam, batch: Any = batch
        ) -> None:
            loss: Tensor = module(batch).total
            loss.backward()
            adam.step()
            adam.zero_grad(set_to_none=True)
            made.after_step(0.5)

        lines = gather(measured(step, world.size), world)
        if world.first:
            mean = {key: statistics.fmean(line[key] for line in lines) for key in ("sent",)}
            total = {"cpu": sum(line["cpu"] for line in lines), "traffic": lines[0]["traffic"]}
            print(json.dumps({"name": subject.name, **mean, **total}), flush=True)
    if world.size > 1:
        dist.destroy_process_group()


def measured(step: Any, world: int) -> dict[str, Any]:
    """Of a step: bytes that this process's sockets sent, CPU-seconds; and what of it torch was
    asked for.
    """
    for _ in range(WARMED):
        step()
    with Sent(world) if world > 1 else contextlib.nullcontext() as sent:
        step()
    before, began = socket_bytes(), cpu_seconds()
    for _ in range(STEPS):
        step()
    spent, went = cpu_seconds() - began, socket_bytes() - before
    return {"sent": went / STEPS, "cpu": spent / STEPS, "traffic": sent.traffic if sent else {}}


def socket_bytes() -> int:
    """What all TCP sockets of this process have sent so far, as the kernel counts it."""
    total = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            if not os.readlink(link).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(link.name))) as own:
                if (
                    own.family in (socket.AF_INET, socket.AF_INET6)
                    and own.type == socket.SOCK_STREAM
                ):
                    info = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    total += struct.unpack_from("Q", info, SENT_AT)[0]
        except OSError:
            continue  # closed meanwhile
    return total


if __name__ == "__main__":
    main(sys.argv[1:])
