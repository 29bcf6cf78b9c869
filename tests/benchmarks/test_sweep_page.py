"""The report of a sweep: from made-up folders, whole, unfinished, torn, hostile and large. Nothing is trained."""

import csv
import itertools
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import report
from benchmarks.reports import sweep_figures, sweep_page, sweep_rows
from ssvid.errors import UserError
from ssvid.results.run_files import read_losses
from tests.benchmarks.browser import LAYOUT, PageReader, measure_page, read_page
from tests.helpers import command, facts, tells

Axes = dict[str, list[Any]]
GRID: Axes = {"objective": ["mae", "dpc"], "encoder": ["vit depth=2", "conv"], "seed": [0, 1]}


def score(test: float, val: float | None, **more: Any) -> dict[str, Any]:
    interval = [test - 0.06, test + 0.05]
    gain = {"difference": test - 0.35, "interval": [test - 0.4, test - 0.3], "shown": test > 0.4}
    made = {
        "metric": "top1",
        "test": test,
        "interval": interval,
        "val": val,
        "chance": 0.25,
        "random": 0.35,
    }
    return {**made, "gain": gain, **more}


def put(folder: Path, axes: Axes, scores: list[dict[str, Any]], **more: Any) -> list[str]:
    """A sweep over the product of `axes`; the i-th cell is finished with the i-th scores, the rest have not begun."""
    return put_cells(
        folder,
        axes,
        [dict(zip(axes, v, strict=True)) for v in itertools.product(*axes.values())],
        scores,
        **more,
    )


def put_cells(
    folder: Path, axes: Axes, rows: list[Any], scores: list[dict[str, Any]], **more: Any
) -> list[str]:
    names = [f"{i:08x}" for i in range(len(rows))]
    cells = {
        name: {
            "name": ", ".join(map(str, row.values())) or "only",
            "axes": row,
            "settings": row,
            "config": {},
        }
        | {"suite": {"suite": "mini"}, "left": False}
        for name, row in zip(names, rows, strict=True)
    }
    folder.mkdir(parents=True, exist_ok=True)
    given = {"name": "smoke", "file": "smoke.yaml", "axes": axes, "best": None, "cells": cells}
    (folder / "sweep.json").write_text(json.dumps(given | more))
    for i, (name, found) in enumerate(zip(names, scores, strict=False)):
        finish(folder, name, cells[name], found, i)
    return names


def finish(
    folder: Path, name: str, cell: dict[str, Any], scores: dict[str, Any], i: int, steps: int = 60
) -> None:
    place = folder / "cells" / name
    (place / f"run_{name}").mkdir(parents=True)
    (place / "bench").mkdir()
    (place / "bench" / "report.html").write_text("results")
    seed = cell["axes"].get("seed")
    row = {
        "cell": name,
        "name": cell["name"],
        "axes": cell["axes"],
        "settings": {},
        "seed": seed,
        "step": 200,
    }
    row |= {
        "loss": 0.5 + i / 100,
        "cpu_s": 12.3,
        "wall_s": 14.0,
        "starts": 1 + i % 3,
        "scores": scores,
    }
    (place / "row.json").write_text(json.dumps(row))
    rng = random.Random(i)
    lines = [
        {"step": 5 * s, "loss": 1 / (1 + s / 20) + 0.1 * i % 0.7 + 0.05 * rng.random()}
        for s in range(1, steps)
    ]
    (place / f"run_{name}" / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )


def fail(folder: Path, name: str, **more: Any) -> None:
    (folder / "cells" / name).mkdir(parents=True)
    told = {"why": "rank 0: CUDA out of memory.", "times": 3, "stage": "pretrain"}
    (folder / "cells" / name / "failed.json").write_text(
        json.dumps(told | {"lines": ["Traceback", "  boom"]} | more)
    )


def make_page(folder: Path) -> PageReader:
    return read_page(Path(report.report(folder)["report"]).read_text(), scripts=1)


def chosen(folder: Path) -> tuple[sweep_rows.Sweep, sweep_rows.Choice]:
    sweep = sweep_rows.read(folder)
    return sweep, sweep_rows.choose(sweep)


def best_cells(folder: Path) -> list[str]:
    _, choice = chosen(folder)
    return [cell.hash for cell in choice.best.cells] if choice.best else []


