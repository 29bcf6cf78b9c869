"""Each objective on encoders of several sizes -> lines in docs/, the tables of its page, a plot.

The study covers up to 512 processes. `python -m benchmarks.profiling scaling` does all parts.
`python -m benchmarks.profiling.scaling.study PART` does one part and leaves the other lines as they
were; PART is one of counted, loop, anchor, decode and page. `anchor` needs a SLURM of two nodes.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import torch

from benchmarks.profiling.scaling import anchor, page, workers
from benchmarks.profiling.scaling.estimates import Line
from benchmarks.profiling.scaling.page import LINES, PAGE, PLOT
from benchmarks.profiling.scaling.scaled import Subject, count_subject
from benchmarks.profiling.scaling.traffic import Sent, play_process
from benchmarks.profiling.speed.overhead import Nothing, Same, run
from benchmarks.reports.figure_style import encode_png
from ssvid.engine import loop
from ssvid.engine.distributed import World
from ssvid.errors import UserError

# Rows of the word table: the published dictionary of MIL-NCE has as many.
WORDS = {"buckets": 66250}
NO_MIX = {"train": "both", "mixup": 0.0, "cutmix": 0.0}
LONG = {"frames": 32, "stride": 1, "size": 128}  # a clip of CoCLR
# Clips of a process are those of recipes/ for the GPUs that they name, else 32.
READER = {"options": {"width": 96, "layers": 2, "heads": 3, "dropout": 0.0}}
SUBJECTS = (
    Subject("mae", "vit_tiny"),
    Subject("mae", "vit_small"),
    Subject("mae", "vit_base", options={"dec_dim": 384, "dec_heads": 6}),
    Subject("mae", "vit_large", options={"dec_dim": 512, "dec_heads": 8}),
    Subject("partial_mae", "vit_small", options={"task": "video_text"}),
    Subject(
        "partial_mae", "vit_base", options={"task": "video_text", "dec_dim": 384, "dec_heads": 6}
    ),
    Subject("dpc", "resnet18_2d3d"),
    Subject("dpc", "resnet34_2d3d"),
    Subject("memdpc", "resnet18_2d3d"),
    Subject("memdpc", "resnet34_2d3d"),
    Subject("infonce", "s3d", net=LONG),
    Subject("infonce", "s3d", net=LONG, sync_bn=False, note="sync_bn false"),
    Subject("coclr", "s3d", net=LONG, options={"sampler": "random"}),
    Subject("mil_nce", "s3dg", 16, options={"options": WORDS}),
    Subject("mil_nce", "vit_base", 16, options={"options": WORDS}),
    Subject(
        "tan", options={"options": WORDS, "video_layers": 3, "joint_layers": 3}, note="3 + 3 blocks"
    ),
    Subject("tan", options={"options": WORDS}, note="6 + 6 blocks"),
    Subject("two_view", "vit_small", note="ntxent"),
    Subject("two_view", "vit_base", note="ntxent"),
    Subject("two_view", "vit_base", options={"loss": "moco"}, note="moco"),
    Subject("clip", "clip_vit_b32", options={"tower": "words", "options": WORDS}),
    Subject("xclip", "xclip_b32", 8, options={"tower": "words", "options": WORDS, **NO_MIX}),
    # VideoPrism's groups depend on which tokens are visible, which fake tensors do not tell.
    Subject("video_text", "vit_base", 8, options={"tower": "words", "options": WORDS}),
    Subject("masked_distillation", "vit_base", 16),
    Subject("litevl_retrieval", "litevl_tiny", 8, options={"queue": 1024, **READER}),
    Subject("litevl_qa", "litevl_tiny", 8, options=READER),
)
# Steps between two lines of the engine's log, and steps that are counted.
LOGGED, STEPS = 10, 40


def main(parts: Sequence[str] = ()) -> None:
    try:
        for part in parts or PARTS:
            run_part(part)
    except UserError as error:  # no srun; the parts before it are in the file already
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def run_part(part: str) -> None:
    """Prints the part's lines, puts them in the file in place of its former lines, fills the page.

    Raises UserError where the part does not exist.
    """
    if part not in (*PARTS, "page"):
        raise UserError(f"scaling has no part {part!r}; parts are {', '.join(PARTS)}, page.")
    if part != "page":
        lines = []
        for line in PARTS[part]():
            lines.append(line)
            print(json.dumps(line), flush=True)
        lines += [line for line in read_lines() if line["part"] != part]
        lines.sort(key=lambda line: list(PARTS).index(line["part"]))
        Path(LINES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    page.fill_tables(Path(PAGE), read_lines())
    Path(PLOT).write_bytes(encode_png(page.draw_scaling(read_lines())))


def read_lines() -> list[Line]:
    file = Path(LINES)
    return list(map(json.loads, file.read_text().splitlines())) if file.exists() else []


def count_subjects() -> Iterator[Line]:
    yield from map(count_subject, SUBJECTS)


def count_loop(worlds: Iterable[int] = (2, 3, 4)) -> Iterator[Line]:
    """What the engine sends beside gradients: losses for the log, bad files, requests to stop.

    Raises AssertionError where this depends on the number of processes.
    """
    traffics = [sent_by_loop(n) for n in worlds]
    if any(traffic != traffics[0] for traffic in traffics):
        raise AssertionError(
            f"The loop's own collectives depend on the number of processes: {traffics}"
        )
    yield {"part": "loop", "steps": STEPS, "log_every": LOGGED, "sent": traffics[0]}


def sent_by_loop(world: int) -> dict[str, list[int]]:
    """Traffic of STEPS steps.

    The last checkpoint is left out, because a run writes one in hundreds of steps. DDP's traffic is
    left out too, because it is counted elsewhere.
    """
    group = World(0, world, torch.device("cpu"))
    alone = patch.object(loop, "wrap_objective", lambda objective, settings, world: objective)
    with (
        play_process(world),
        alone,
        patch.object(loop, "save"),
        patch("benchmarks.profiling.speed.overhead.World", lambda *_: group),
        Sent(world) as sent,
    ):
        run(Nothing(), Same(8, 1, 3, 2, 8, 8), STEPS, log_every=LOGGED)
    return {kind: list(part) for kind, part in sent.traffic.items()}


PARTS: dict[str, Callable[[], Iterable[Line]]] = {
    "counted": count_subjects,
    "loop": count_loop,
    "decode": workers.measure_decoding,
    "anchor": anchor.compare_sides,
}


if __name__ == "__main__":
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the commands of ssvid do
    main(sys.argv[1:])
