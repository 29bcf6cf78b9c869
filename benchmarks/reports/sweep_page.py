"""folder of a sweep -> report.html, rows.csv and rows.md.

The page says which cell is best by val and shows every row, each axis and the loss curves.

This file prepares what stands on the page; templates/sweep.html says where it stands.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from benchmarks.reports import sweep_columns, sweep_rows
from benchmarks.reports.page import Picture, Table, draw_sharp, render_page
from benchmarks.reports.page_heads import (
    Head,
    count,
    count_test_clips,
    date_of,
    join_facts,
    name_data_of,
    print_text,
)
from benchmarks.reports.sweep_choice import (
    Choice,
    choose,
    describe_best,
    explain_choice,
    scores_of,
    spread,
    warn_of_leaks,
)
from benchmarks.reports.sweep_columns import Column, Shown, equal_chances, list_columns
from benchmarks.reports.sweep_curves import Legend, draw_curves
from benchmarks.reports.sweep_figures import NAMES, Point, average_points, draw_axis, make_points
from benchmarks.reports.sweep_pairs import Heat, average_pairs, list_pairs, make_heat
from benchmarks.reports.sweep_rows import Cell, Sweep
from benchmarks.reports.verdict import list_leaks
from ssvid.errors import UserError
from ssvid.files import write_text_whole
from ssvid.results import Result, read_folder
from ssvid.results.text import format_percent

PANELS = 24  # charts of axes; more only make the page slow
PAIRS = 3  # tables of pairs of axes that stand open
FAULTS = 10  # that are named
SHARED = ("step", "starts")  # columns that are left out where all cells have the same
TALL = 40  # rows: a longer table scrolls inside its own frame
VALUES = 12  # whose means the text of a picture names
Link = tuple[str, str]  # name, address


class TableCell(NamedTuple):
    shown: Shown
    key: str | None  # to sort by, where it is not what is shown
    is_text: bool


class TableRow(NamedTuple):
    anchor: str
    best: bool
    cells: list[TableCell]
    links: list[Link]


class CellTable(NamedTuple):
    groups: list[
        tuple[str, int]
    ]  # (cell of the suite, its columns); empty: no second line of heads
    head: list[str]
    rows: list[TableRow]
    tall: bool


class Failure(NamedTuple):
    anchor: str
    name: str
    stage: str
    times: str
    reason: str
    lines: str
    links: list[Link]


class AxisPanel(NamedTuple):
    picture: Picture
    note: str


class SuiteCharts(NamedTuple):
    """All charts of one cell of the suite."""

    name: str
    panels: list[AxisPanel]
    note: str
    heats: list[Heat]


def write_sweep(folder: Path) -> dict[str, Any]:
    """Write the page and both tables; what the command prints."""
    sweep = sweep_rows.read_sweep(folder)
    choice = choose(sweep)
    file = folder / "report.html"
    sentences = [*warn_of_leaks(sweep), describe_state(sweep), *explain_choice(sweep, choice)]
    texts = {
        "rows.csv": sweep_columns.comma(sweep),
        "rows.md": sweep_columns.markdown(sweep, sentences),
        file.name: render_sweep(sweep, choice),
    }
    for name, text in texts.items():
        write_text_whole(folder / name, text)
    best = choice.best and {
        "name": choice.best.name,
        "cells": [cell.hash for cell in choice.best.cells],
        "on": choice.decider,
        "val": choice.best.val,
    }
    numbers = {
        "cells": len(sweep.cells),
        "finished": len(sweep.finished),
        "failed": len(sweep.failed),
    }
    return {"report": str(file), **numbers, "best": best}


def render_sweep(sweep: Sweep, choice: Choice) -> str:
    faults = sweep.faults[:FAULTS]
    if len(sweep.faults) > FAULTS:
        faults = [*faults, f"And {len(sweep.faults) - FAULTS} more."]
    lead = describe_best(choice)
    cut = len(sweep.suite) - len(list_drawn_cells(sweep))
    return render_page(
        "sweep.html",
        head=head_of_sweep(sweep, choice),
        lead=lead._replace(after=print_text(lead.after)),
        anchor=choice.best.cells[0].hash if choice.best else "",
        warnings=[*warn_of_leaks(sweep), *warn_of_best(choice)],
        state=describe_state(sweep),
        sentences=explain_choice(sweep, choice)[1:],
        faults=faults,
        failures=[describe_failure(cell, sweep.folder) for cell in sweep.failed],
        tall=len(sweep.failed) > TALL,
        seeds=compare_seeds(choice),
        decider=choice.decider,
        table=make_table(sweep, choice) if sweep.finished else None,
        nothing=reason_for_no_charts(sweep),
        unlike=len(sweep.finished) < len(sweep.cells),
        charts=draw_suite(sweep, choice),
        open_heats=PAIRS,
        undrawn=f"{count(cut, 'further cell')} of the suite not drawn: see rows.csv."
        if cut
        else "",
        training=draw_training(sweep),
        left=[describe_left(cell, sweep.folder) for cell in sweep.all_cells if cell.left_sweep],
    )


def warn_of_best(choice: Choice) -> list[str]:
    return list(map("The best cell: {}".format, list_leaks(results_of_best(choice))))


def head_of_sweep(sweep: Sweep, choice: Choice) -> Head:
    files = [cell.folder.row_file for cell in sweep.finished]
    results = results_of_best(choice)
    about = [
        name_data_of(results),
        count_test_clips(results) if results else "",
        count(len(sweep.cells), "cell"),
        date_of(files or [sweep.folder / "sweep.json"]),
    ]
    return Head(f"Sweep {sweep.name}", join_facts(about))


def results_of_best(choice: Choice) -> list[Result]:
    """Of the best cell's suite. Damaged files are passed over: the rows have the scores."""
    results: list[Result] = []
    for cell in choice.best.cells if choice.best else []:
        try:
            results += read_folder(cell.folder.bench).values()
        except UserError:
            continue
    return results


