"""A run of the demo, its probe and a sweep -> the pictures of README and docs.

    python docs/make_pictures.py RUN [SWEEP]
    python docs/make_pictures.py --label RUN VIDEOS [--labels TEXT]
    python docs/make_pictures.py --explain RUN VIDEO SENTENCE

RUN is the folder of `make demo`; SWEEP that of `ssvid sweep sweeps/smoke`. With --label, RUN has a
text side, as those of `clip` and `xclip`, and VIDEOS is a folder. Chromium photographs
their pages. The pictures go to docs/pictures. Others come from commands of their own:
docs/alignment.png from `ssvid align`, docs/turbo_cost.png from `python -m benchmarks.profiling
turbo`, docs/scaling.png from `python -m benchmarks.profiling.scaling.study`.
"""

import argparse
import csv
import io
import shutil
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image, ImageDraw, ImageFont

from benchmarks import explain as explain_command
from benchmarks import label as label_command
from benchmarks.features.controls import list_still_clips, repeat_middle_frame, shuffle_frames
from benchmarks.reports.figure_style import BLUE, GREY, INK, RED, encode_png, in_house_style
from benchmarks.reports.run_pictures import read_pictures
from ssvid.data.datasets.synthetic import synthetic
from ssvid.data.sampling import eval_clips
from ssvid.shapes import ClipSpec

DOCS = Path(__file__).parent
FOLDER = DOCS / "pictures"
FRAMES = 6  # of a clip of the demo
NOTE = "#57606a"  # colour of small letters
BLUE_BOX, GREEN_BOX, YELLOW_BOX, RED_BOX = "#e3eefb", "#e6f4ea", "#fff4d6", "#fbe4de"
CALLOUTS = [  # x and y of a note on the page of the demo's probe, in pixels
    (760, 122, "1  what is shown, in one sentence"),
    (612, 262, "2  the same net, untrained"),
    (836, 262, "3  the gain and its test"),
    (1056, 262, "4  pixels alone: better"),
    (560, 1046, "5  one frame and shuffled frames are at chance: the order matters"),
]
CELLS = {
    "classify.linear": "linear probe",
    "classify.knn": "nearest neighbours",
    "classify.prototypes": "nearest class mean",
    "classify.attentive": "attentive probe",
    "retrieval": "retrieval",
    "few_shot.prototypes": "4 labels a class",
    "low_label.linear": "10 % of the labels",
    "low_label_1pct.linear": "1 % of the labels",
    "order.linear": "order of frames",
    "films.localisation.linear": "localisation in films",
    "films.multi_label.linear": "several classes, films",
    "pairs.detection.linear": "detection of actors",
}
LABELS = "dogs pull a sled, a slam dunk, changing a tyre"
LABEL_TALL = 1160  # pixels of the page of labels that are shown: the head and two videos
EXPLAIN_TALL = 1820  # pixels of the page of an explanation
MARK = "#c8641e"  # colour of call-outs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("sweep", type=Path, nargs="?")
    parser.add_argument("--data", help="the folder of the synthetic videos")
    parser.add_argument("--label", nargs=2, metavar=("RUN", "VIDEOS"))
    parser.add_argument("--labels", default=LABELS, help="of --label")
    parser.add_argument("--explain", nargs=3, metavar=("RUN", "VIDEO", "SENTENCE"))
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if arguments.explain:
        draw_explanation(*arguments.explain)
    if arguments.label:
        draw_labels(*arguments.label, arguments.labels)
    if arguments.run:
        draw_run(arguments)


def draw_run(arguments: argparse.Namespace) -> None:
    """The pictures of the demo and of the sweep, and those that need no run."""
    draw_data_flow(FOLDER / "data_flow.svg")
    draw_job_life(FOLDER / "slurm.svg")
    write(FOLDER / "masks.png", draw_masks(arguments.run))
    write(FOLDER / "controls.png", draw_controls(arguments.data))
    write(FOLDER / "results.png", draw_results())
    photograph(arguments.run / "run.html", FOLDER / "run.png", 1480)
    photograph(arguments.run / "probe" / "report.html", FOLDER / "report.png", 1120)
    add_callouts(FOLDER / "report.png", CALLOUTS)
    if arguments.sweep:
        photograph(arguments.sweep / "report.html", FOLDER / "sweep.png", 1180)