def test_the_command_makes_page_table_and_rows(tmp_path: Path):
    names = put(tmp_path, GRID, [{"probe": score(0.4 + i / 50, 0.5 + i / 100)} for i in range(6)])
    fail(tmp_path, names[6])
    done = command("benchmarks.report", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["report"] == str(tmp_path / "report.html")
    assert (said["cells"], said["finished"], said["failed"]) == (8, 6, 1)
    assert said["best"]["cells"] == names[4:6] and said["best"]["on"] == "probe"
    page = read_page((tmp_path / "report.html").read_text(), scripts=1)
    sweep, choice = chosen(tmp_path)
    assert choice.best is not None and choice.best.name == "objective dpc, encoder vit depth=2"
    for cell in sweep.finished:
        base = f"cells/{cell.hash}"
        shown = {"run": f"{base}/run_{cell.hash}/", "results": f"{base}/bench/report.html"}
        assert sweep_page.cell_files(cell, tmp_path) == shown
        assert {*shown.values()} <= {*page.places}
    assert [cell.failed["why"] for cell in sweep.failed] == ["rank 0: CUDA out of memory."]
    texts = [column.text(sweep.finished[3]) for column in sweep_rows.columns(sweep)]
    assert tells(" ".join(texts), "46.0", "40.0", "51.0", "53.0", "+11.0", "+6.0", "+16.0")
    assert all(text in (tmp_path / "rows.md").read_text() for text in texts)


def test_rows_hold_every_number_in_full(tmp_path: Path):
    scores = [
        {"a": score(1 / 3, 0.123456789), "b": score(0.2, None, metric="map", gain=None)},
        {"a": score(0.5, 0.5)},
    ]
    put(tmp_path, {"lr": [0.1, 0.01, 1e-5], "clip.size": [[1, 2]]}, scores)
    first, second = csv.DictReader(sweep_rows.comma(sweep_rows.read(tmp_path)).splitlines())
    keys = [
        f"{cell} {key}"
        for cell in "ab"
        for key in ("metric", "test", "low", "high", "val", "chance", "random")
    ]
    assert list(first) == [
        "lr",
        "clip.size",
        *keys,
        "step",
        "loss",
        "cpu_s",
        "wall_s",
        "starts",
        "cell",
    ]
    assert float(first["a test"]) == 1 / 3 and float(first["a low"]) == 1 / 3 - 0.06
    assert (first["a val"], first["b metric"], first["b val"], first["b random"]) == (
        "0.123456789",
        "map",
        "",
        "0.35",
    )
    assert (first["lr"], first["clip.size"], first["starts"], first["cell"]) == (
        "0.1",
        "[1, 2]",
        "1",
        "00000000",
    )
    assert second["lr"] == "0.01" and second["b test"] == "" and second["loss"] == "0.51"


def test_val_chooses_and_never_test(tmp_path: Path):
    names = put(
        tmp_path,
        {"lr": [1, 2, 3]},
        [{"a": score(0.9, 0.5)}, {"a": score(0.3, 0.6)}, {"a": score(0.8, 0.55)}],
    )
    assert best_cells(tmp_path) == [names[1]]
    said = " ".join(sweep_page.verdict(*chosen(tmp_path)))
    assert tells(said, "60.0", "30.0", "24.0", "35.0", "55.0")
    put(tmp_path / "none", {"lr": [1, 2]}, [{"a": score(0.9, None)}, {"a": score(0.3, None)}])
    assert report.report(tmp_path / "none")["best"] is None
    some = put(tmp_path / "some", {"lr": [1, 2]}, [{"a": score(0.9, None)}, {"a": score(0.3, 0.3)}])
    assert [
        cell.hash for group in chosen(tmp_path / "some")[1].groups for cell in group.cells
    ] == some[1:]
    assert (
        len(sweep_page.missing(*chosen(tmp_path / "some"), chosen(tmp_path / "some")[1].groups[0]))
        == 1
    )


def test_which_cell_of_the_suite_decides(tmp_path: Path):
    scores = [{"a": score(0.5, None), "b": score(0.5, 0.6), "c": score(0.5, 0.1)}]
    scores += [{"a": score(0.5, None), "b": score(0.5, 0.4), "c": score(0.5, 0.2)}]
    for named, on, best in (
        (None, "b", 0),
        ("c", "c", 1),
        ("a", "a", None),
        ("gone", "gone", None),
    ):
        folder = tmp_path / str(named)
        names = put(folder, {"lr": [1, 2]}, scores, best=named)
        sweep, choice = chosen(folder)
        assert best_cells(folder) == ([] if best is None else [names[best]]) and choice.on == on
        assert bool(choice.why) == (best is None) and (best is None or sweep.suite[0] == on)


def test_ties_go_to_the_first_of_the_sweep_and_are_told(tmp_path: Path):
    vals = (0.4, 0.7, 0.7, 0.7)
    names = put(
        tmp_path, {"lr": [9, 2, 3, 1]}, [{"a": score(0.1 * i, val)} for i, val in enumerate(vals)]
    )
    _, choice = chosen(tmp_path)
    assert best_cells(tmp_path) == [names[1]] and [group.name for group in choice.ties] == [
        "3",
        "1",
    ]
    axes: Axes = {"seed": [0, 1], "objective": ["mae", "dpc"]}
    names = put(tmp_path / "seeds", axes, [{"a": score(0.5, 0.5)}] * 4)
    (
        tmp_path / "seeds" / "cells" / names[0] / "row.json"
    ).unlink()  # the first of its group is not the first to finish
    best = chosen(tmp_path / "seeds")[1].best
    assert best is not None and best.name == "objective mae"


def test_over_seeds_the_mean_val_chooses(tmp_path: Path):
    """The single best val is of a group whose mean is worse."""
    vals = {"mae": (0.9, 0.3), "dpc": (0.65, 0.75)}
    axes: Axes = {"objective": list(vals), "seed": [0, 1]}
    names = put(tmp_path, axes, [{"a": score(0.5, val)} for own in vals.values() for val in own])
    best = chosen(tmp_path)[1].best
    assert best is not None and [cell.hash for cell in best.cells] == names[2:]
    assert best.val == pytest.approx(0.7) and best.name == "objective dpc"
    assert (
        sweep_page.spread([0.65, 0.75]) == "70.0 +- 7.1"
        and sweep_page.spread([0.9, 0.3]) == "60.0 +- 42.4"
    )
    (tmp_path / "cells" / names[3] / "row.json").unlink()
    (tmp_path / "cells" / names[1] / "row.json").unlink()
    best = chosen(tmp_path)[1].best
    assert best is not None and (len(best.cells), best.planned) == (1, 2)


def test_cells_that_left_count_nowhere(tmp_path: Path):
    names = put(tmp_path, {"lr": [1, 2]}, [{"a": score(0.9, 0.9)}, {"a": score(0.3, 0.3)}])
    given = json.loads((tmp_path / "sweep.json").read_text())
    given["cells"][names[0]]["left"] = True
    (tmp_path / "sweep.json").write_text(json.dumps(given))
    sweep, _ = chosen(tmp_path)
    assert best_cells(tmp_path) == [names[1]] and (len(sweep.cells), len(sweep.every)) == (1, 2)
    assert len(sweep_rows.comma(sweep).splitlines()) == 2


def test_a_torn_list_of_cells_is_one_sentence(tmp_path: Path):
    for text in ("", "{", "[]", "null", "\x00", '{"cells": [1]}', '{"cells": {"a": 3}}'):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(UserError, match=facts("sweep.json")):
            report.report(tmp_path)


def test_a_torn_row_is_not_a_finished_cell(tmp_path: Path):
    names = put(tmp_path, {"lr": [1, 2]}, [{"a": score(0.9, 0.9)}, {"a": score(0.3, 0.3)}])
    for text in ("", '{"cell": "00', "[]", "null", "\xff", '{"cell": "another"}'):
        (tmp_path / "cells" / names[0] / "row.json").write_bytes(text.encode("latin-1"))
        sweep, _ = chosen(tmp_path)
        assert (len(sweep.cells), len(sweep.finished)) == (2, 1) and best_cells(tmp_path) == [
            names[1]
        ]
        (fault,) = sweep.faults
        assert f"cells/{names[0]}/row.json" in fault
    assert fault in make_page(tmp_path).text


def test_scores_are_read_as_far_as_they_go(tmp_path: Path):
    damaged = (None, {}, 3, {"a": None}, {"a": {"test": None}}, {"a": {"test": float("nan")}})
    for i, scores in enumerate(damaged):
        put(tmp_path / str(i), GRID, [scores] * 8)
        sweep, choice = chosen(tmp_path / str(i))
        assert len(sweep.finished) == 8 and choice.best is None and sweep.suite == []
    assert make_page(tmp_path / "0").tags["tr"] > 8
    half = {"test": 1, "interval": [0.1], "val": "x", "gain": {"difference": 0.1}}
    put(tmp_path / "half", {"lr": [1, 2]}, [{"a": half}] * 2)
    sweep, choice = chosen(tmp_path / "half")
    read = sweep.finished[0].scores["a"]
    assert (read.test, read.interval, read.val, read.gain) == (
        1.0,
        None,
        None,
        None,
    ) and choice.best is None


def test_nothing_finished_and_nothing_there(tmp_path: Path):
    names = put(tmp_path, GRID, [])
    make_page(tmp_path)
    sweep, choice = chosen(tmp_path)
    assert (len(sweep.cells), sweep.finished, choice.best) == (8, [], None) and choice.why
    assert (
        tmp_path / "rows.csv"
    ).read_text() == "objective,encoder,seed,step,loss,cpu_s,wall_s,starts,cell\n"
    fail(tmp_path, names[0])
    (tmp_path / "cells" / names[0] / "failed.json").write_text("{")
    assert [cell.hash for cell in chosen(tmp_path)[0].failed] == names[:1] and make_page(tmp_path)
    put_cells(tmp_path / "none", {}, [], [])
    make_page(tmp_path / "none")


def test_hostile_text_is_text(tmp_path: Path):
    bad = "<script>alert(1)</script>\"'$x_{$"
    names = put(
        tmp_path,
        {bad: [bad, "b"], "two": ["$", 2]},
        [{bad: score(0.5, 0.5, metric=bad)}] * 3,
        name=bad,
    )
    fail(tmp_path, names[3], why=bad, lines=[bad], stage=bad)
    assert make_page(tmp_path).text.count(bad) >= 10


def test_numbers_stand_on_a_scale_of_numbers(tmp_path: Path):
    scales = {(1, 2, 30): "linear", (1e-5, 1e-2): "log", (0, 0.001, 0.1): "symlog"}
    scales |= {(-1, 0.01, 5): "linear", (3,): "linear"}
    for i, (values, scale) in enumerate(scales.items()):
        put(tmp_path / str(i), {"lr": list(values)}, [{"a": score(0.5, 0.4)}] * len(values))
        sweep = sweep_rows.read(tmp_path / str(i))
        (axes,) = sweep_figures.against(
            "lr", sweep.axes["lr"], sweep_figures.points(sweep.finished, "lr", "a")
        ).axes
        assert axes.get_xscale() == scale and axes.get_xlabel() == "lr"
        low, high = axes.get_xlim()
        assert low < min(values) and max(values) < high


def test_a_chart_has_a_mark_for_each_cell_and_the_means(tmp_path: Path):
    put(
        tmp_path,
        GRID,
        [{"a": score(0.3 + i / 20, 0.95 if i == 7 else 0.5 + i / 50)} for i in range(8)],
    )
    sweep = sweep_rows.read(tmp_path)
    for axis in GRID:
        found = sweep_figures.points(sweep.finished, axis, "a")
        (axes,) = sweep_figures.against(axis, sweep.axes[axis], found).axes
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert sum(len(np.atleast_1d(line.get_xdata())) for line in dots) == 16  # test and val
        assert [text.get_text() for text in axes.get_yticklabels()] == sweep.axes[
            axis
        ]  # a seed is a name too
    found = sweep_figures.points(sweep.finished, "objective", "a")
    assert sweep_figures.means(found, "test") == pytest.approx({"mae": 0.375, "dpc": 0.575})
    put(
        tmp_path / "more",
        {"lr": [1, 2], "b": [1, 2]},
        [{"a": score(0.3, val)} for val in (0.95, 0.4, 0.4, 0.4)],
    )
    more = sweep_figures.points(sweep_rows.read(tmp_path / "more").finished, "lr", "a")
    assert (
        sweep_figures.against("lr", ["1", "2"], more).axes[0].get_ylim()[1] > 95
    )  # val beside test is not cut off


def test_pairs_of_axes_have_means(tmp_path: Path):
    put(tmp_path, GRID, [{"a": score(0.3 + i / 20, 0.5 + i / 50)} for i in range(6)])
    cells, pair = sweep_rows.read(tmp_path).finished, ("objective", "encoder")
    assert sweep_figures.pairs(sweep_rows.read(tmp_path).varied, cells) == [pair]
    means = sweep_figures.pair_means(pair, cells, "a")
    wanted = {("mae", "vit depth=2"): (0.325, 0.51), ("mae", "conv"): (0.425, 0.55)}
    wanted |= {("dpc", "vit depth=2"): (0.525, 0.59)}
    assert means == {place: pytest.approx(values) for place, values in wanted.items()}
    rows = [{"lr": 0.1 * i, "decay": 0.2 * i} for i in range(1, 20)]
    put_cells(tmp_path / "random", {}, rows, [{"a": score(0.5, 0.5)}] * 19)
    sweep = sweep_rows.read(tmp_path / "random")
    assert sweep_figures.pairs(sweep.varied, sweep.finished) == []  # no grid


def test_curves_are_of_every_cell_and_long_logs_are_thinned(tmp_path: Path):
    names = put(tmp_path, GRID, [{"a": score(0.5, 0.5)}] * 3)
    log = tmp_path / "cells" / names[0] / f"run_{names[0]}" / "metrics.jsonl"
    whole = [{"step": i, "loss": 1 / i, "note": "x" * 400} for i in range(1, 20_001)]
    log.write_text(
        "".join(json.dumps(line) + "\n" for line in whole)
        + '{"step": 3, "lo\n[1]\n{"step": 30000, "loss": NaN}'
    )
    tracemalloc.start()
    curve = read_losses(log, 100)
    assert tracemalloc.get_traced_memory()[1] < log.stat().st_size / 4  # it is not read whole
    tracemalloc.stop()
    assert 50 <= len(curve) <= 100 and curve[0] == (1, 1.0) and curve[-1][0] > 19_990
    assert all(loss == 1 / step for step, loss in curve)
    made = sweep_figures.curves(sweep_rows.read(tmp_path).cells, "objective", ["mae", "dpc"])
    assert made is not None and len(made[0].axes[0].lines) == 3
    assert "mae" in made[1] and "dpc" not in made[1]  # none of it has logged


def test_a_thousand_cells_make_a_page_that_opens(tmp_path: Path):
    axes: Axes = {
        "lr": [10.0**-i for i in range(5)],
        "batch": list(range(25)),
        "seed": list(range(8)),
    }
    rng = random.Random(0)
    scores = [{name: score(rng.random(), rng.random()) for name in "abc"} for _ in range(1000)]
    put(tmp_path, axes, scores)
    assert make_page(tmp_path).tags["tr"] > 1000
    assert (tmp_path / "report.html").stat().st_size < 10_000_000
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1001


SORTED = """<script>addEventListener("load", () => {
  const table = [...document.querySelectorAll("table.rows")].at(-1);
  const heads = [...table.querySelectorAll("thead tr:last-child th")];
  const at = heads.findIndex(head => head.textContent === "val");
  const click = () => heads[at].firstChild.click();
  const read = () => [...table.tBodies[0].rows].map(row => parseFloat(row.cells[at].textContent));
  click(); const up = read(); click();
  document.title = JSON.stringify({up: up, down: read()});
});</script>"""


@pytest.mark.parametrize("width", [1100, 500])
def test_a_browser_shows_it_whole_and_sorts(tmp_path: Path, width: int):
    encoders = ["an encoder with a long name, depth=2, " * 3, "r3d"]
    axes: Axes = {"objective.mask_ratio": [0.5, 0.9], "encoder": encoders, "lr": [1e-5, 0.1]}
    vals = [None, 0.5, 0.07, 0.4]
    names = put(tmp_path, axes, [{"probe": score(0.5, v), "knn_of_x": score(0.4, v)} for v in vals])
    fail(tmp_path, names[5], lines=["x" * 300], why="why " * 60)
    page = Path(report.report(tmp_path)["report"])
    layout = measure_page(page, LAYOUT, width)
    assert layout == {"images": 2 * 3 + 1, "broken": 0, "wide": 0, "out": 0}
    rows = measure_page(page, SORTED, width)
    assert rows["up"] == [7.0, 40.0, 50.0, None]
    assert rows["down"] == [50.0, 40.0, 7.0, None]  # a cell without score is last