def describe_state(sweep: Sweep) -> str:
    finished, failed = len(sweep.finished), len(sweep.failed)
    open_cells = len(sweep.cells) - finished - failed
    counts = [f"{finished} finished"]
    if failed:
        counts.append(f"{failed} failed")
    if open_cells:
        counts.append(f"{open_cells} not finished yet")
    text = f"{count(len(sweep.cells), 'cell')}: {', '.join(counts)}."
    left = len(sweep.all_cells) - len(sweep.cells)
    if left:
        text += f" {count(left, 'more cell')} left the sweep when its file was edited."
    return text


def make_table(sweep: Sweep, choice: Choice) -> CellTable:
    """A row for each finished cell. A chance that all cells share stands in the head.

    Steps and starts that all cells share take no column, since a wide table is cut by the screen.
    """
    chances = equal_chances(sweep)

    def varies(column: Column) -> bool:
        if column.name in SHARED:
            return len(set(map(column.text, sweep.finished))) > 1
        return column.name != "chance" or column.suite_cell not in chances

    columns = list(filter(varies, list_columns(sweep)))
    groups = []
    for name, members in itertools.groupby(columns, key=lambda column: column.suite_cell):
        title = f"{name} (chance {format_percent(chances[name])})" if name in chances else name
        groups.append((title, len(list(members))))
    # Where several tie, the first of them is no better than the others, and none is marked.
    best = {cell.hash for cell in choice.best.cells} if choice.best and not choice.ties else set()
    rows = []
    for cell in sweep.finished:
        line = [make_cell(column, cell) for column in columns]
        rows.append(TableRow(cell.hash, cell.hash in best, line, list_links(cell, sweep.folder)))
    head = [column.name for column in columns]
    return CellTable(groups if sweep.suite else [], head, rows, len(rows) > TALL)


def make_cell(column: Column, cell: Cell) -> TableCell:
    shown, value = column.show(cell), column.value(cell)
    key = f"{value:.6g}" if isinstance(value, float) else value or ""
    return TableCell(shown, key if key != shown.text else None, isinstance(value, str))


def cell_files(cell: Cell, root: Path) -> dict[str, str]:
    """Name -> path, from the folder of the sweep, of what there is of a cell."""
    paths = {"run": cell.folder.run, "results": cell.folder.report}
    if cell.failure:
        paths["logs"] = cell.folder.logs
    files = {}
    for name, path in paths.items():
        if path.exists():
            files[name] = f"{path.relative_to(root)}{'/' * path.is_dir()}"
    return files


def list_links(cell: Cell, root: Path) -> list[Link]:
    return [(name, quote(path)) for name, path in cell_files(cell, root).items()]


