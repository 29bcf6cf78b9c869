"""`partial_mae` with dropped tokens against the same task on all tokens -> lines of cost, a plot.

Steps of short clips are really run, both sides in turn. For long clips bytes and FLOPs are counted
without computing anything. One length is also run once, each time in its own process, so that the
peak of memory belongs to that run alone.
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
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from benchmarks.profiling.speed.counted import Side, count_saved, count_step, run_step
from benchmarks.profiling.speed.large import peak
from benchmarks.profiling.speed.pairs import DEVICE, Case, measure_cost, measure_in_turn, steps
from benchmarks.reports.figure_style import BLUE, COLOURS, GREY, INK, encode_png, in_house_style
from ssvid import create_encoder, registry
from ssvid.engine.features import cpu_seconds
from ssvid.objective import Objective
from ssvid.shapes import Batch

TASKS, LONG = ("classification", "video_text"), "long_video"
# Shares of the tokens. PART of all tokens is reconstructed, or none.
DROPS, PART = (0.5, 0.75, 0.9), 0.25
# Frames whose cost is counted. At the last lengths the dense side runs out of memory.
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
# Frames of the clip that is run once, and (drop, part) of each run.
ANCHOR, ANCHORS = 64, ((0.0, 0.0), (0.9, PART))
ROUNDS, CLASSES = 3, 400
COUNTED = "bytes and GFLOPs of a step, counted without running it"
ONCE = "CPU-seconds of a first step, run once"
TARGETS: dict[str, dict[float, tuple[float, ...]]] = {  # key -> drop -> ratios that were required
    "step_ratio": {0.75: (2.5,), 0.9: (4, 6)},
    "memory_ratio": {0.75: (2.8, 3.9), 0.9: (6, 9)},
}
LIMITS = {25: "25 GB: this machine", 80: "80 GB", 141: "141 GB"}
LINES, PLOT = "docs/turbo_speed.jsonl", "docs/turbo_cost.png"

Line = dict[str, Any]


class Net(NamedTuple):
    """The encoder and the clips. ViT-B on two clips of 16 x 224 x 224, or on one long clip."""

    name: str = "vit_base"
    options: dict[str, Any] = {}
    frames: int = 16
    size: int = 224
    clips: int = 2

    def objective(self, task: str, drop: float, part: float) -> Objective:
        """The dense side has drop 0 and part 0. With part 0 no decoder is built."""
        torch.manual_seed(0)
        encoder = create_encoder(self.name, frames=self.frames, size=self.size, **self.options)
        return registry.objectives["partial_mae"](
            encoder,
            task=task,
            drop_ratio=drop,
            predict_ratio=part,
            rec_weight=1.0 if part else 0.0,
            classes=None if task == "video_text" else CLASSES,
        )

    def batch(self, clips: int, frames: int) -> Batch:
        """Random pixels in the engine's layout, with a class and a sentence for each clip."""
        rows = torch.arange(clips)
        pixels = torch.randn(clips, 1, 3, frames, self.size, self.size)
        return {
            "clips": pixels,
            "index": rows,
            "epoch": rows,
            "label": rows,
            "sentences": [[f"now cut onion number {i} into thin rings"] for i in range(clips)],
            "seed": 0,
        }


WHOLE = Net()


def main(
    net: Net = WHOLE, lengths: Sequence[int] = LENGTHS, lines: str = LINES, plot: str = PLOT
) -> None:
    """Prints one JSON line for each setting, writes them to a file, then draws the plot."""
    # What takes minutes comes last.
    sources = [count_lengths(net, lengths), *(measure_task(net, task) for task in TASKS)]
    if DEVICE.type == "cpu" and net == WHOLE:  # the processes of the anchor run WHOLE only
        sources.append(run_anchors(net))
    written = []
    with Path(lines).open("w") as file:
        for line in chain(*sources):
            written.append(line)
            for out in (file, sys.stdout):
                print(json.dumps(line), file=out, flush=True)
    Path(plot).write_bytes(encode_png(draw(written)))


def measure_task(net: Net, task: str, rounds: int = ROUNDS) -> Iterator[Line]:
    """Runs the dense side and, for each drop, both dropped sides in turn.

    The dropped sides are without and with reconstruction. Bytes are counted in a first run of each.
    """
    run_dense, dense = prepare_run(net, task, 0.0, 0.0)
    case = steps(run_dense, run_dense)
    dense = dense._replace(bytes=measure_bytes(case, run_dense))
    for drop in DROPS:
        runs, sides = [run_dense], [dense]
        for part in (0.0, PART):
            run, side = prepare_run(net, task, drop, part)
            runs.append(run)
            sides.append(side._replace(bytes=measure_bytes(case, run)))
        dense_costs, *dropped_costs = zip(*measure_in_turn(runs, case.clock, rounds), strict=True)
        dense_median = dense._replace(step=statistics.median(dense_costs))
        for part, side, costs in zip((0.0, PART), sides[1:], dropped_costs, strict=True):
            ratio = statistics.median(a / b for a, b in zip(dense_costs, costs, strict=True))
            setting = {
                "task": task,
                "drop": drop,
                "part": part,
                "frames": net.frames,
                "clips": net.clips,
            }
            side = side._replace(step=statistics.median(costs))
            yield build_line(setting, side, dense_median, case.unit, ratio, pairs=rounds)


