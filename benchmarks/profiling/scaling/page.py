"""docs/scaling.jsonl -> the tables between the marks of docs/scaling.md, and a plot: none is typed by hand."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.profiling.scaling.scaled import merged
from benchmarks.profiling.scaling.traffic import Part, Traffic, wire
from benchmarks.reports.figures import COLOURS
from benchmarks.reports.page import INK
from ssvid.errors import UserError

LINES, PAGE, PLOT = "docs/scaling.jsonl", "docs/scaling.md", "docs/scaling.png"
WORLDS = (8, 64, 512)
# Stated, not measured: no GPU was there. A GPU of 80 GB that does 150 TFLOP/s of what is counted; 200 GB/s to the seven
# others of its node, 25 GB/s (a card of 200 Gbit/s for each GPU) beyond; 50 us for a message that waits for an answer.
ROOM, SPEED, WITHIN, BEYOND, MESSAGE = 80e9, 150e12, 200e9, 25e9, 50e-6
NODE = 8  # GPUs
GPUS = (50, 200, 1000)  # clips a second
SETS = {"UCF101, split 1": 9_537, "Kinetics-400": 240_000}  # videos to train on
TOLD = (
    "mae, vit_base",
    "mae, vit_large",
    "partial_mae, vit_base",
    "dpc, resnet34_2d3d",
    "memdpc, resnet34_2d3d",
) + (
    "infonce, s3d",
    "infonce, s3d, sync_bn false",
    "coclr, s3d",
    "mil_nce, s3dg",
    "tan, 6 + 6 blocks",
    "two_view, vit_base, ntxent",
    "two_view, vit_base, moco",
)  # in the first table; all of them in the others
SHOWN = ("mae, vit_base", "dpc, resnet34_2d3d", "infonce, s3d", "infonce, s3d, sync_bn false") + (
    "mil_nce, s3dg",
    "tan, 6 + 6 blocks",
    "two_view, vit_base, ntxent",
    "two_view, vit_base, moco",
)

Line = dict[str, Any]


def traffic(line: Line) -> dict[str, Traffic]:
    return {
        part: {kind: Part(*both) for kind, both in kinds.items()}
        for part, kinds in line["sent"].items()
    }


def sent(line: Line, world: int) -> float:
    """Bytes that a process sends in a step."""
    return wire(merged(list(traffic(line).values())), world)


def lies(line: Line) -> int:
    return sum(line[key] for key in ("parameters", "buffers", "gradients", "buckets", "moments"))


def grows(line: Line, world: int) -> float:
    """Bytes beside the encoder's, of which some grow with the processes: kept for backward, and gathered at once."""
    a, b, c = line["kept"]
    return float(a + b * world + c * world * world + line["gathered"] * world)


def gflops(line: Line, world: int) -> float:
    """Of a step on one GPU: where each process has the loss of the whole batch, that grows with them too."""
    a, b, c = line["gflops"]
    return float(line["encoder_gflops"] + a + b * world + c * world * world)


def memory(line: Line, world: int) -> float:
    return lies(line) + line["activations"] + grows(line, world)


def small_messages(line: Line) -> int:
    """Those that a step waits for: gradients travel while backward goes on."""
    return sum(
        part.messages
        for name, kinds in traffic(line).items()
        if name != "gradients"
        for part in kinds.values()
    )


def seconds(line: Line, world: int) -> dict[str, float]:
    link = WITHIN if world <= NODE else BEYOND
    return {
        "computing": 1e9 * gflops(line, world) / SPEED,
        "sending": sent(line, world) / link,
        "waiting": small_messages(line) * MESSAGE,
    }


def strains(line: Line, world: int) -> list[tuple[float, str]]:
    """How near each limit is (1: reached), and what it is; what cannot run at all first, then what is slow."""
    took, batch, queue = seconds(line, world), line["clips"] * world, line["queue"]
    ms = {name: f"{short(1e3 * value)} ms" for name, value in took.items()}
    stops = [(memory(line, world) / ROOM, f"memory {short(memory(line, world) / 1e9)} GB")]
    slow = [
        (
            took["sending"] / took["computing"],
            f"link: sends {ms['sending']}, computes {ms['computing']}",
        ),
        (
            took["waiting"] / took["computing"],
            f"{small_messages(line)} messages: {ms['waiting']} of {ms['computing']}",
        ),
    ]
    if queue and queue % batch:
        stops.append((math.inf, f"refused: {batch} keys a step, queue {queue}"))
    return sorted(stops, reverse=True) + sorted(slow, reverse=True)