def describe_failure(cell: Cell, root: Path) -> Failure:
    content = cell.failure or {}
    lines = content.get("lines")
    return Failure(
        anchor=cell.hash,
        name=cell.name,
        stage=str(content.get("stage") or ""),
        times=str(content.get("times") or ""),
        reason=str(content.get("why") or "failed.json does not tell"),
        lines="\n".join(map(str, lines)) if isinstance(lines, list) else str(lines or ""),
        links=list_links(cell, root),
    )


def compare_seeds(choice: Choice) -> Table | None:
    """Means over seeds, the best first."""
    if choice.decider is None or not choice.best or not choice.best.seeds:
        return None
    axes, rows = list(choice.best.axes), []
    for group in choice.groups:
        counts = str(len(group.cells))
        if len(group.cells) < group.planned:
            counts += f" of {group.planned}"
        line = [group.axes.get(axis, "") for axis in axes] + [counts]
        for key in ("val", "test", "random"):
            values = scores_of(group.cells, choice.decider, key)
            line.append(print_text(spread(values)))
        rows.append(line)
    return Table((*axes, "seeds", "val, %", "test, %", "untrained, %"), rows, main=not choice.ties)


def reason_for_no_charts(sweep: Sweep) -> str:
    if not sweep.varied:
        return "no axis has two values"
    return "" if sweep.suite else "no finished cell has scores"


def list_drawn_cells(sweep: Sweep) -> list[str]:
    """The cells of the suite that are drawn, the one that decides first."""
    if reason_for_no_charts(sweep):
        return sweep.suite
    return sweep.suite[: max(1, PANELS // len(sweep.varied))]


def draw_suite(sweep: Sweep, choice: Choice) -> list[SuiteCharts]:
    """For each cell of the suite every axis, and every pair of them."""
    if reason_for_no_charts(sweep):
        return []
    charts = []
    undrawn = len(sweep.varied) - PANELS
    note = f"{count(undrawn, 'further axis')} not drawn." if undrawn > 0 else ""
    for name in list_drawn_cells(sweep):
        panels = draw_panels(sweep, choice, name)
        charts.append(SuiteCharts(name, panels, note, make_heats(sweep, name)))
    return charts


def draw_panels(sweep: Sweep, choice: Choice, suite_cell: str) -> list[AxisPanel]:
    best = choice.best.cells if choice.best and suite_cell == choice.decider else []
    panels = []
    for axis, values in itertools.islice(sweep.varied.items(), PANELS):
        points = make_points(sweep.finished, axis, suite_cell, best)
        if not points:
            continue
        alt = f"{suite_cell} against {axis}: {describe_means(points)}"
        named = axis == sweep_rows.SEED or not sweep_rows.numeric_values(values)
        cut = len(values) - NAMES if named else 0
        note = f"Not drawn: {cut} further values." if cut > 0 else ""
        panels.append(AxisPanel(draw_sharp(draw_axis(axis, values, points), alt), note))
    return panels


def describe_means(points: Sequence[Point]) -> str:
    means = itertools.islice(average_points(points, "test").items(), VALUES)
    return ", ".join(f"{value} {format_percent(mean)}" for value, mean in means)


def make_heats(sweep: Sweep, suite_cell: str) -> list[Heat]:
    cells = [cell for cell in sweep.finished if suite_cell in cell.scores]
    heats = []
    for pair in list_pairs(sweep.varied, cells):
        means = average_pairs(pair, cells, suite_cell)
        heats.append(make_heat(pair, sweep.varied, means))
    return heats


def draw_training(sweep: Sweep) -> tuple[Picture, Legend] | None:
    """None: no cell has logged a step."""
    # The seed only where nothing else is varied.
    axis = min(sweep.varied, key=lambda axis: axis == sweep_rows.SEED, default="")
    drawn = draw_curves(sweep.cells, axis, sweep.axes.get(axis, []))
    if drawn is None:
        return None
    figure, legend = drawn
    return draw_sharp(figure, "Loss against step of every cell that logged one"), legend


def describe_left(cell: Cell, root: Path) -> tuple[str, str, list[Link]]:
    """Name, scores and files of a cell that the sweep's file has no more."""
    texts = []
    for name, score in cell.scores.items():
        text = f"{name}: test {format_percent(score.test)}"
        if score.val is not None:
            text += f", val {format_percent(score.val)}"
        texts.append(text)
    state = "failed" if cell.failure else "not finished"
    if cell.row is not None:
        state = "finished"
    return cell.name, "; ".join(texts) or state, list_links(cell, root)
