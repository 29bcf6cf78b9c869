"""docs/scaling.jsonl -> the tables between the marks of docs/scaling.md, and a plot.

No number of a table is typed by hand. estimates.py says what the numbers of a line mean for so many
processes.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.profiling.scaling.estimates import (
    ROOM,
    Line,
    bytes_at_rest,
    bytes_sent,
    count_workers,
    describe_limit,
    memory_of_head,
    short,
    total_memory,
    traffic_of,
)
from benchmarks.profiling.scaling.traffic import Part, count_sent_bytes
from benchmarks.reports.figure_style import COLOURS, INK, in_house_style
from ssvid.errors import UserError

LINES, PAGE, PLOT = "docs/scaling.jsonl", "docs/scaling.md", "docs/scaling.png"
WORLDS = (8, 64, 512)
GPUS = (50, 200, 1000)  # clips a second
SETS = {"UCF101, split 1": 9_537, "Kinetics-400": 240_000}  # videos to train on
IN_FIRST_TABLE = (  # the other tables have all lines
    "mae, vit_base",
    "mae, vit_large",
    "partial_mae, vit_base",
    "dpc, resnet34_2d3d",
    "memdpc, resnet34_2d3d",
    "infonce, s3d",
    "infonce, s3d, sync_bn false",
    "coclr, s3d",
    "mil_nce, s3dg",
    "tan, 6 + 6 blocks",
    "two_view, vit_base, ntxent",
    "two_view, vit_base, moco",
)
PLOTTED = (
    "mae, vit_base",
    "dpc, resnet34_2d3d",
    "infonce, s3d",
    "infonce, s3d, sync_bn false",
    "mil_nce, s3dg",
    "tan, 6 + 6 blocks",
    "two_view, vit_base, ntxent",
    "two_view, vit_base, moco",
)


def mega(value: float | int) -> str:
    return short(value / 1e6)


def giga(value: float | int) -> str:
    return short(value / 1e9)


def write_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(map("| {} |".format, map(" | ".join, lines)))


def select(lines: Sequence[Line], part: str) -> list[Line]:
    return [line for line in lines if line["part"] == part]


def heads_of_worlds(form: str, worlds: Sequence[int] = WORLDS) -> list[str]:
    """A head for each number of GPUs."""
    return list(map(form.format, worlds))


def measure_worlds(
    measure: Callable[[Line, int], float], line: Line, worlds: Sequence[int] = WORLDS
) -> list[float]:
    return [measure(line, world) for world in worlds]


def memory_table(lines: Sequence[Line]) -> str:
    head = [
        "objective, encoder",
        "clips",
        "parameters, M",
        "weights to moments",
        "activations",
        "the same, 1 GPU",
    ]
    head += heads_of_worlds("beside, {} GPUs") + heads_of_worlds("all, {}")
    rows = []
    for line in select(lines, "counted"):
        parameters = f"{line['parameters'] / 4e6:.1f}"
        row = [line["name"], str(line["clips"]), parameters, giga(bytes_at_rest(line))]
        row += [giga(line["activations"]), giga(line["activations_alone"])]
        row += map(giga, measure_worlds(memory_of_head, line))
        row += map(giga, measure_worlds(total_memory, line))
        rows.append(row)
    return write_table(head, rows)


def sent_table(lines: Sequence[Line]) -> str:
    head = ["objective, encoder", "gradients", "buffers", "batch norm (messages)", "rows"]
    head += heads_of_worlds("sent, {} GPUs", (2, *WORLDS))
    rows = []
    for line in select(lines, "counted"):
        total: dict[str, int] = {}
        messages: dict[str, int] = {}
        for name, kinds in traffic_of(line).items():
            for part in kinds.values():
                total[name] = total.get(name, 0) + part.bytes
                messages[name] = messages.get(name, 0) + part.messages
        row = [line["name"], mega(total["gradients"]), mega(total.get("buffers", 0))]
        norms = messages.get("batch norm", 0)
        row.append(f"{mega(total['batch norm'])} ({norms})" if norms else "-")
        row.append(mega(total.get("rows", 0)))
        row += map(mega, measure_worlds(bytes_sent, line, (2, *WORLDS)))
        rows.append(row)
    return write_table(head, rows)


def limits_table(lines: Sequence[Line]) -> str:
    rows = []
    for line in select(lines, "counted"):
        if line["name"] in IN_FIRST_TABLE:
            limits = [describe_limit(line, world) for world in WORLDS]
            rows.append([line["name"], *limits])
    return write_table(["objective, encoder", *heads_of_worlds("{} GPUs")], rows)


def batch_table(lines: Sequence[Line]) -> str:
    (loop,) = select(lines, "loop")
    traffic = {kind: Part(*numbers) for kind, numbers in loop["sent"].items()}
    worlds = np.array(WORLDS)
    rows = [["clips in a step, 32 of each GPU", *map("{:,}".format, 32 * worlds)]]
    for name, videos in SETS.items():
        steps = map("{:,.1f}".format, videos / 32 / worlds)
        rows.append([f"steps an epoch, {name} ({videos:,})", *steps])
    files = map("{:,}".format, 200 * worlds)
    sent = [f"{count_sent_bytes(traffic, world) / loop['steps']:,.0f}" for world in WORLDS]
    rows.append(["files opened a second, 200 clips/s a GPU", *files])
    rows.append(["the loop's own bytes sent a step", *sent])
    return write_table(["", *heads_of_worlds("{} GPUs")], rows)


def anchor_table(lines: Sequence[Line]) -> str:
    head = ["objective, encoder", "clips", "counted, MB", "measured, MB", "measured / counted"]
    head += ["CPU-s, 1 process", "CPU-s, 2", "2 / 1"]
    rows = []
    for line in select(lines, "anchor"):
        row = [line["name"], str(line["clips"]), f"{line['expected_sent'] / 1e6:.2f}"]
        row += [f"{line['measured_sent'] / 1e6:.2f}", f"{line['sent_ratio']:.4f}"]
        row += map("{:.2f}".format, (line["cpu_one"], line["cpu_two"], line["cpu_ratio"]))
        rows.append(row)
    return write_table(head, rows)


def decode_table(lines: Sequence[Line]) -> str:
    """Each cell has the values of original, prepared and jpegs."""
    head = ["files", "first file", "MB", "clips a CPU-second"]
    head += map("GPU of {} clips/s".format, GPUS)
    rows = []
    for line in select(lines, "decode"):
        rates = line["rates"].values()
        sizes = [f"{size / 1e6:.1f}" for size in line["bytes"].values()]
        row = [line["name"], line["first"], " / ".join(sizes)]
        row.append(" / ".join(map("{:.1f}".format, rates)))
        for clips in GPUS:
            workers = [str(count_workers(rate, clips)) for rate in rates]
            row.append(" / ".join(workers))
        rows.append(row)
    return write_table(head, rows)


TABLES: dict[str, Callable[[Sequence[Line]], str]] = {
    "breaks": limits_table,
    "memory": memory_table,
    "sent": sent_table,
    "batch": batch_table,
    "anchor": anchor_table,
    "decode": decode_table,
}
PART_OF_TABLE = {
    "batch": "loop",
    "anchor": "anchor",
    "decode": "decode",
}  # all other tables: counted


def fill_tables(page: Path, lines: Sequence[Line]) -> None:
    """Rewrites each table between its marks. A table that has no lines yet stays as it is."""
    text, parts = page.read_text(), {line["part"] for line in lines}
    for name, make_table in TABLES.items():
        marks = re.compile(rf"(<!-- {name} -->\n)(?:(?!<!--).)*(<!-- end -->)", re.DOTALL)
        if not marks.search(text):
            raise UserError(
                f"{page} has no place for the table {name}: "
                f"put <!-- {name} --> and <!-- end --> there."
            )
        if PART_OF_TABLE.get(name, "counted") in parts:
            text = marks.sub(rf"\g<1>{make_table(lines)}\n\g<2>", text)
    page.write_text(text)


@in_house_style
def draw_scaling(lines: Sequence[Line]) -> Figure:
    """Left and middle: against the number of GPUs. Right: against the size of `mae` on 64 GPUs."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    counted = select(lines, "counted")
    worlds = [2**k for k in range(1, 10)]
    for line in counted:
        name = line["name"]
        if name in PLOTTED:
            colour = COLOURS[PLOTTED.index(name)]
            sent = np.array(measure_worlds(bytes_sent, line, worlds)) / 1e9
            memory = np.array(measure_worlds(total_memory, line, worlds)) / 1e9
            left.plot(worlds, sent, "o-", color=colour, markersize=3, label=name)
            middle.plot(worlds, memory, "o-", color=colour, markersize=3)
    middle.axhline(ROOM / 1e9, color=INK, linewidth=0.8, linestyle=":")
    middle.text(2, ROOM / 1e9, "80 GB", fontsize=8, va="bottom")
    set_log_axes(left, "GPUs", "GB sent by a GPU in a step", worlds)
    set_log_axes(middle, "GPUs", "GB of a GPU", worlds)
    draw_by_size(right, [line for line in counted if line["objective"] == "mae"])
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def draw_by_size(axes: Axes, lines: Sequence[Line]) -> None:
    x, at_rest, activations, sent = [], [], [], []
    for line in lines:
        x.append(line["parameters"] / 4e6)
        at_rest.append(bytes_at_rest(line) / 1e9)
        activations.append((line["activations"] + memory_of_head(line, 64)) / 1e9)
        sent.append(bytes_sent(line, 64) / 1e9)
    curves = {
        "activations, 32 clips": (activations, "o-"),
        "weights, gradients, buckets, moments": (at_rest, "s-"),
        "sent in a step, 64 GPUs": (sent, "^-"),
    }
    for label, (values, mark) in curves.items():
        axes.plot(x, values, mark, color=INK, markersize=4, label=label)
    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7}
    for line, size, memory in zip(lines, x, at_rest, strict=True):
        axes.annotate(line["encoder"], (size, memory), (-8, -12), **look)
    axes.legend()
    set_log_axes(axes, "parameters of mae, M", "GB", list(map(round, x)))


def set_log_axes(axes: Axes, x: str, y: str, ticks: Sequence[int]) -> None:
    axes.set(xlabel=x, ylabel=y, xscale="log", yscale="log")
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