def breaks(line: Line, world: int) -> str:
    found = strains(line, world)
    reached = [what for share, what in found if share >= 1]
    share, what = max(found)
    return f"**{'; '.join(reached)}**" if reached else f"{what} ({share:.0%})"


def short(value: float) -> str:
    """Three digits, or all of them; what is next to nothing as such."""
    if value == 0:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def mega(value: float | int) -> str:
    return short(value / 1e6)


def giga(value: float | int) -> str:
    return short(value / 1e9)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def of(lines: Sequence[Line], part: str) -> list[Line]:
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
    for line in of(lines, "counted"):
        row = [
            line["name"],
            str(line["clips"]),
            f"{line['parameters'] / 4e6:.1f}",
            giga(lies(line)),
        ]
        row += [giga(line["activations"]), giga(line["activations_alone"])]
        rows.append(row + [giga(f(line, n)) for f in (grows, memory) for n in WORLDS])
    return table(head, rows)


def sent_table(lines: Sequence[Line]) -> str:
    head = ["objective, encoder", "gradients", "buffers", "batch norm (messages)", "rows"]
    head += [f"sent, {n} GPUs" for n in (2, *WORLDS)]
    rows = []
    for line in of(lines, "counted"):
        parts = traffic(line)
        whole = {name: sum(part.bytes for part in kinds.values()) for name, kinds in parts.items()}
        norms = sum(part.messages for part in parts.get("batch norm", {}).values())
        row = [line["name"], mega(whole["gradients"]), mega(whole.get("buffers", 0))]
        row += [
            f"{mega(whole['batch norm'])} ({norms})" if norms else "-",
            mega(whole.get("rows", 0)),
        ]
        rows.append(row + [mega(sent(line, n)) for n in (2, *WORLDS)])
    return table(head, rows)


def breaks_table(lines: Sequence[Line]) -> str:
    told = [line for line in of(lines, "counted") if line["name"] in TOLD]
    rows = [[line["name"], *(breaks(line, n) for n in WORLDS)] for line in told]
    return table(["objective, encoder", *(f"{n} GPUs" for n in WORLDS)], rows)


def batch_table(lines: Sequence[Line]) -> str:
    (loop,) = of(lines, "loop")
    own = {kind: Part(*both) for kind, both in loop["sent"].items()}
    rows = [["clips in a step, 32 of each GPU", *(f"{32 * n:,}" for n in WORLDS)]]
    rows += [
        [f"steps an epoch, {name} ({n:,})", *(f"{n / 32 / w:,.1f}" for w in WORLDS)]
        for name, n in SETS.items()
    ]
    rows.append(["files opened a second, 200 clips/s a GPU", *(f"{200 * n:,}" for n in WORLDS)])
    rows.append(
        [
            "the loop's own bytes sent a step",
            *(f"{wire(own, n) / loop['steps']:,.0f}" for n in WORLDS),
        ]
    )
    return table(["", *(f"{n} GPUs" for n in WORLDS)], rows)


def anchor_table(lines: Sequence[Line]) -> str:
    head = ["objective, encoder", "clips", "counted, MB", "measured, MB", "measured / counted"]
    head += ["CPU-s, 1 process", "CPU-s, 2", "2 / 1"]
    rows = []
    for line in of(lines, "anchor"):
        row = [line["name"], str(line["clips"]), f"{line['expected_sent'] / 1e6:.2f}"]
        row += [f"{line['measured_sent'] / 1e6:.2f}", f"{line['sent_ratio']:.4f}"]
        rows.append(
            row + [f"{line['cpu_one']:.2f}", f"{line['cpu_two']:.2f}", f"{line['cpu_ratio']:.2f}"]
        )
    return table(head, rows)


