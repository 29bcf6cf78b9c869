"""`partial_mae` with tokens dropped against the same task on all of them -> lines of cost, and a
plot.

Steps of short clips are run, the sides in turn. Of long clips bytes and FLOPs are counted, and
nothing is computed, but for one length that is run once, each time in a process of its own, so that
the peak of its memory is its own.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.profiling.speed.counted import Side, counted, kept, step
from benchmarks.profiling.speed.large import peak
from benchmarks.profiling.speed.pairs import DEVICE, in_turn, spent, steps
from benchmarks.reports.figure_style import BLUE, COLOURS, GREY, INK, encode_png, in_house_style
from ssvid import create_encoder, registry
from ssvid.engine.features import cpu_seconds
from ssvid.objective import Objective
from ssvid.shapes import Batch

TASKS, LONG = ("classification", "video_text"), "long_video"
DROPS, PART = (0.5, 0.75, 0.9), 0.25  # of the tokens; PART of all is reconstructed, or none
LENGTHS = (
    16,
    32,
    64,
    128,
    256,
    512,
    1024,
    2048,
)  # frames, counted; the last ones tell where dense runs out
ANCHOR, ANCHORS = 64, ((0.0, 0.0), (0.9, PART))  # frames of what is run once; drop, part
ROUNDS, CLASSES = 3, 400
COUNTED = "bytes and GFLOPs of a step, counted without running it"
ONCE = "CPU-seconds of a first step, run once"
ASKED: dict[str, dict[float, tuple[float, ...]]] = {
    "step_ratio": {0.75: (2.5,), 0.9: (4, 6)},
    "memory_ratio": {0.75: (2.8, 3.9), 0.9: (6, 9)},
}
LIMITS = {25: "25 GB: this machine", 80: "80 GB", 141: "141 GB"}
LINES, PLOT = "docs/turbo_speed.jsonl", "docs/turbo_cost.png"

Line = dict[str, Any]


class Net(NamedTuple):
    """What is measured: ViT-B on two clips of 16 x 224 x 224; on one where the clips are long."""

    name: str = "vit_base"
    options: dict[str, Any] = {}
    frames: int = 16
    size: int = 224
    clips: int = 2

    def objective(self, task: str, drop: float, part: float) -> Objective:
        """drop 0 and part 0: the dense side. Without a part no decoder is built."""
        torch.manual_seed(0)
        encoder = create_encoder(self.name, frames=self.frames, size=self.size, **self.options)
        more = {
            "rec_weight": 1.0 if part else 0.0,
            "classes": None if task == "video_text" else CLASSES,
        }
        return registry.objectives["partial_mae"](
            encoder, task=task, drop_ratio=drop, predict_ratio=part, **more
        )

    def batch(self, clips: int, frames: int) -> Batch:
        """Random pixels as the engine gives them, a class and a sentence for each clip."""
        each = torch.arange(clips)
        pixels = torch.randn(clips, 1, 3, frames, self.size, self.size)
        said = [[f"now cut onion number {i} into thin rings"] for i in range(clips)]
        return {
            "clips": pixels,
            "index": each,
            "epoch": each,
            "label": each,
            "sentences": said,
            "seed": 0,
        }


WHOLE = Net()


def main(
    net: Net = WHOLE, lengths: Sequence[int] = LENGTHS, lines: str = LINES, plot: str = PLOT
) -> None:
    """One JSON line for each setting, on the screen and in a file, then the plot."""
    parts = [by_length(net, lengths), *(measured(net, task) for task in TASKS)]  # minutes come last
    if DEVICE.type == "cpu" and net == WHOLE:  # processes of their own know no other net
        parts.append(anchored(net))
    read = []
    with Path(lines).open("w") as file:
        for line in chain(*parts):
            read.append(line)
            for out in (file, sys.stdout):
                print(json.dumps(line), file=out, flush=True)
    Path(plot).write_bytes(encode_png(draw(read)))


def measured(net: Net, task: str, rounds: int = ROUNDS) -> Iterator[Line]:
    """Dense, without and with reconstruction in turn, for each share.

    Bytes are counted as the first of each runs.
    """
    run, whole = run_of(net, task, 0.0, 0.0)
    kind = steps(run, run)
    assert kind.memory is not None  # of steps
    whole = whole._replace(bytes=kind.memory(run))
    for drop in DROPS:
        made = [run_of(net, task, drop, part) for part in (0.0, PART)]
        sides = [side._replace(bytes=kind.memory(dropped)) for dropped, side in made]
        read = in_turn((run, *(dropped for dropped, _ in made)), kind.clock, rounds)
        dense, *each = zip(*read, strict=True)
        for part, side, costs in zip((0.0, PART), sides, each, strict=True):
            ratio = statistics.median(a / b for a, b in zip(dense, costs, strict=True))
            own, other = (
                x._replace(step=statistics.median(y)) for x, y in ((side, costs), (whole, dense))
            )
            setting = {
                "task": task,
                "drop": drop,
                "part": part,
                "frames": net.frames,
                "clips": net.clips,
            }
            yield line_of(setting, own, other, kind.unit, ratio, pairs=rounds)


def run_of(net: Net, task: str, drop: float, part: float) -> tuple[Callable[[], None], Side]:
    """A step, forward and backward, no optimiser; and what of it can be counted."""
    made = net.objective(task, drop, part)
    side = counted(made, partial(net.batch, net.clips, net.frames))
    batch: Any = net.batch(net.clips, net.frames)
    batch = {
        key: value.to(DEVICE) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }
    return partial(step, made.to(DEVICE), batch), side


def by_length(net: Net, lengths: Sequence[int] = LENGTHS) -> Iterator[Line]:
    """Counted only, one clip at a time, with and without blocks that recompute.

    Dense is what keeps everything.
    """
    dense: dict[int, Side] = {}
    for drop, part in ((0.0, 0.0), *product(DROPS, (0.0, PART))):
        made = net.objective(LONG, drop, part)
        for again, frames in product((False, True), lengths):
            own = counted(made, partial(net.batch, 1, frames), recompute=again)
            setting = {"task": LONG, "drop": drop, "part": part, "frames": frames, "clips": 1}
            yield line_of(setting, own, dense.setdefault(frames, own), COUNTED, recompute=again)


def anchored(net: Net, frames: int = ANCHOR) -> Iterator[Line]:
    """Long clips that are really run, once each."""
    sides: list[Side] = []
    for drop, part in ANCHORS:
        command = [
            sys.executable,
            "-m",
            "benchmarks.profiling.speed.turbo",
            *map(str, (drop, part, frames)),
        ]
        got = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        )
        side = counted(net.objective(LONG, drop, part), partial(net.batch, 1, frames))
        sides.append(side._replace(bytes=got["memory"], step=got["step"]))
        setting = {"task": LONG, "drop": drop, "part": part, "frames": frames, "clips": 1}
        yield line_of(
            setting,
            sides[-1],
            sides[0],
            ONCE,
            sides[0].step / got["step"],
            1,
            peak_gib=got["peak_gib"],
        )


def once(net: Net, drop: float, part: float, frames: int) -> Line:
    """The first step of this process.

    `peak_gib` is what it took beyond what the net and its clip had taken.
    """
    made, batch = net.objective(LONG, drop, part), net.batch(1, frames)
    before, got = peak(), Line()
    cost = spent(lambda: got.update(memory=kept(made, batch)), cpu_seconds)
    return {**got, "step": cost, "peak_gib": round(peak() - before, 3)}


def line_of(
    setting: Line,
    own: Side,
    dense: Side,
    unit: str,
    ratio: float | None = None,
    pairs: int = 0,
    recompute: bool = False,
    **more: Any,
) -> Line:
    """Ratios are dense / dropped: above 1 dropping is cheaper."""
    return {
        "case": "turbo",
        **setting,
        "recompute": recompute,
        "step": own.step and round(own.step, 4),
        "step_ratio": ratio and round(ratio, 3),
        "memory": own.bytes,
        "memory_ratio": round(dense.bytes / own.bytes, 3),
        "gflops": round(own.flops / 1e9, 4),
        "gflops_ratio": round(dense.flops / own.flops, 3),
        "unit": unit,
        "tokens": own.tokens,
        "floor_gflops": round(own.floor / 1e9, 4),
        "dense": {
            "step": dense.step and round(dense.step, 4),
            "memory": dense.bytes,
            "gflops": round(dense.flops / 1e9, 4),
        },
        "attention": own.attention,
        "pairs": pairs,
        "threads": torch.get_num_threads(),
        **more,
    }


@in_house_style
def draw(read: Sequence[Line]) -> Figure:
    """Above: dense / dropped against the share that is dropped.

    Below: what a clip costs against its length.
    """
    figure = Figure(figsize=(10.5, 8), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.15), squeeze=False).flat
    panels = above.subplots(1, 3)
    for axes, key in zip(panels, ("step_ratio", "memory_ratio", "gflops_ratio"), strict=True):
        by_drop(axes, [line for line in read if line["task"] in TASKS], key)
    panels[0].plot([], [], "_", color=INK, markersize=10, label="asked: at least")
    panels[0].set_ylabel("dense / dropped: times cheaper")
    above.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=4,
        frameon=False,
        fontsize=8,
    )
    memory, flops = below.subplots(1, 2)
    long = [line for line in read if line["unit"] == COUNTED]
    by_length_of(memory, long, lambda line: line["memory"] / 1e9, "GB kept for backward, one clip")
    by_length_of(flops, long, lambda line: line["gflops"] / 1e3, "TFLOPs of a step, one clip")
    for limit, name in LIMITS.items():
        memory.axhline(limit, color=INK, linewidth=0.8, linestyle=":")
        memory.text(min(LENGTHS), limit, name, fontsize=8, color=INK, va="bottom")
    for line in read:
        if line["unit"] == ONCE:
            memory.plot(
                line["frames"],
                line["memory"] / 1e9,
                "s",
                color=INK,
                markersize=8,
                markerfacecolor="none",
            )
    memory.plot([], [], "s", color=INK, markersize=8, markerfacecolor="none", label="really run")
    below.legend(
        *memory.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=8,
    )
    return figure


def by_drop(axes: Axes, read: Sequence[Line], key: str) -> None:
    """The curve is the floor of memory, and of the part of FLOPs and steps that is linear in
    tokens.
    """
    shares = [share / 100 for share in range(93)]
    axes.plot(
        shares,
        [1 / (1 - share) for share in shares],
        "--",
        color=GREY,
        label="floor: 1 / (1 - drop)",
    )
    bare = [line for line in read if line["part"] == 0 and line["task"] == TASKS[0]]
    floor = [line["dense"]["gflops"] / line["floor_gflops"] for line in bare]
    where = [line["drop"] for line in bare]
    for part, colour, name in ((0.0, BLUE, "without"), (PART, COLOURS[1], "with")):
        for task, mark in zip(TASKS, "ox", strict=True):
            own = [line for line in read if line["part"] == part and line["task"] == task]
            x, y = [line["drop"] for line in own], [line[key] for line in own]
            label = f"{task}, {name} reconstruction"
            axes.plot(x, y, mark, color=colour, markersize=6, markerfacecolor="none", label=label)
    label = "floor: FLOPs of the encoder alone"
    axes.plot(
        where, floor, "+", color=INK, markersize=9, label=label, visible=key != "memory_ratio"
    )
    for drop, wanted in ASKED.get(key, {}).items():
        axes.plot([drop] * len(wanted), wanted, "_", color=INK, markersize=14)
    axes.set_title(
        {"step_ratio": "step", "memory_ratio": "memory", "gflops_ratio": "FLOPs"}[key], fontsize=10
    )
    style(axes, "share of tokens dropped", "")
    axes.set_yscale("log")
    ticks = [1, 2, 3, 4, 6, 10, 16]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(0.9, 17)


def by_length_of(
    axes: Axes, read: Sequence[Line], what: Callable[[Line], float], name: str
) -> None:
    """With reconstruction where tokens are dropped."""
    for drop, colour in zip((0.0, *DROPS), (INK, *COLOURS), strict=False):
        for again in (False, True):
            own = [line for line in read if line["drop"] == drop and line["recompute"] == again]
            own = [line for line in own if line["part"] == (PART if drop else 0)]
            label = (f"drop {drop:g}" if drop else "dense") + (", recompute" if again else "")
            x, y = [line["frames"] for line in own], [what(line) for line in own]
            axes.plot(
                x,
                y,
                "--" if again else "o-",
                color=colour,
                linewidth=1.2,
                markersize=3,
                label=label,
            )
    style(axes, "frames of 224 x 224", name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    frames = sorted({line["frames"] for line in read})
    axes.set_xticks(frames, [str(length) for length in frames])


def style(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as our commands do
    torch.set_num_threads(min(2, torch.get_num_threads()))
    shares = [float(share) for share in sys.argv[1:3]]
    print(json.dumps(once(WHOLE, shares[0], shares[1], int(sys.argv[3]))))
