"""Each objective on encoders of several sizes, up to 512 processes -> lines in docs/, tables of its
page, a plot.

`python -m benchmarks.profiling scaling` does it all; `python -m benchmarks.profiling.scaling.study
PART`, which is one of counted, loop, anchor, decode and page, does one part and leaves the other
lines as they were. `anchor` wants a SLURM of two nodes.
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
from benchmarks.profiling.scaling.traffic import Sent, playing
from benchmarks.profiling.speed.overhead import Nothing, Same, run
from benchmarks.reports.figure_style import encode_png
from ssvid.engine import loop
from ssvid.engine.distributed import World
from ssvid.errors import UserError

WORDS = {
    "buckets": 66250
}  # rows of the word table, as many as the published dictionary of MIL-NCE has
LONG = {"frames": 32, "stride": 1, "size": 128}  # a clip of CoCLR
SUBJECTS = (  # clips of a process: as recipes/ have it for the GPUs that they name, else 32
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
)
LOGGED, STEPS = (
    10,
    40,
)  # steps between two lines of the log, as the engine has it; steps that are counted


def main(parts: Sequence[str] = ()) -> None:
    try:
        for part in parts or PARTS:
            one(part)
    except UserError as error:  # no srun here: what came before stands in the file
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def one(part: str) -> None:
    """Its lines on the screen and, in place of those of an earlier time, in the file; the page has
    them all.
    """
    if part not in (*PARTS, "page"):
        raise UserError(f"scaling has no part {part!r}; parts are {', '.join(PARTS)}, page.")
    if part != "page":
        made = []
        for line in PARTS[part]():
            made.append(line)
            print(json.dumps(line), flush=True)
        before = [line for line in read() if line["part"] != part]
        every = sorted([*before, *made], key=lambda line: list(PARTS).index(line["part"]))
        Path(LINES).write_text("".join(json.dumps(line) + "\n" for line in every))
    page.fill_tables(Path(PAGE), read())
    Path(PLOT).write_bytes(encode_png(page.draw_scaling(read())))


def read() -> list[Line]:
    file = Path(LINES)
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def count() -> Iterator[Line]:
    yield from map(count_subject, SUBJECTS)


def by_the_loop(worlds: Iterable[int] = (2, 3, 4)) -> Iterator[Line]:
    """What the engine sends of its own beside gradients: losses for the log, bad files, who was
    told to stop.
    """
    found = [sent_by_loop(n) for n in worlds]
    if any(traffic != found[0] for traffic in found):
        raise AssertionError(
            f"The loop's own collectives depend on the number of processes: {found}"
        )
    yield {"part": "loop", "steps": STEPS, "log_every": LOGGED, "sent": found[0]}


def sent_by_loop(world: int) -> dict[str, list[int]]:
    """Of STEPS steps, the last checkpoint left out: it is of one step in hundreds."""
    place = World(0, world, torch.device("cpu"))
    alone = patch.object(
        loop, "parallel", lambda objective, settings, world: objective
    )  # DDP's are counted apart
    with (
        playing(world),
        alone,
        patch.object(loop, "save"),
        patch("benchmarks.profiling.speed.overhead.World", lambda *_: place),
        Sent(world) as sent,
    ):
        run(Nothing(), Same(8, 1, 3, 2, 8, 8), STEPS, log_every=LOGGED)
    return {kind: list(part) for kind, part in sent.traffic.items()}


PARTS: dict[str, Callable[[], Iterable[Line]]] = {
    "counted": count,
    "loop": by_the_loop,
    "decode": workers.measure_decoding,
    "anchor": anchor.anchored,
}


if __name__ == "__main__":
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as our commands do
    main(sys.argv[1:])
