"""What a search costs, and what a shortlist loses: the figures of docs/guides/search.md.

    python docs/search_evidence.py speed [--windows 100000] [--width 512]
    python docs/search_evidence.py recall RUN FOLDER [--windows 2000]

`speed` fills an index with random keys in a folder that is removed afterwards, and measures the
CPU-seconds of a query in a warm process. `recall` draws films of synthetic_captioned below FOLDER
and compares the best windows of shortlists with those of all windows; RUN has a text side that is
no plain product, such as that of recipes/xclip_captioned.yaml. A line is printed for each number,
and docs/search.jsonl keeps the lines of the guide.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.features.text_side import Text
from benchmarks.labelling.labeller import open_networks
from benchmarks.searching.index import KEY, Index, Reader, build_index, open_rows
from benchmarks.searching.ledger import Ledger
from benchmarks.searching.query import (
    choose_best,
    choose_moments,
    compare_again,
    score_keys,
)
from benchmarks.searching.windows import Pace
from ssvid.data.datasets.synthetic_captioned import synthetic_captioned
from ssvid.engine.features import cpu_seconds
from ssvid.engine.train_flags import UNCHANGED
from ssvid.results.provenance import read_commit

ROUNDS = 15
WINDOWS_OF_VIDEO = 100
FILM_S, FRAMES, SIZE = 1.0, 8, 32  # of the films that recipes/xclip_captioned.yaml learns from
MOTIONS = ("moves left", "moves right", "moves up", "moves down", "grows", "shrinks")
SHORTLISTS = (10, 20, 50, 100, 200, 500)
TOP = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("speed", "recall"))
    parser.add_argument("run", nargs="?", help="of recall")
    parser.add_argument("folder", nargs="?", help="of recall: where films and index lie")
    parser.add_argument("--windows", type=int)
    parser.add_argument("--width", type=int, default=512, help="of speed: of a key")
    arguments = parser.parse_args()
    if arguments.part == "speed":
        measure_speed(arguments.windows or 100_000, arguments.width)
    else:
        measure_recall(arguments.run, Path(arguments.folder), arguments.windows or 2000)


def print_line(**numbers: Any) -> None:
    print(json.dumps({**numbers, "git": read_commit()}), flush=True)


def measure_speed(windows: int, width: int) -> None:
    """CPU-seconds of one query, and of ten at once, over an index of random keys."""
    with tempfile.TemporaryDirectory() as folder:
        index = fill_index(Path(folder), windows, width)
        for count in (1, 10):
            queries = F.normalize(torch.randn(count, width), dim=1)
            seconds = time_warm(lambda queries=queries: search_all(index, queries))
            line = {"windows": windows, "width": width, "queries": count}
            line |= {"cpu_s": round(median(seconds), 4), "most_cpu_s": round(max(seconds), 4)}
            print_line(part="speed", **line, threads=torch.get_num_threads(), rounds=ROUNDS)


def fill_index(folder: Path, windows: int, width: int) -> Index:
    """An index of random keys of length 1, in videos of WINDOWS_OF_VIDEO windows."""
    ledger = Ledger(folder, {})
    videos = {}
    for number in range(0, windows, WINDOWS_OF_VIDEO):
        rows = min(WINDOWS_OF_VIDEO, windows - number)
        name = f"{number:07d}.mp4"
        videos[name] = Path(name)
        ledger.add(name, "", float(rows), [{KEY: F.normalize(torch.randn(rows, width), dim=1)}])
    return open_rows(ledger, videos, dict.fromkeys(videos, ""), Pace(1.0, 1.0))


def search_all(index: Index, queries: torch.Tensor) -> None:
    for scores in score_keys(index.keys, queries):
        choose_moments(index, choose_best(scores, index.ranks, TOP), TOP)


def time_warm(run: Callable[[], None]) -> list[float]:
    """CPU-seconds of each of some runs, after one that is not counted."""
    seconds = []
    for number in range(ROUNDS + 1):
        began = cpu_seconds()
        run()
        if number:
            seconds.append(cpu_seconds() - began)
    return seconds


@torch.inference_mode()
def measure_recall(run: str, folder: Path, windows: int) -> None:
    """How many of the best TOP windows of `compare` a shortlist has, for each size of it."""
    # A film of 8 frames lasts 1 s and is one window. Sentences are those of other films.
    data = synthetic_captioned(
        str(folder), train=20, val=60, test=windows, size=SIZE, frames=FRAMES, motions=MOTIONS
    )
    net, joint = open_networks(run, None, UNCHANGED, torch.device("cpu"))
    reader, films, queries = Reader(net, joint), {}, []
    for number, row in enumerate(data.rows):
        if row.split == "test":
            films[row.path] = data.path(number)
        elif row.split == "val":
            queries.append(row.sentences[0][2])
    index = build_index(reader, folder / "index", films, Pace(FILM_S, FILM_S)).index
    motion_of = {row.path: row.label for row in data.rows}
    compare_orders(index, reader, "caption", list(dict.fromkeys(queries)), {})
    compare_orders(index, reader, "motion", MOTIONS, motion_of)


def compare_orders(
    index: Index,
    reader: Reader,
    kind: str,
    sentences: Sequence[str],
    answers: dict[str, str | None],
) -> None:
    """A line for all windows, and one for each shortlist. `answers`: video -> the right query."""
    texts = Text(reader.joint).embed(sentences)
    products = score_keys(index.keys, reader.joint.compute_queries(texts))
    whole: list[list[int]] = []
    for size in (len(index), *SHORTLISTS):
        began, best = cpu_seconds(), []
        for number in range(len(sentences)):
            shortlist = choose_best(products[number], index.ranks, size)
            scored = compare_again(index, reader, texts[number : number + 1], shortlist)
            best.append(scored.rows[:TOP].tolist())
        seconds = (cpu_seconds() - began) / len(sentences)
        whole = whole or best
        shared = firsts = right = 0
        for sentence, rows, exact in zip(sentences, best, whole, strict=True):
            shared += len(set(rows) & set(exact))
            firsts += rows[0] == exact[0]
            right += sum(answers.get(index.locate(row).video) == sentence for row in rows)
        line = {"windows": len(index), "queries": len(sentences), "kind": kind, "shortlist": size}
        line |= {"of_best_10": round(shared / TOP / len(sentences), 4)}
        line |= {"best_is_same": round(firsts / len(sentences), 4)}
        if answers:
            line["right_of_10"] = round(right / TOP / len(sentences), 4)
        print_line(part="recall", **line, cpu_s_of_a_query=round(seconds, 4))


if __name__ == "__main__":
    main()