def write(path: Path, figure: Figure) -> None:
    path.write_bytes(encode_png(figure, dpi=130))


def photograph(page: Path, png: Path, height: int) -> None:
    """A screenshot of the top of a page, 1280 pixels wide."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        command = [shutil.which("chromium") or "chromium", "--headless", "--no-sandbox"]
        command += ["--hide-scrollbars", f"--window-size=1280,{height}", f"--screenshot={shot}"]
        subprocess.run([*command, page.resolve().as_uri()], check=True, capture_output=True)
        image = Image.open(shot).convert("RGB")
        image.quantize(128).save(png, optimize=True)


def draw_explanation(run: str, video: str, sentence: str) -> None:
    """The page of `ssvid explain` on a film, by a run of litevl_retrieval."""
    with tempfile.TemporaryDirectory() as folder:
        explain_command.explain(video, sentence=sentence, encoder=run, out=folder)
        photograph(Path(folder) / "index.html", FOLDER / "explain.png", EXPLAIN_TALL)


def draw_labels(run: str, videos: str, labels: str) -> None:
    """The page of `ssvid label` on a few videos, each with its timeline."""
    with tempfile.TemporaryDirectory() as folder:
        label_command.label(videos, labels=labels, encoder=run, out=folder, per_second=True)
        photograph(Path(folder) / "index.html", FOLDER / "label.png", LABEL_TALL)


@in_house_style
def draw_masks(run: Path) -> Figure:
    """The last picture that the run logged: clip, visible tokens, prediction."""
    shots = read_pictures(run / "tensorboard")["reconstruction"]
    picture = np.asarray(Image.open(io.BytesIO(shots[-1].png)).convert("RGB"))
    rows = ["clip", "visible to the encoder", "hidden part predicted"]
    side = picture.shape[1] // FRAMES
    figure = Figure(figsize=(9, 3.6))
    for row, title in enumerate(rows):
        for frame in range(FRAMES):
            axes = figure.add_axes((0.17 + 0.138 * frame, 0.68 - 0.325 * row, 0.13, 0.31))
            tile = picture[row * side : (row + 1) * side, frame * side : (frame + 1) * side]
            show_tile(axes, tile)
            if frame == 0:
                axes.text(-0.08, 0.5, title, ha="right", va="center", transform=axes.transAxes)
    return figure


def show_tile(axes: Axes, tile: Any) -> None:
    axes.imshow(tile, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


@in_house_style
def draw_controls(root: str | None) -> Figure:
    """A clip of the demo as the encoder gets it in each of the rows of a result."""
    data = synthetic(root).split("test")
    row = data.rows[1]
    clip = eval_clips(data.root / row.path, ClipSpec(frames=FRAMES, stride=1, size=32), 1)
    index = torch.tensor([1])
    bag = [still[:, :, :1] for still in list_still_clips(clip)]
    rows = [
        (f"the clip ({row.label})", clip, ""),
        ("one frame", repeat_middle_frame(clip, index, 0), "the middle frame, repeated"),
        ("a bag of frames", torch.cat(bag, 2), "each a still clip; features are averaged"),
        ("shuffled frames", shuffle_frames(clip, index, 0), "the same frames in another order"),
    ]
    figure = Figure(figsize=(9, 5.2))
    for place, (title, frames, note) in enumerate(rows):
        bottom = 0.77 - 0.25 * place
        for number in range(frames.shape[2]):
            axes = figure.add_axes((0.22 + 0.128 * number, bottom, 0.12, 0.2))
            show_tile(axes, frames[0, :, number].permute(1, 2, 0).numpy())
        figure.text(0.205, bottom + 0.12, title, ha="right", weight="bold")
        figure.text(0.205, bottom + 0.1, wrap(note), ha="right", va="top", fontsize=7)
    return figure


def wrap(text: str) -> str:
    middle = text.find(" ", len(text) // 2)
    return text if middle < 0 else f"{text[:middle]}\n{text[middle + 1 :]}"


def read_board(name: str) -> list[dict[str, str]]:
    with open(DOCS / "report" / name / "board.csv", newline="") as file:
        return list(csv.DictReader(file))


@in_house_style
def draw_results() -> Figure:
    """Every cell that was asked of the demo's encoder: score, untrained nets, pixels and chance."""
    lines = read_board("tours") + read_board("films")
    cells = list(dict.fromkeys(line["cell"] for line in lines))
    figure = Figure(figsize=(9, 4.2))
    axes = figure.add_axes((0.24, 0.12, 0.66, 0.78))
    for place, cell in enumerate(reversed(cells)):
        draw_cell(axes, place, {line["row"]: line for line in lines if line["cell"] == cell})
    axes.set_yticks(range(len(cells)), [CELLS.get(cell, cell) for cell in reversed(cells)])
    axes.set_xlim(0, 100)
    axes.set_xlabel("score in %, with its 95 % interval")
    axes.grid(axis="x")
    handles, names = axes.get_legend_handles_labels()
    first = dict(zip(names, handles, strict=True))
    figure.legend(first.values(), first.keys(), ncols=4, loc="upper right", fontsize=8)
    return figure


