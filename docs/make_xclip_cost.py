"""Published accuracy against cost: the picture of docs/methods/xclip.md.

    python docs/make_xclip_cost.py [--measure]

It draws docs/pictures/xclip_cost.png from the numbers in docs/xclip_cost.jsonl. With --measure the
passes are measured again: CPU-seconds of one clip, with random weights, on two threads. The nets
take turns, because the machine may be shared. Accuracies are those that the authors published:
nothing here is trained.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.models import video as torchvision_video

from benchmarks.reports.figure_style import BLUE, GREY, RED, encode_png, in_house_style
from ssvid import create_encoder
from ssvid.engine.features import cpu_seconds
from ssvid.files import write_bytes_whole
from ssvid.nn.prompts import VideoPrompts
from ssvid.results.provenance import read_commit

DOCS = Path(__file__).parent
KEPT = DOCS / "xclip_cost.jsonl"
CLASSES = 400
ROUNDS = 5


class Published(NamedTuple):
    """A row of a paper or of a library, on Kinetics-400."""

    name: str
    gflops: float  # multiply-adds of one view, in 10^9
    views: int
    top1: float
    source: str


README, LIBRARY, MEMORY = "X-CLIP's README", "torchvision's weights", "from memory, not checked"
ROWS = (
    Published("X-CLIP B/32, 8 frames", 39, 12, 80.4, README),
    Published("X-CLIP B/32, 16 frames", 75, 12, 81.1, README),
    Published("X-CLIP B/16, 8 frames", 145, 12, 83.8, README),
    Published("X-CLIP B/16, 16 frames", 287, 12, 84.7, README),
    Published("X-CLIP L/14, 8 frames", 658, 12, 87.1, README),
    Published("Swin3D-T", 43.882, 12, 77.715, LIBRARY),
    Published("Swin3D-S", 82.841, 12, 79.521, LIBRARY),
    Published("Swin3D-B", 140.667, 12, 79.427, LIBRARY),
    Published("MViTv2-S", 64.224, 5, 80.757, LIBRARY),
    Published("ViViT-H", 8316, 12, 84.8, MEMORY),
    Published("Video Swin-L", 2107, 50, 84.9, MEMORY),
)
HEIGHT_OF = {"ViViT-H": -10, "Swin3D-B": -11, "X-CLIP B/32, 8 frames": -10}  # of labels, in points
COLOUR_OF = {README: BLUE, LIBRARY: RED, MEMORY: GREY}


def make_xclip(name: str, frames: int) -> Callable[[], Tensor]:
    """The video side and the prompts of 400 classes, whose text is embedded already."""
    net = create_encoder(name, frames=frames).eval()
    prompts = VideoPrompts(net.layer_dim or net.dim, net.dim).eval()
    clip, text = torch.randn(1, 3, frames, 224, 224), torch.randn(1, CLASSES, net.dim)

    def run() -> Tensor:
        features = net(clip, layers=(net.depth,))
        return prompts(text, prompts.summarise(features.layers[0], frames))

    return run


def make_other(name: str, frames: int) -> Callable[[], Tensor]:
    net: nn.Module = getattr(torchvision_video, name)().eval()
    clip = torch.randn(1, 3, frames, 224, 224)

    def run() -> Tensor:
        out: Tensor = net(clip)
        return out

    return run


PASSES = {
    "X-CLIP B/32, 8 frames": lambda: make_xclip("xclip_b32", 8),
    "X-CLIP B/32, 16 frames": lambda: make_xclip("xclip_b32", 16),
    "X-CLIP B/16, 8 frames": lambda: make_xclip("xclip_b16", 8),
    "Swin3D-T": lambda: make_other("swin3d_t", 32),
    "Swin3D-S": lambda: make_other("swin3d_s", 32),
    "Swin3D-B": lambda: make_other("swin3d_b", 32),
    "MViTv2-S": lambda: make_other("mvit_v2_s", 16),
}


@torch.inference_mode()
def measure() -> None:
    """Write a line for each net: the median CPU-seconds of a pass, and the fastest and slowest."""
    torch.set_num_threads(2)
    passes = {name: make() for name, make in PASSES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(ROUNDS + 1):
        for name, run in passes.items():
            began = cpu_seconds()
            run()
            if number:  # the first round warms up
                seconds[name].append(cpu_seconds() - began)
    command = "python docs/make_xclip_cost.py --measure"
    lines = []
    for name, values in seconds.items():
        line: dict[str, Any] = {"name": name, "cpu_s": round(statistics.median(values), 3)}
        line |= {"least": round(min(values), 3), "most": round(max(values), 3)}
        lines.append({**line, "rounds": ROUNDS, "git": read_commit(), "command": command})
    KEPT.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_clips_per_second() -> dict[str, float]:
    """Clips in a CPU-second, by the kept numbers."""
    rates = {}
    for line in KEPT.read_text().splitlines():
        content = json.loads(line)
        rates[content["name"]] = 1 / content["cpu_s"]
    return rates


@in_house_style
def draw() -> Figure:
    figure = Figure(figsize=(10.5, 4.2))
    left, right = figure.subplots(1, 2, sharey=True)
    rates = read_clips_per_second()
    for row in ROWS:
        mark(left, row, row.gflops * row.views)
        if row.name in rates:
            mark(right, row, rates[row.name] / row.views)
    set_scale(left, (1e3, 1e4, 1e5), (150, 5e5))
    left.set_xlabel("thousand million multiply-adds of all views of a video")
    left.set_ylabel("published top-1 on Kinetics-400, %")
    set_scale(right, (0.01, 0.03, 0.1), (0.004, 0.3))
    right.set_xlabel("videos in a CPU-second, all views (measured here)")
    for source, colour in COLOUR_OF.items():
        left.plot([], [], "o", color=colour, label=source)
    left.legend(loc="lower right", frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def set_scale(axes: Axes, ticks: tuple[float, ...], limits: tuple[float, float]) -> None:
    """A logarithmic axis with these numbers on it."""
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.set_xticks(ticks, labels=[f"{tick:,.2f}".rstrip("0").rstrip(".") for tick in ticks])
    axes.set_xticks([], minor=True)


def mark(axes: Axes, row: Published, x: float) -> None:
    axes.plot([x], [row.top1], "o", color=COLOUR_OF[row.source], markersize=6)
    label = row.name.replace("X-CLIP ", "").replace(" frames", " f")
    axes.annotate(
        label,
        (x, row.top1),
        xytext=(6, HEIGHT_OF.get(row.name, 3)),
        textcoords="offset points",
        fontsize=8,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true")
    if parser.parse_args().measure:
        measure()
    write_bytes_whole(DOCS / "pictures" / "xclip_cost.png", encode_png(draw()))


if __name__ == "__main__":
    main()