def measure_bytes(case: Case, run: Callable[[], None]) -> int:
    assert case.memory is not None  # cases of steps have one
    return case.memory(run)


def prepare_run(net: Net, task: str, drop: float, part: float) -> tuple[Callable[[], None], Side]:
    """A step (forward and backward, no optimiser), and what of it can be counted."""
    objective = net.objective(task, drop, part)
    side = count_step(objective, partial(net.batch, net.clips, net.frames))
    batch: Any = net.batch(net.clips, net.frames)
    for key, value in batch.items():
        if isinstance(value, Tensor):
            batch[key] = value.to(DEVICE)
    return partial(run_step, objective.to(DEVICE), batch), side


def count_lengths(net: Net, lengths: Sequence[int] = LENGTHS) -> Iterator[Line]:
    """Counts a step of one clip of each length, with and without blocks that recompute.

    The dense side of every ratio is the one that does not recompute.
    """
    dense: dict[int, Side] = {}
    for drop, part in ((0.0, 0.0), *product(DROPS, (0.0, PART))):
        objective = net.objective(LONG, drop, part)
        for recompute, frames in product((False, True), lengths):
            side = count_step(objective, partial(net.batch, 1, frames), recompute=recompute)
            setting = {"task": LONG, "drop": drop, "part": part, "frames": frames, "clips": 1}
            dense.setdefault(frames, side)
            yield build_line(setting, side, dense[frames], COUNTED, recompute=recompute)


def run_anchors(net: Net, frames: int = ANCHOR) -> Iterator[Line]:
    """Runs one step of a long clip for each of ANCHORS, in its own process."""
    sides: list[Side] = []
    for drop, part in ANCHORS:
        module = "benchmarks.profiling.speed.turbo"
        command = [sys.executable, "-m", module, *map(str, (drop, part, frames))]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        measured = json.loads(output)
        side = count_step(net.objective(LONG, drop, part), partial(net.batch, 1, frames))
        side = side._replace(bytes=measured["memory"], step=measured["step"])
        sides.append(side)
        setting = {"task": LONG, "drop": drop, "part": part, "frames": frames, "clips": 1}
        ratio = sides[0].step / measured["step"]
        yield build_line(setting, side, sides[0], ONCE, ratio, 1, peak_gib=measured["peak_gib"])


def run_once(net: Net, drop: float, part: float, frames: int) -> Line:
    """Measures the first step of this process.

    `peak_gib` is the peak of memory above what the objective and its clip take.
    """
    objective, batch = net.objective(LONG, drop, part), net.batch(1, frames)
    before, measured = peak(), Line()
    step = measure_cost(lambda: measured.update(memory=count_saved(objective, batch)), cpu_seconds)
    return {**measured, "step": step, "peak_gib": round(peak() - before, 3)}


def build_line(
    setting: Line,
    side: Side,
    dense: Side,
    unit: str,
    ratio: float | None = None,
    pairs: int = 0,
    recompute: bool = False,
    **extras: Any,
) -> Line:
    """Ratios are dense / dropped: above 1 the dropped side is cheaper."""
    return {
        "case": "turbo",
        **setting,
        "recompute": recompute,
        "step": side.step and round(side.step, 4),
        "step_ratio": ratio and round(ratio, 3),
        "memory": side.bytes,
        "memory_ratio": round(dense.bytes / side.bytes, 3),
        "gflops": round(side.flops / 1e9, 4),
        "gflops_ratio": round(dense.flops / side.flops, 3),
        "unit": unit,
        "tokens": side.tokens,
        "floor_gflops": round(side.floor / 1e9, 4),
        "dense": {
            "step": dense.step and round(dense.step, 4),
            "memory": dense.bytes,
            "gflops": round(dense.flops / 1e9, 4),
        },
        "attention": side.attention,
        "pairs": pairs,
        "threads": torch.get_num_threads(),
        **extras,
    }