def draw_cell(axes: Axes, place: int, of_row: dict[str, dict[str, str]]) -> None:
    encoder, twin, floor = of_row["encoder"], of_row["random"], of_row["floor"]
    low, high = (100 * float(encoder[key]) for key in ("low", "high"))
    axes.plot([low, high], [place, place], color=BLUE, linewidth=3, alpha=0.5)
    marks = [
        ("pretrained", encoder["score"], {"marker": "o", "color": BLUE}),
        ("untrained (mean of nets)", twin["score"], {"marker": "o", "color": INK, "mfc": "white"}),
        ("pixels, best reading", floor["score"], {"marker": "D", "color": RED}),
        ("chance", encoder["chance"], {"marker": "|", "color": GREY, "markeredgewidth": 2}),
    ]
    for label, value, look in marks:
        axes.plot(100 * float(value), place, label=label, ls="none", ms=7, clip_on=False, **look)
    if twin["gain_shown"] == "True":
        gain = f"+{100 * float(twin['gain']):.1f}"
    else:
        gain = "not shown"
    axes.text(103, place, gain, fontsize=8, va="center", color=INK)


class Board:
    """A canvas of boxes and arrows, in inches."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(0, height)
        self.axes.axis("off")

    def add_box(self, x: float, y: float, text: str, note: str, colour: str) -> None:
        """A box of 1.5 x 0.6 around (x, y), with a note in small letters."""
        style = "round,pad=0.02,rounding_size=0.08"
        corner = (x - 0.73, y - 0.3)
        box = FancyBboxPatch(corner, 1.46, 0.6, style, facecolor=colour, edgecolor=INK, lw=0.8)
        self.axes.add_patch(box)
        self.axes.text(x, y + 0.1, text, ha="center", va="center", fontsize=10, weight="bold")
        self.axes.text(x, y - 0.13, note, ha="center", va="center", fontsize=7.5, color=NOTE)

    def add_arrow(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        style = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0}
        self.axes.annotate("", end, start, arrowprops=style)

    def add_note(self, x: float, y: float, text: str, align: str = "center") -> None:
        self.axes.text(x, y, text, ha=align, fontsize=7.5, color=NOTE)

    def save(self, path: Path) -> None:
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "ssvid"}):
            self.figure.savefig(path, metadata={"Date": None, "Creator": None})


@in_house_style
def draw_data_flow(path: Path) -> None:
    """The way of the data: training above, evaluation below."""
    training = [
        ("files", "videos, lists"),
        ("clips", "B C T H W"),
        ("encoder", "clip -> features"),
        ("objective", "batch -> loss"),
        ("run", "weights, card, log"),
    ]
    evaluation = [
        ("report", "tables and pages"),
        ("scores", "controls and tests"),
        ("probes", "linear, neighbours, ..."),
        ("features", "frozen arrays"),
        ("encoder", "frozen"),
    ]
    board = Board(10, 3.3)
    xs = [0.9, 2.95, 5.0, 7.05, 9.1]
    for x, (text, note) in zip(xs, training, strict=True):
        board.add_box(x, 2.5, text, note, BLUE_BOX)
    for x, (text, note) in zip(xs, evaluation, strict=True):
        board.add_box(x, 0.8, text, note, GREEN_BOX)
    for left, right in pairwise(xs):
        board.add_arrow((left + 0.75, 2.5), (right - 0.75, 2.5))
        board.add_arrow((right - 0.75, 0.8), (left + 0.75, 0.8))
    board.add_arrow((9.1, 2.17), (9.1, 1.13))
    board.add_arrow((7.05, 2.9), (5.0, 2.9))
    board.add_note(6.03, 2.97, "gradients")
    board.add_note(0.18, 3.05, "ssvid pretrain", "left")
    board.add_note(0.18, 1.35, "ssvid probe, ssvid bench", "left")
    board.add_note(
        5.0, 0.18, "untrained nets, pixels, one frame and shuffled frames go the same way"
    )
    board.save(path)


@in_house_style
def draw_job_life(path: Path) -> None:
    """The life of a cell of a sweep on SLURM."""
    board = Board(10, 3.4)
    board.add_box(0.95, 2.7, "submit", "ssvid sweep FILE", BLUE_BOX)
    board.add_box(3.2, 2.7, "queued", "job array", BLUE_BOX)
    board.add_box(5.5, 2.7, "running", "keeper and ranks", BLUE_BOX)
    board.add_box(8.9, 2.7, "finished", "suite, row of the table", GREEN_BOX)
    board.add_box(5.5, 0.9, "checkpoint", "exit code 75", YELLOW_BOX)
    board.add_box(8.9, 0.9, "failed", "same words three times", RED_BOX)
    board.add_arrow((1.7, 2.7), (2.45, 2.7))
    board.add_note(2.07, 2.78, "sbatch")
    board.add_arrow((3.95, 2.7), (4.75, 2.7))
    board.add_note(4.35, 2.78, "node")
    board.add_arrow((6.25, 2.7), (8.15, 2.7))
    board.add_note(7.2, 2.78, "last step")
    board.add_arrow((5.3, 2.37), (5.3, 1.23))
    board.add_note(5.2, 1.78, "time limit, preemption,\nkill -9, lost node", "right")
    board.add_arrow((5.7, 1.23), (5.7, 2.37))
    board.add_note(5.8, 1.55, "starts again,\nbit for bit", "left")
    board.add_arrow((4.75, 0.9), (3.2, 2.37))
    board.add_note(3.2, 1.2, "requeued near the\nend of the job")
    board.add_arrow((6.25, 2.5), (8.15, 1.1))
    board.add_note(7.5, 1.95, "an error")
    board.add_arrow((8.9, 0.57), (8.9, 0.15))
    board.add_note(8.8, 0.25, "ssvid sweep retry", "right")
    board.save(path)


def add_callouts(png: Path, notes: list[tuple[int, int, str]]) -> None:
    """Notes on a screenshot, each at (x, y)."""
    image = Image.open(png).convert("RGB")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=17)
    for x, y, text in notes:
        box = draw.textbbox((x, y), text, font=font)
        draw.rounded_rectangle((box[0] - 8, box[1] - 6, box[2] + 8, box[3] + 6), 6, fill=MARK)
        draw.text((x, y), text, fill="white", font=font)
    image.quantize(128).save(png, optimize=True)


if __name__ == "__main__":
    main()