def workers(rate: float, clips: int) -> int:
    return math.ceil(clips / rate)


def decode_table(lines: Sequence[Line]) -> str:
    """Original, prepared, jpegs in each cell."""
    head = [
        "files",
        "first file",
        "MB",
        "clips a CPU-second",
        *(f"GPU of {n} clips/s" for n in GPUS),
    ]
    rows = []
    for line in of(lines, "decode"):
        row = [line["name"], line["first"]]
        row.append(" / ".join(f"{size / 1e6:.1f}" for size in line["bytes"].values()))
        row.append(" / ".join(f"{rate:.1f}" for rate in line["rates"].values()))
        rows.append(
            row
            + [" / ".join(str(workers(rate, n)) for rate in line["rates"].values()) for n in GPUS]
        )
    return table(head, rows)


TABLES: dict[str, Callable[[Sequence[Line]], str]] = {
    "breaks": breaks_table,
    "memory": memory_table,
    "sent": sent_table,
    "batch": batch_table,
    "anchor": anchor_table,
    "decode": decode_table,
}


def fill(page: Path, lines: Sequence[Line]) -> None:
    """Each table anew between its marks; one whose lines are not there yet is left as it is."""
    text, parts = page.read_text(), {line["part"] for line in lines}
    wants = {"batch": "loop", "anchor": "anchor", "decode": "decode"}
    for name, make in TABLES.items():
        marks = re.compile(rf"(<!-- {name} -->\n)(?:(?!<!--).)*(<!-- end -->)", re.DOTALL)
        if not marks.search(text):
            raise UserError(
                f"{page} has no place for the table {name}: put <!-- {name} --> and <!-- end --> there."
            )
        if wants.get(name, "counted") in parts:
            text = marks.sub(rf"\g<1>{make(lines)}\n\g<2>", text)
    page.write_text(text)


def draw(lines: Sequence[Line]) -> Figure:
    """Left and middle against the number of GPUs; right against the size of the model, `mae` among 64."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    known = {line["name"]: line for line in of(lines, "counted")}
    worlds = [2**k for k in range(1, 10)]
    for name, colour in zip(SHOWN, COLOURS, strict=True):
        if name in known:
            own = known[name]
            left.plot(
                worlds,
                [sent(own, n) / 1e9 for n in worlds],
                "o-",
                color=colour,
                markersize=3,
                label=name,
            )
            middle.plot(
                worlds, [memory(own, n) / 1e9 for n in worlds], "o-", color=colour, markersize=3
            )
    middle.axhline(ROOM / 1e9, color=INK, linewidth=0.8, linestyle=":")
    middle.text(2, ROOM / 1e9, "80 GB", fontsize=8, color=INK, va="bottom")
    style(left, "GPUs", "GB sent by a GPU in a step", worlds)
    style(middle, "GPUs", "GB of a GPU", worlds)
    by_size(right, [line for line in known.values() if line["objective"] == "mae"])
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
    )
    return figure


def by_size(axes: Axes, lines: Sequence[Line]) -> None:
    x = [line["parameters"] / 4e6 for line in lines]
    shown = {
        "activations, 32 clips": [line["activations"] + grows(line, 64) for line in lines],
        "weights, gradients, buckets, moments": [lies(line) for line in lines],
        "sent in a step, 64 GPUs": [sent(line, 64) for line in lines],
    }
    for (label, values), mark in zip(shown.items(), ("o-", "s-", "^-"), strict=True):
        axes.plot(x, [value / 1e9 for value in values], mark, color=INK, markersize=4, label=label)
    for line, at in zip(lines, x, strict=True):
        axes.annotate(
            line["encoder"],
            (at, lies(line) / 1e9),
            (-8, -12),
            textcoords="offset points",
            fontsize=7,
        )
    axes.legend(frameon=False, fontsize=8)
    style(axes, "parameters of mae, M", "GB", [round(value) for value in x])


def style(axes: Axes, x: str, y: str, ticks: Sequence[int]) -> None:
    axes.set(xlabel=x, ylabel=y, xscale="log", yscale="log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.spines[["top", "right"]].set_visible(False)
