"""Made-up folders of sweeps for tests. Nothing is trained."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.reports import sweep_choice, sweep_rows
from tests.benchmarks.browser import PageReader, read_page

Axes = dict[str, list[Any]]
GRID: Axes = {"objective": ["mae", "dpc"], "encoder": ["vit depth=2", "conv"], "seed": [0, 1]}


def score(test: float, val: float | None, **options: Any) -> dict[str, Any]:
    interval = [test - 0.06, test + 0.05]
    gain = {"difference": test - 0.35, "interval": [test - 0.4, test - 0.3], "shown": test > 0.4}
    content = {
        "metric": "top1",
        "test": test,
        "interval": interval,
        "val": val,
        "chance": 0.25,
        "random": 0.35,
    }
    return {**content, "gain": gain, **options}


def scores_of_a(*pairs: tuple[float, float | None]) -> list[dict[str, Any]]:
    """Of cells with one score, on a: its test and val."""
    return [{"a": score(*pair)} for pair in pairs]


def put(folder: Path, axes: Axes, scores: list[dict[str, Any]], **options: Any) -> list[str]:
    """A sweep over the product of `axes`. The i-th cell is finished with the i-th scores.

    Cells without scores have not begun.
    """
    rows = []
    for values in itertools.product(*axes.values()):
        row = dict(zip(axes, values, strict=True))
        rows.append(row)
    return put_cells(folder, axes, rows, scores, **options)


def put_cells(
    folder: Path, axes: Axes, rows: list[Any], scores: list[dict[str, Any]], **options: Any
) -> list[str]:
    """The hashes of the cells."""
    cells: dict[str, dict[str, Any]] = {}
    for i, row in enumerate(rows):
        name = ", ".join(map(str, row.values())) or "only"
        settings = {"axes": row, "settings": row, "config": {}, "suite": {"suite": "mini"}}
        cells[f"{i:08x}"] = {"name": name, **settings, "left": False}
    folder.mkdir(parents=True, exist_ok=True)
    content = {"name": "smoke", "file": "smoke.yaml", "axes": axes, "best": None, "cells": cells}
    (folder / "sweep.json").write_text(json.dumps(content | options))
    names = list(cells)
    for i, (name, scores_of_cell) in enumerate(zip(names, scores, strict=False)):
        finish(folder, name, cells[name], scores_of_cell, i)
    return names


def finish(
    folder: Path, name: str, cell: dict[str, Any], scores: dict[str, Any], i: int, steps: int = 60
) -> None:
    cell_folder = folder / "cells" / name
    (cell_folder / f"run_{name}").mkdir(parents=True)
    (cell_folder / "bench").mkdir()
    (cell_folder / "bench" / "report.html").write_text("results")
    row = {"cell": name, "name": cell["name"], "axes": cell["axes"], "settings": {}}
    row |= {"seed": cell["axes"].get("seed"), "step": 200, "loss": 0.5 + i / 100}
    row |= {"cpu_s": 12.3, "wall_s": 14.0, "starts": 1 + i % 3, "scores": scores}
    (cell_folder / "row.json").write_text(json.dumps(row))
    rng, lines = random.Random(i), []
    for s in range(1, steps):
        loss = 1 / (1 + s / 20) + 0.1 * i % 0.7 + 0.05 * rng.random()
        lines.append(json.dumps({"step": 5 * s, "loss": loss}) + "\n")
    (cell_folder / f"run_{name}" / "metrics.jsonl").write_text("".join(lines))


def fail(folder: Path, name: str, **options: Any) -> None:
    (folder / "cells" / name).mkdir(parents=True)
    content = {"why": "rank 0: CUDA out of memory.", "times": 3, "stage": "pretrain"}
    content |= {"lines": ["Traceback", "  boom"]} | options
    (folder / "cells" / name / "failed.json").write_text(json.dumps(content))


def make_page(folder: Path) -> PageReader:
    return read_page(Path(report.report(folder)["report"]).read_text(), scripts=1)


def read_choice(folder: Path) -> tuple[sweep_rows.Sweep, sweep_choice.Choice]:
    sweep = sweep_rows.read_sweep(folder)
    return sweep, sweep_choice.choose(sweep)


def best_cells(folder: Path) -> list[str]:
    _, choice = read_choice(folder)
    return [cell.hash for cell in choice.best.cells] if choice.best else []
