"""Small objectives on two SLURM nodes -> bytes that went through sockets, beside the counted bytes.

`srun -N2 -n2 --ntasks-per-node=1 python -m benchmarks.profiling.scaling.anchor` is one side. The
other side uses -N1 -n1: one process with the clips of both. Both nodes are on this machine, so that
their network is its memory.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.profiling.scaling.batches import build_batch
from benchmarks.profiling.scaling.scaled import Subject, count_traffic
from benchmarks.profiling.scaling.traffic import WARMED, Sent, count_sent_bytes
from ssvid.engine import optim
from ssvid.engine.distributed import gather, join
from ssvid.engine.features import cpu_seconds
from ssvid.errors import UserError
from ssvid.nn.sync_bn import synchronise

SMALL = {"frames": 8, "size": 64}
PICTURES = {"width": 96, "depth": 4, "heads": 2, "patch": 8, "dim": 64}
FEW = {"frames": 4, "size": 32}
READER = {"options": {"width": 96, "layers": 2, "heads": 3, "dropout": 0.0}}
BLOCKS = {"blocks": 4, "predicted": 2}
ANCHORS = (  # clips are those of each of the two processes
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
    Subject("clip", "clip_vit", 2, net={**PICTURES, **FEW}, options={"tower": "words"}),
    Subject(
        "xclip",
        "xclip",
        2,
        net={"image": "clip_vit", "image_kwargs": PICTURES, **FEW},
        options={"tower": "words", "train": "both", "mixup": 0.0, "cutmix": 0.0},
    ),
    Subject("video_text", "vit_small", 2, net=SMALL, options={"tower": "words", "heads": 6}),
    Subject("masked_distillation", "vit_small", 4, net=SMALL, options={"dec_dim": 128}),
    Subject("litevl_retrieval", "litevl_tiny", 4, net=FEW, options={"queue": 64, **READER}),
    Subject("litevl_qa", "litevl_tiny", 4, net=FEW, options=READER),
)
STEPS, ROUNDS = 4, 3
SENT_OFFSET = 200  # bytes: where tcpi_bytes_sent is in Linux' struct tcp_info
SIDES = {"one": ["-N1", "-n1"], "two": ["-N2", "-n2", "--ntasks-per-node=1"]}


def compare_sides() -> Iterator[dict[str, Any]]:
    """A line for each of ANCHORS. Raises UserError where SLURM's `srun` is missing."""
    if shutil.which("srun") is None:
        raise UserError(
            "srun is not installed: `anchor` needs a SLURM of two nodes. Leave out `anchor`."
        )
    rounds: dict[str, list[list[dict[str, Any]]]] = {"one": [], "two": []}
    for _ in range(ROUNDS):
        for side, outputs in rounds.items():
            outputs.append(run_side(side))
    for i, subject in enumerate(ANCHORS):
        alone = [lines[i] for lines in rounds["one"]]
        paired = [lines[i] for lines in rounds["two"]]
        cpu_alone, cpu_paired = column(alone, "cpu"), column(paired, "cpu")
        traffic = count_traffic(subject, 2, half=False)
        expected, measured = count_sent_bytes(traffic, 2), statistics.median(column(paired, "sent"))
        ratios = [b / a for a, b in zip(cpu_alone, cpu_paired, strict=True)]
        yield {
            "part": "anchor",
            "name": subject.name,
            "objective": subject.objective,
            "clips": 2 * subject.clips,
            "seen": {kind: part[1] for kind, part in paired[0]["traffic"].items()},
            "counted": {kind: part.bytes for kind, part in traffic.items()},
            "expected_sent": round(expected),
            "measured_sent": round(measured),
            "sent_ratio": round(measured / expected, 4),
            "cpu_one": round(statistics.median(cpu_alone), 4),
            "cpu_two": round(statistics.median(cpu_paired), 4),
            "cpu_ratio": round(statistics.median(ratios), 3),
            "rounds": ROUNDS,
            "steps": STEPS,
        }


def column(lines: list[dict[str, Any]], key: str) -> list[float]:
    return [line[key] for line in lines]


def run_side(side: str) -> list[dict[str, Any]]:
    """Runs all subjects on one process or two, in float32, with one thread a process.

    Raises UserError where srun fails.
    """
    command = ["srun", *SIDES[side], sys.executable, "-m", "benchmarks.profiling.scaling.anchor"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, env=env)
    if process.returncode:
        reason = process.stderr.strip().splitlines()[-1]
        raise UserError(f"{' '.join(command[:4])} failed: {reason}")
    return [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]


def main(names: list[str]) -> None:
    """Measures the named subjects in this process and its group; without a name all subjects."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch warns of functions that it will rename
    world = join("cpu", timeout_s=120.0)
    for subject in ANCHORS:
        if names and subject.name not in names:
            continue
        lines = gather(measure_step(build_step(subject, world.size), world.size), world)
        if world.first:
            sent, cpu = statistics.fmean(column(lines, "sent")), sum(column(lines, "cpu"))
            output = {"name": subject.name, "sent": sent, "cpu": cpu}
            print(json.dumps({**output, "traffic": lines[0]["traffic"]}), flush=True)
    if world.size > 1:
        dist.destroy_process_group()


def build_step(subject: Subject, world: int) -> Callable[[], None]:
    """A training step of the subject on the clips of this process, with AdamW."""
    torch.manual_seed(0)
    objective: Any = subject.build()
    module: torch.nn.Module = objective
    if world > 1:
        if subject.sync_bn:
            synchronise(objective)
        module = DistributedDataParallel(objective)
    adam = optim.make("adamw", objective, 0.05, (0.9, 0.95), {})
    optim.set_rates(adam, 1e-4, freeze=False)
    batch: Any = build_batch(objective, 2 * subject.clips // world)
    for key in ("clips", "features"):
        if key in batch:
            batch[key] = torch.randn(batch[key].shape)

    def run_step() -> None:
        loss: Tensor = module(batch).total
        loss.backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
        objective.after_step(0.5)

    return run_step


def measure_step(run_step: Callable[[], None], world: int) -> dict[str, Any]:
    """Bytes that this process's sockets sent in a step, CPU-seconds, and torch's collectives."""
    for _ in range(WARMED):
        run_step()
    with Sent(world) if world > 1 else contextlib.nullcontext() as sent:
        run_step()
    before, began = socket_bytes(), cpu_seconds()
    for _ in range(STEPS):
        run_step()
    cpu, sent_bytes = cpu_seconds() - began, socket_bytes() - before
    return {
        "sent": sent_bytes / STEPS,
        "cpu": cpu / STEPS,
        "traffic": sent.traffic if sent else {},
    }


def socket_bytes() -> int:
    """Bytes that all TCP sockets of this process have sent so far, as the kernel counts them."""
    total = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            if not os.readlink(link).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(link.name))) as copy:
                is_internet = copy.family in (socket.AF_INET, socket.AF_INET6)
                if is_internet and copy.type == socket.SOCK_STREAM:
                    info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    total += struct.unpack_from("Q", info, SENT_OFFSET)[0]
        except OSError:
            continue  # the socket was closed meanwhile
    return total


if __name__ == "__main__":
    main(sys.argv[1:])
