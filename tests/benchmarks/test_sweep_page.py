"""The report of a sweep: its page and tables, from made-up folders: unfinished, hostile, large."""

import csv
import json
import random
import tracemalloc
from operator import methodcaller
from pathlib import Path

import numpy as np
import pytest

from benchmarks import report
from benchmarks.reports import (
    sweep_choice,
    sweep_columns,
    sweep_curves,
    sweep_figures,
    sweep_page,
    sweep_pairs,
    sweep_rows,
)
from ssvid.results.run_files import read_losses
from tests.benchmarks import made
from tests.benchmarks.browser import LAYOUT, measure_page, read_page
from tests.benchmarks.made import pick
from tests.benchmarks.sweeps import (
    GRID,
    Axes,
    fail,
    make_page,
    put,
    put_cells,
    read_choice,
    score,
    scores_of_a,
)
from tests.helpers import command, tells

ROW_HEAD = ["step", "loss", "cpu_s", "wall_s", "starts", "cell"]


def make_scores(count: int, test: float, val: float, step: float = 0.02) -> list[dict]:
    """Of a suite with one cell, a; both numbers grow from cell to cell."""
    return [{"a": score(test + i * step, val + i / 50)} for i in range(count)]


def test_the_command_makes_page_table_and_rows(tmp_path: Path):
    names = put(tmp_path, GRID, [{"probe": score(0.4 + i / 50, 0.5 + i / 100)} for i in range(6)])
    fail(tmp_path, names[6])
    done = command("benchmarks.report", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["report"] == str(tmp_path / "report.html")
    assert (printed["cells"], printed["finished"], printed["failed"]) == (8, 6, 1)
    assert printed["best"]["cells"] == names[4:6] and printed["best"]["on"] == "probe"
    page = read_page((tmp_path / "report.html").read_text(), scripts=1)
    sweep, choice = read_choice(tmp_path)
    assert choice.best is not None and choice.best.name == "objective dpc, encoder vit depth=2"
    for cell in sweep.finished:
        base = f"cells/{cell.hash}"
        shown = {"run": f"{base}/run_{cell.hash}/", "results": f"{base}/bench/report.html"}
        assert sweep_page.cell_files(cell, tmp_path) == shown
        assert {*shown.values()} <= {*page.addresses}
    (failed_cell,) = sweep.failed
    assert failed_cell.failure["why"] == "rank 0: CUDA out of memory."
    texts = [column.text(sweep.finished[3]) for column in sweep_columns.list_columns(sweep)]
    assert tells(" ".join(texts), "46.0", "40.0", "51.0", "53.0", "+11.0", "+6.0", "+16.0")
    markdown = (tmp_path / "rows.md").read_text()
    for text in texts:
        assert text in markdown


def test_the_head_and_the_lead_name_data_gain_and_date(tmp_path: Path):
    names = put(tmp_path, {"lr": [1, 2]}, scores_of_a((0.5, 0.5), (0.3, 0.3)))
    sweep, choice = read_choice(tmp_path)
    head = sweep_page.head_of_sweep(sweep, choice)
    date = sweep_page.date_of([sweep.finished[0].folder.row_file])
    assert head.title == "Sweep smoke" and head.about == f"2 cells - {date}"
    lead = sweep_choice.describe_best(choice)
    assert lead.name == "1" and tells(lead.text, "50.0", "44.0", "55.0", "15.0", "+10.0", "+20.0")
    assert "above" in lead.text and sweep_choice.explain_choice(sweep, choice)[0] == lead.text
    put(tmp_path / "b", {"seed": [1, 2]}, [{"a": score(0.5, 0.5)}, {"a": score(0.3, 0.3)}])
    lead = sweep_choice.describe_best(read_choice(tmp_path / "b")[1])
    assert tells(lead.text, "+5.0 points", "1 of 2 seeds")
    put(tmp_path / "c", {"lr": [1, 2]}, [{"a": score(0.37, 0.5)}])
    assert "No difference" in sweep_choice.describe_best(read_choice(tmp_path / "c")[1]).text
    result = made.make_whole_result("net", "a", clips=16)
    result = made.replace(result, data=made.replace(result.data, set={"name": "ucf101"}))
    made.put(tmp_path / "cells" / names[0] / "bench", result)
    head = sweep_page.head_of_sweep(sweep, choice)
    assert head.about == f"ucf101 - 16 test clips - 2 cells - {date}"
    assert "WARNING" not in make_page(tmp_path).text
    leaky = made.replace(result, leak=made.Leak(checked=True, clips=7))
    made.put(tmp_path / "cells" / names[0] / "bench", leaky)
    page = make_page(tmp_path).text
    assert page.index("WARNING: pretraining read 7") < page.index("Best by val")


def test_the_table_marks_gains_that_are_shown_and_states_a_common_chance_once(tmp_path: Path):
    worse = {"difference": -0.2, "interval": [-0.3, -0.1], "shown": True}
    scores = scores_of_a((0.5, 0.5), (0.37, 0.4), (0.15, 0.3))
    scores[2]["a"]["gain"] = worse
    put(tmp_path, {"lr": [1, 2, 3]}, scores)
    table = sweep_page.make_table(*read_choice(tmp_path))
    assert table.groups == [("", 1), ("a (chance 25.0 %)", 3), ("", 3)]
    assert "starts" in table.head and "step" not in table.head  # all cells have the same step
    column = table.head.index("more than untrained")
    gains = [row.cells[column].shown for row in table.rows]
    assert pick(gains, "kind") == ["better", "", "worse"]
    assert pick(gains, "text") == ["+15.0", "+2.0", "-20.0"]
    assert gains[1].interval == "95 %: -3.0 to +7.0" and tells(gains[1].line, "not shown")
    assert pick(table.rows, "best") == [True, False, False]
    scores[1]["a"]["chance"] = 0.5
    put(tmp_path / "b", {"lr": [1, 2, 3]}, scores)
    assert "chance" in sweep_page.make_table(*read_choice(tmp_path / "b")).head


def test_rows_hold_every_number_in_full(tmp_path: Path):
    both = {"a": score(1 / 3, 0.123456789), "b": score(0.2, None, metric="map", gain=None)}
    put(tmp_path, {"lr": [0.1, 0.01, 1e-5], "clip.size": [[1, 2]]}, [both, {"a": score(0.5, 0.5)}])
    text = sweep_columns.comma(sweep_rows.read_sweep(tmp_path))
    first, second = csv.DictReader(text.splitlines())
    keys = []
    for cell in "ab":
        for key in sweep_columns.SCORE_KEYS:
            keys.append(f"{cell} {key}")
    assert list(first) == ["lr", "clip.size", *keys, *ROW_HEAD]
    assert float(first["a test"]) == 1 / 3 and float(first["a low"]) == 1 / 3 - 0.06
    numbers = (first["a val"], first["b metric"], first["b val"], first["b random"])
    assert numbers == ("0.123456789", "map", "", "0.35")
    numbers = (first["lr"], first["clip.size"], first["starts"], first["cell"])
    assert numbers == ("0.1", "[1, 2]", "1", "00000000")
    assert second["lr"] == "0.01" and second["b test"] == "" and second["loss"] == "0.51"


def test_nothing_finished_and_nothing_there(tmp_path: Path):
    names = put(tmp_path, GRID, [])
    make_page(tmp_path)
    sweep, choice = read_choice(tmp_path)
    assert (len(sweep.cells), sweep.finished, choice.best) == (8, [], None) and choice.reason
    rows = (tmp_path / "rows.csv").read_text()
    assert rows == "objective,encoder,seed,step,loss,cpu_s,wall_s,starts,cell\n"
    fail(tmp_path, names[0])
    (tmp_path / "cells" / names[0] / "failed.json").write_text("{")
    failed = read_choice(tmp_path)[0].failed
    assert pick(failed, "hash") == names[:1] and make_page(tmp_path)
    put_cells(tmp_path / "none", {}, [], [])
    make_page(tmp_path / "none")


def test_hostile_text_is_text(tmp_path: Path):
    bad = "<script>alert(1)</script>\"'$x_{$"
    axes: Axes = {bad: [bad, "b"], "two": ["$", 2]}
    names = put(tmp_path, axes, [{bad: score(0.5, 0.5, metric=bad)}] * 3, name=bad)
    fail(tmp_path, names[3], why=bad, lines=[bad], stage=bad)
    assert make_page(tmp_path).text.count(bad) >= 10


def test_numbers_stand_on_a_scale_of_numbers(tmp_path: Path):
    scales = {(1, 2, 30): "linear", (1e-5, 1e-2): "log", (0, 0.001, 0.1): "symlog"}
    scales |= {(-1, 0.01, 5): "linear", (3,): "linear"}
    for i, (values, scale) in enumerate(scales.items()):
        put(tmp_path / str(i), {"lr": list(values)}, [{"a": score(0.5, 0.4)}] * len(values))
        sweep = sweep_rows.read_sweep(tmp_path / str(i))
        points = sweep_figures.make_points(sweep.finished, "lr", "a")
        (axes,) = sweep_figures.draw_axis("lr", sweep.axes["lr"], points).axes
        assert axes.get_xscale() == scale and axes.get_xlabel() == "lr"
        low, high = axes.get_xlim()
        assert low < min(values) and max(values) < high


def test_a_chart_has_a_mark_for_each_cell_and_the_means(tmp_path: Path):
    scores = make_scores(8, 0.3, 0.5, 0.05)
    scores[7]["a"]["val"] = 0.95
    put(tmp_path, GRID, scores)
    sweep = sweep_rows.read_sweep(tmp_path)
    for axis in GRID:
        points = sweep_figures.make_points(sweep.finished, axis, "a")
        (axes,) = sweep_figures.draw_axis(axis, sweep.axes[axis], points).axes
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        marks = np.concatenate([np.atleast_1d(line.get_xdata()) for line in dots])
        assert len(marks) == 16  # test and val
        names = list(map(methodcaller("get_text"), axes.get_yticklabels()))
        assert names == sweep.axes[axis]  # a seed is a name too
    points = sweep_figures.make_points(sweep.finished, "objective", "a")
    means = sweep_figures.average_points(points, "test")
    assert means == pytest.approx({"mae": 0.375, "dpc": 0.575})
    axes_of_two: Axes = {"lr": [1, 2], "b": [1, 2]}
    scores = scores_of_a((0.3, 0.95), (0.3, 0.4), (0.3, 0.4), (0.3, 0.4))
    put(tmp_path / "more", axes_of_two, scores)
    cells = sweep_rows.read_sweep(tmp_path / "more").finished
    points = sweep_figures.make_points(cells, "lr", "a")
    (axes,) = sweep_figures.draw_axis("lr", ["1", "2"], points).axes
    assert axes.get_ylim()[1] > 95  # val beside test is not cut off


def test_pairs_of_axes_have_means(tmp_path: Path):
    put(tmp_path, GRID, make_scores(6, 0.3, 0.5, 0.05))
    sweep, pair = sweep_rows.read_sweep(tmp_path), ("objective", "encoder")
    assert sweep_pairs.list_pairs(sweep.varied, sweep.finished) == [pair]
    means = sweep_pairs.average_pairs(pair, sweep.finished, "a")
    wanted = {("mae", "vit depth=2"): (0.325, 0.51), ("mae", "conv"): (0.425, 0.55)}
    wanted |= {("dpc", "vit depth=2"): (0.525, 0.59)}
    assert means.keys() == wanted.keys()
    for key, values in wanted.items():
        assert means[key] == pytest.approx(values)
    heat = sweep_pairs.make_heat(pair, sweep.varied, means)
    assert heat.head == ["vit depth=2", "conv"] and list(dict(heat.rows)) == GRID[pair[0]]
    first, empty = heat.rows[0][1][0], heat.rows[1][1][1]
    assert (first.text, first.val, empty.text) == ("32.5", "val 51.0", "-")
    rows = [{"lr": 0.1 * i, "decay": 0.2 * i} for i in range(1, 20)]
    put_cells(tmp_path / "random", {}, rows, [{"a": score(0.5, 0.5)}] * 19)
    sweep = sweep_rows.read_sweep(tmp_path / "random")
    assert sweep_pairs.list_pairs(sweep.varied, sweep.finished) == []  # no grid


def test_curves_are_of_every_cell_and_long_logs_are_thinned(tmp_path: Path):
    names = put(tmp_path, GRID, [{"a": score(0.5, 0.5)}] * 3)
    log = tmp_path / "cells" / names[0] / f"run_{names[0]}" / "metrics.jsonl"
    whole = [{"step": i, "loss": 1 / i, "note": "x" * 400} for i in range(1, 20_001)]
    torn = '{"step": 3, "lo\n[1]\n{"step": 30000, "loss": NaN}'
    log.write_text("".join(json.dumps(line) + "\n" for line in whole) + torn)
    tracemalloc.start()
    curve = read_losses(log, 100)
    assert tracemalloc.get_traced_memory()[1] < log.stat().st_size / 4  # it is not read whole
    tracemalloc.stop()
    assert 50 <= len(curve) <= 100 and curve[0] == (1, 1.0) and curve[-1][0] > 19_990
    steps, losses = np.array(curve).T
    assert (losses == 1 / steps).all()
    cells = sweep_rows.read_sweep(tmp_path).cells
    drawn = sweep_curves.draw_curves(cells, "objective", ["mae", "dpc"])
    assert drawn is not None
    figure, legend = drawn
    assert len(figure.axes[0].lines) == 3
    ((_, value),) = legend.marks
    assert value == "mae"  # none of dpc has logged


@pytest.mark.slow
def test_a_thousand_cells_make_a_page_that_opens(tmp_path: Path):
    rates = [1.0, 0.1, 0.01, 0.001, 0.0001]
    axes: Axes = {"lr": rates, "batch": list(range(25)), "seed": list(range(8))}
    rng, scores = random.Random(0), []
    for _ in range(1000):
        scores.append({name: score(rng.random(), rng.random()) for name in "abc"})
    put(tmp_path, axes, scores)
    assert make_page(tmp_path).tags["tr"] > 1000
    assert (tmp_path / "report.html").stat().st_size < 10_000_000
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1001


SORTED = """<script>addEventListener("load", () => {
  const table = [...document.querySelectorAll("table.sorted")].at(-1);
  const heads = [...table.querySelectorAll("thead tr:last-child th")];
  const column = heads.findIndex(head => head.textContent === "val");
  const click = () => heads[column].firstChild.click();
  const number = row => parseFloat(row.cells[column].textContent);
  const read = () => [...table.tBodies[0].rows].map(number);
  click(); const up = read(); click();
  document.title = JSON.stringify({up: up, down: read()});
});</script>"""
FITS = """<script>addEventListener("load", () => {
  const box = document.querySelector("table.cells").parentElement;
  document.title = JSON.stringify({cut: box.scrollWidth - box.clientWidth});
});</script>"""


def put_two_probes(folder: Path) -> Path:
    """Long names, two probes and a failure; the page."""
    encoders = ["an encoder with a long name, depth=2, " * 3, "r3d"]
    axes: Axes = {"objective.mask_ratio": [0.5, 0.9], "encoder": encoders, "lr": [1e-5, 0.1]}
    vals = [None, 0.5, 0.07, 0.4]
    scores = [{"probe": score(0.5, val), "knn_of_x": score(0.4, val)} for val in vals]
    names = put(folder, axes, scores)
    fail(folder, names[5], lines=["x" * 300], why="why " * 60)
    return Path(report.report(folder)["report"])


@pytest.mark.parametrize("width", [1280, 1100, 500])
def test_a_browser_shows_it_whole_and_sorts(tmp_path: Path, width: int):
    page = put_two_probes(tmp_path)
    layout = measure_page(page, LAYOUT, width)
    assert layout == {"images": 2 * 3 + 1, "broken": 0, "wide": 0, "out": 0}
    rows = measure_page(page, SORTED, width)
    assert rows["up"] == [7.0, 40.0, 50.0, None]
    assert rows["down"] == [50.0, 40.0, 7.0, None]  # a cell without score is last
    if width == 1280:
        assert measure_page(page, FITS, width) == {"cut": 0}  # two probes fit