@in_house_style
def draw(lines: Sequence[Line]) -> Figure:
    """Above: dense / dropped against the share of tokens that is dropped.

    Below: what a clip costs against its length.
    """
    figure = Figure(figsize=(10.5, 8), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.15), squeeze=False).flat
    panels = above.subplots(1, 3)
    short = [line for line in lines if line["task"] in TASKS]
    for axes, key in zip(panels, ("step_ratio", "memory_ratio", "gflops_ratio"), strict=True):
        draw_ratios(axes, short, key)
    panels[0].plot([], [], "_", color=INK, markersize=10, label="asked: at least")
    panels[0].set_ylabel("dense / dropped: times cheaper")
    add_legend(above, panels[0], "outside upper center", 4)
    memory, flops = below.subplots(1, 2)
    counted = [line for line in lines if line["unit"] == COUNTED]
    draw_lengths(
        memory, counted, lambda line: line["memory"] / 1e9, "GB kept for backward, one clip"
    )
    draw_lengths(flops, counted, lambda line: line["gflops"] / 1e3, "TFLOPs of a step, one clip")
    for limit, name in LIMITS.items():
        memory.axhline(limit, color=INK, linewidth=0.8, linestyle=":")
        memory.text(min(LENGTHS), limit, name, fontsize=8, color=INK, va="bottom")
    square: dict[str, Any] = {"color": INK, "markersize": 8, "markerfacecolor": "none"}
    for line in lines:
        if line["unit"] == ONCE:
            memory.plot(line["frames"], line["memory"] / 1e9, "s", **square)
    memory.plot([], [], "s", label="really run", **square)
    add_legend(below, memory, "outside lower center", 5)
    return figure


def add_legend(figure: SubFigure, axes: Axes, loc: Any, columns: int) -> None:
    """A legend of the whole figure, with the labels of one of its axes."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc=loc, ncols=columns, frameon=False, fontsize=8)


def draw_ratios(axes: Axes, lines: Sequence[Line], key: str) -> None:
    """Draws one ratio against the share of dropped tokens.

    The dashed curve is the floor of memory. It is also the floor of that part of FLOPs and steps
    that is linear in tokens.
    """
    shares = [share / 100 for share in range(93)]
    floor = [1 / (1 - share) for share in shares]
    axes.plot(shares, floor, "--", color=GREY, label="floor: 1 / (1 - drop)")
    for part, colour, name in ((0.0, BLUE, "without"), (PART, COLOURS[1], "with")):
        for task, mark in zip(TASKS, "ox", strict=True):
            points = select(lines, part=part, task=task)
            x, y = column(points, "drop"), column(points, key)
            label = f"{task}, {name} reconstruction"
            axes.plot(x, y, mark, color=colour, markersize=6, markerfacecolor="none", label=label)
    points = select(lines, part=0, task=TASKS[0])
    floor = [line["dense"]["gflops"] / line["floor_gflops"] for line in points]
    label, shown = "floor: FLOPs of the encoder alone", key != "memory_ratio"
    drops = column(points, "drop")
    axes.plot(drops, floor, "+", color=INK, markersize=9, label=label, visible=shown)
    for drop, ratios in TARGETS.get(key, {}).items():
        axes.plot([drop] * len(ratios), ratios, "_", color=INK, markersize=14)
    titles = {"step_ratio": "step", "memory_ratio": "memory", "gflops_ratio": "FLOPs"}
    axes.set_title(titles[key], fontsize=10)
    style(axes, "share of tokens dropped", "")
    axes.set_yscale("log")
    ticks = [1, 2, 3, 4, 6, 10, 16]
    axes.set_yticks(ticks, list(map(str, ticks)))
    axes.set_yticks([], minor=True)
    axes.set_ylim(0.9, 17)


def draw_lengths(
    axes: Axes, lines: Sequence[Line], cost_of: Callable[[Line], float], name: str
) -> None:
    """Draws a cost against the length of a clip.

    Sides that drop tokens are those with reconstruction.
    """
    for drop, colour in zip((0.0, *DROPS), (INK, *COLOURS), strict=False):
        for recompute in (False, True):
            points = select(lines, drop=drop, recompute=recompute, part=PART if drop else 0)
            label = (f"drop {drop:g}" if drop else "dense") + (", recompute" if recompute else "")
            x, y = column(points, "frames"), list(map(cost_of, points))
            mark = "--" if recompute else "o-"
            axes.plot(x, y, mark, color=colour, linewidth=1.2, markersize=3, label=label)
    style(axes, "frames of 224 x 224", name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    frames = sorted(set(column(lines, "frames")))
    axes.set_xticks(frames, list(map(str, frames)))


def select(lines: Sequence[Line], **values: Any) -> list[Line]:
    """The lines that have these values."""
    return [line for line in lines if values.items() <= line.items()]


def column(lines: Sequence[Line], key: str) -> list[Any]:
    return [line[key] for line in lines]


def style(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the commands of ssvid do
    torch.set_num_threads(min(2, torch.get_num_threads()))
    shares = [float(share) for share in sys.argv[1:3]]
    print(json.dumps(run_once(WHOLE, shares[0], shares[1], int(sys.argv[3]))))
