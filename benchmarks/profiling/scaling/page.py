"""docs/scaling.jsonl -> the tables between the marks of docs/scaling.md, and a plot: none is typed by hand.

What the numbers of a line mean for so many processes is in estimates.py.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

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
from benchmarks.profiling.scaling.traffic import Part, wire
from benchmarks.reports.figure_style import COLOURS, INK, in_house_style
from ssvid.errors import UserError

LINES, PAGE, PLOT = "docs/scaling.jsonl", "docs/scaling.md", "docs/scaling.png"
WORLDS = (8, 64, 512)
GPUS = (50, 200, 1000)  # clips a second
SETS = {"UCF101, split 1": 9_537, "Kinetics-400": 240_000}  # videos to train on
IN_FIRST_TABLE = (  # all lines are in the others
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
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def select(lines: Sequence[Line], part: str) -> list[Line]:
    return [line for line in lines if line["part"] == part]


def memory_table(lines: Sequence[Line]) -> str:
    head = [
        "objective, encoder",
        "clips",
        "parameters, M",
        "weights to moments",
        "activations",
        "the same, 1 GPU",
    ]
    head += [f"beside, {n} GPUs" for n in WORLDS] + [f"all, {n}" for n in WORLDS]
    rows = []
    for line in select(lines, "counted"):
        parameters = f"{line['parameters'] / 4e6:.1f}"
        row = [line["name"], str(line["clips"]), parameters, giga(bytes_at_rest(line))]
        row += [giga(line["activations"]), giga(line["activations_alone"])]
        for measure in (memory_of_head, total_memory):
            row += [giga(measure(line, n)) for n in WORLDS]
        rows.append(row)
    return write_table(head, rows)


def sent_table(lines: Sequence[Line]) -> str:
    head = ["objective, encoder", "gradients", "buffers", "batch norm (messages)", "rows"]
    head += [f"sent, {n} GPUs" for n in (2, *WORLDS)]
    rows = []
    for line in select(lines, "counted"):
        traffic = traffic_of(line)
        total = {}
        for name, kinds in traffic.items():
            total[name] = sum(part.bytes for part in kinds.values())
        norms = sum(part.messages for part in traffic.get("batch norm", {}).values())
        row = [line["name"], mega(total["gradients"]), mega(total.get("buffers", 0))]
        row.append(f"{mega(total['batch norm'])} ({norms})" if norms else "-")
        row.append(mega(total.get("rows", 0)))
        rows.append(row + [mega(bytes_sent(line, n)) for n in (2, *WORLDS)])
    return write_table(head, rows)


def limits_table(lines: Sequence[Line]) -> str:
    rows = []
    for line in select(lines, "counted"):
        if line["name"] in IN_FIRST_TABLE:
            rows.append([line["name"], *(describe_limit(line, n) for n in WORLDS)])
    return write_table(["objective, encoder", *(f"{n} GPUs" for n in WORLDS)], rows)


def batch_table(lines: Sequence[Line]) -> str:
    (loop,) = select(lines, "loop")
    traffic = {kind: Part(*numbers) for kind, numbers in loop["sent"].items()}
    rows = [["clips in a step, 32 of each GPU", *(f"{32 * n:,}" for n in WORLDS)]]
    for name, videos in SETS.items():
        steps = [f"{videos / 32 / n:,.1f}" for n in WORLDS]
        rows.append([f"steps an epoch, {name} ({videos:,})", *steps])
    rows.append(["files opened a second, 200 clips/s a GPU", *(f"{200 * n:,}" for n in WORLDS)])
    sent = [f"{wire(traffic, n) / loop['steps']:,.0f}" for n in WORLDS]
    rows.append(["the loop's own bytes sent a step", *sent])
    return write_table(["", *(f"{n} GPUs" for n in WORLDS)], rows)


def anchor_table(lines: Sequence[Line]) -> str:
    head = ["objective, encoder", "clips", "counted, MB", "measured, MB", "measured / counted"]
    head += ["CPU-s, 1 process", "CPU-s, 2", "2 / 1"]
    rows = []
    for line in select(lines, "anchor"):
        row = [line["name"], str(line["clips"]), f"{line['expected_sent'] / 1e6:.2f}"]
        row += [f"{line['measured_sent'] / 1e6:.2f}", f"{line['sent_ratio']:.4f}"]
        row += [f"{line[key]:.2f}" for key in ("cpu_one", "cpu_two", "cpu_ratio")]
        rows.append(row)
    return write_table(head, rows)


def decode_table(lines: Sequence[Line]) -> str:
    """Original, prepared, jpegs in each cell."""
    head = ["files", "first file", "MB", "clips a CPU-second"]
    head += [f"GPU of {n} clips/s" for n in GPUS]
    rows = []
    for line in select(lines, "decode"):
        rates = list(line["rates"].values())
        row = [line["name"], line["first"]]
        row.append(join_sides(f"{size / 1e6:.1f}" for size in line["bytes"].values()))
        row.append(join_sides(f"{rate:.1f}" for rate in rates))
        for clips in GPUS:
            row.append(join_sides(str(count_workers(rate, clips)) for rate in rates))
        rows.append(row)
    return write_table(head, rows)


def join_sides(texts: Iterable[str]) -> str:
    return " / ".join(texts)


TABLES: dict[str, Callable[[Sequence[Line]], str]] = {
    "breaks": limits_table,
    "memory": memory_table,
    "sent": sent_table,
    "batch": batch_table,
    "anchor": anchor_table,
    "decode": decode_table,
}
PART_OF_TABLE = {"batch": "loop", "anchor": "anchor", "decode": "decode"}  # others: counted


def fill_tables(page: Path, lines: Sequence[Line]) -> None:
    """Write each table anew between its marks; one whose lines are not there yet is left as it is."""
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
    """Left and middle against the number of GPUs; right against the size of the model, `mae` among 64."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    counted = {line["name"]: line for line in select(lines, "counted")}
    worlds = [2**k for k in range(1, 10)]
    for name, colour in zip(PLOTTED, COLOURS, strict=True):
        if name in counted:
            line = counted[name]
            sent = [bytes_sent(line, n) / 1e9 for n in worlds]
            memory = [total_memory(line, n) / 1e9 for n in worlds]
            left.plot(worlds, sent, "o-", color=colour, markersize=3, label=name)
            middle.plot(worlds, memory, "o-", color=colour, markersize=3)
    middle.axhline(ROOM / 1e9, color=INK, linewidth=0.8, linestyle=":")
    middle.text(2, ROOM / 1e9, "80 GB", fontsize=8, va="bottom")
    set_log_axes(left, "GPUs", "GB sent by a GPU in a step", worlds)
    set_log_axes(middle, "GPUs", "GB of a GPU", worlds)
    draw_by_size(right, [line for line in counted.values() if line["objective"] == "mae"])
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def draw_by_size(axes: Axes, lines: Sequence[Line]) -> None:
    x = [line["parameters"] / 4e6 for line in lines]
    at_rest = [bytes_at_rest(line) for line in lines]
    shown = {
        "activations, 32 clips": [line["activations"] + memory_of_head(line, 64) for line in lines],
        "weights, gradients, buckets, moments": at_rest,
        "sent in a step, 64 GPUs": [bytes_sent(line, 64) for line in lines],
    }
    for (label, values), mark in zip(shown.items(), ("o-", "s-", "^-"), strict=True):
        axes.plot(x, [value / 1e9 for value in values], mark, color=INK, markersize=4, label=label)
    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7}
    for line, place, value in zip(lines, x, at_rest, strict=True):
        axes.annotate(line["encoder"], (place, value / 1e9), (-8, -12), **look)
    axes.legend()
    set_log_axes(axes, "parameters of mae, M", "GB", [round(value) for value in x])


def set_log_axes(axes: Axes, x: str, y: str, ticks: Sequence[int]) -> None:
    axes.set(xlabel=x, ylabel=y, xscale="log", yscale="log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
