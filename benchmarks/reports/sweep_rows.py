"""folder of a sweep -> its cells and the best of them (by val, never by test); and rows.csv, rows.md."""

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.reports.tables import markdown_table
from ssvid.errors import UserError
from ssvid.results.rows import RowScore, number, row_from_json
from ssvid.results.run_files import read_whole_mapping
from ssvid.results.text import between
from ssvid.sweep.folder import CellFolder, SweepFolder

SEED = "seed"  # the axis that groups are means over
SAME = 1e-9  # of val scores that tie


class Cell(NamedTuple):
    hash: str
    name: str
    axes: dict[str, str]
    left: bool  # the sweep's file has it no more
    folder: CellFolder
    row: dict[str, Any] | None  # where it has finished
    scores: dict[str, RowScore]  # by cell of the suite
    failed: dict[str, Any] | None

    def number(self, key: str) -> float | None:
        return number((self.row or {}).get(key))


class Sweep(NamedTuple):
    folder: Path
    name: str
    axes: dict[str, list[str]]  # axis -> values in the order of the sweep
    best: str | None  # cell of the suite that decides, where the sweep names it
    every: list[Cell]
    faults: list[str]  # of files that could not be read

    @property
    def cells(self) -> list[Cell]:
        return [cell for cell in self.every if not cell.left]

    @property
    def finished(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.row is not None]

    @property
    def failed(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.row is None and cell.failed is not None]

    @property
    def suite(self) -> list[str]:
        """Its cells, the one that decides first."""
        names = list(dict.fromkeys(name for cell in self.finished for name in cell.scores))
        first = deciding(self)
        return sorted(names, key=lambda name: name != first)

    @property
    def varied(self) -> dict[str, list[str]]:
        return {axis: values for axis, values in self.axes.items() if len(values) > 1}


class Group(NamedTuple):
    """Cells that differ in seed alone, of those with a val score; without such an axis it is one cell."""

    axes: dict[str, str]  # without the seed
    cells: list[Cell]
    planned: int  # how many the sweep has of it
    val: float
    seeds: bool

    @property
    def name(self) -> str:
        if not self.seeds:
            return self.cells[0].name
        return ", ".join(f"{axis} {value}" for axis, value in self.axes.items()) or "all seeds"


class Choice(NamedTuple):
    on: str | None  # the cell of the suite that decides
    groups: list[Group]  # the best first
    ties: list[Group]  # others with the same val
    why: str  # no best is named

    @property
    def best(self) -> Group | None:
        return self.groups[0] if self.groups else None


def is_sweep(folder: Path) -> bool:
    return SweepFolder(folder).file.is_file()


def read(folder: Path) -> Sweep:
    place = SweepFolder(folder)
    content = place.read()
    given = content.get("cells")
    if not isinstance(given, dict) or not all(isinstance(one, dict) for one in given.values()):
        raise UserError(
            f"{place.file} has no `cells` of a sweep: submit the sweep again, which writes it anew."
        )
    faults: list[str] = []
    cells = [_cell(place.cell(name), one, faults) for name, one in given.items()]
    axes = content.get("axes")
    listed: dict[str, Any] = axes if isinstance(axes, dict) else {}
    names = [axis for axis in listed] + [
        axis for cell in cells if not cell.left for axis in cell.axes
    ]
    values = {axis: _values(axis, listed.get(axis), cells) for axis in dict.fromkeys(names)}
    best = content.get("best")
    return Sweep(
        folder,
        str(content.get("name") or folder.name),
        values,
        str(best) if best else None,
        cells,
        faults,
    )


def _values(axis: str, listed: Any, cells: list[Cell]) -> list[str]:
    """That cells have, in the order of the sweep's file."""
    order = [label(value) for value in listed] if isinstance(listed, list) else []
    there = dict.fromkeys(cell.axes[axis] for cell in cells if not cell.left and axis in cell.axes)
    return [value for value in dict.fromkeys(order) if value in there] + [
        v for v in there if v not in order
    ]


def label(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cell(folder: CellFolder, given: dict[str, Any], faults: list[str]) -> Cell:
    axes = given.get("axes") if isinstance(given.get("axes"), dict) else {}
    row = _mapping(
        folder.row_file, "it counts as not finished; delete it and submit the sweep again", faults
    )
    if row is not None and row.get("cell", folder.hash) != folder.hash:
        faults.append(
            f"{_short(folder.row_file)} is of the cell {row['cell']}: it counts as not finished."
        )
        row = None
    failed = _mapping(folder.failed_file, "its cell counts as failed", faults)
    if failed is None and folder.failed:
        failed = {"why": "failed.json is damaged"}
    scores = {} if row is None else _scores(row.get("scores"), folder.row_file, faults)
    labels = {str(axis): label(value) for axis, value in (axes or {}).items()}
    name = str(given.get("name") or folder.hash)
    return Cell(folder.hash, name, labels, bool(given.get("left")), folder, row, scores, failed)


def _mapping(file: Path, then: str, faults: list[str]) -> dict[str, Any] | None:
    try:
        return read_whole_mapping(file)
    except UserError:
        faults.append(f"{_short(file)} is damaged: {then}.")
        return None


def _short(file: Path) -> str:
    return "/".join(file.parts[-3:])


def _scores(given: Any, file: Path, faults: list[str]) -> dict[str, RowScore]:
    scores = {}
    for name, content in (given if isinstance(given, dict) else {}).items():
        score = row_from_json(content)
        if score is None:
            faults.append(f"{_short(file)} has no test score on {name}: it is left out.")
        else:
            scores[name] = score
    return scores


def deciding(sweep: Sweep) -> str | None:
    """The cell of the suite whose val chooses: the one that the sweep names, else the first that has val scores."""
    if sweep.best is not None:
        return sweep.best
    with_val = (
        name
        for cell in sweep.finished
        for name, score in cell.scores.items()
        if score.val is not None
    )
    return next(with_val, None)


def choose(sweep: Sweep) -> Choice:
    """By val alone: nothing here reads a test score."""
    on = deciding(sweep)
    found = groups(sweep, on) if on is not None else []
    if not found:
        return Choice(on, [], [], _why_none(sweep))
    ranked = sorted(
        found, key=lambda group: -group.val
    )  # stable: ties stay in the order of the sweep
    ties = [group for group in found if ranked[0].val - group.val < SAME]
    best = ties[0]
    rest = [group for group in ranked if group is not best]
    return Choice(on, [best, *rest], ties[1:], "")


def _why_none(sweep: Sweep) -> str:
    if not sweep.finished:
        return "no cell has finished"
    if not any(cell.scores for cell in sweep.finished):
        return "no finished cell has scores (is there a suite?)"
    if sweep.best is not None:
        return f"the sweep names {sweep.best} as what decides, and no finished cell has a val score on it"
    return "no finished cell has a val score on any cell of the suite, and test is not for choosing"


def groups(sweep: Sweep, on: str) -> list[Group]:
    seeds = len(sweep.axes.get(SEED, [])) > 1
    planned: dict[tuple[Any, ...], int] = {}
    members: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in sweep.cells:
        key = (
            tuple((axis, v) for axis, v in cell.axes.items() if axis != SEED)
            if seeds
            else (("cell", cell.hash),)
        )
        planned[key] = planned.get(key, 0) + 1
        if cell.row is not None and on in cell.scores and cell.scores[on].val is not None:
            members.setdefault(key, []).append(cell)
    made = []
    for key in (
        key for key in planned if key in members
    ):  # in the order of the sweep, whichever finished first
        own = members[key]
        val = statistics.fmean(cell.scores[on].val or 0.0 for cell in own)
        axes = {axis: value for axis, value in own[0].axes.items() if axis != SEED}
        made.append(Group(axes, own, planned[key], val, seeds))
    return made


class Column(NamedTuple):
    of: str  # cell of the suite; empty: of the cell itself
    name: str
    text: Callable[[Cell], str]
    value: Callable[[Cell], str | float | None]  # to sort by


def columns(sweep: Sweep) -> list[Column]:
    """Of the tables for reading."""
    made = [_axis(axis, values) for axis, values in sweep.axes.items()]
    made = made or [Column("", "cell", lambda cell: cell.name, lambda cell: cell.name)]
    for name in sweep.suite:
        metric = next(cell.scores[name].metric for cell in sweep.finished if name in cell.scores)
        parts = {f"test {metric}, %": (_tested, "test"), "val": (_share("val"), "val")}
        parts |= {"more than untrained": (_gained, "gain"), "chance": (_share("chance"), "chance")}
        made += [_scored(name, head, text, key) for head, (text, key) in parts.items()]
    for key, form in (("step", ".0f"), ("loss", ".4g"), ("cpu_s", ".0f"), ("starts", ".0f")):
        made.append(_plain(key, form))
    return made


def _axis(axis: str, values: list[str]) -> Column:
    at = places(values)
    value = (
        (lambda cell: at.get(cell.axes.get(axis, "")))
        if at
        else (lambda cell: cell.axes.get(axis, ""))
    )
    return Column("", axis, lambda cell: cell.axes.get(axis, ""), value)


def places(values: Sequence[str]) -> dict[str, float]:
    """Value -> number, where all of an axis are numbers; else empty."""
    try:
        made = {value: float(value) for value in values}
    except ValueError:
        return {}
    return made if all(map(math.isfinite, made.values())) else {}


def _scored(name: str, head: str, text: Callable[[RowScore], str], key: str) -> Column:
    def value(cell: Cell) -> float | None:
        score = cell.scores.get(name)
        if key == "gain":
            return score.gain.difference if score and score.gain else None
        return getattr(score, key, None)

    return Column(
        name, head, lambda cell: text(cell.scores[name]) if name in cell.scores else "", value
    )


def _tested(score: RowScore) -> str:
    return f"{100 * score.test:.1f}" + (f" ({between(score.interval)})" if score.interval else "")


def _share(key: str) -> Callable[[RowScore], str]:
    return lambda score: "" if getattr(score, key) is None else f"{100 * getattr(score, key):.1f}"


def _gained(score: RowScore) -> str:
    """The difference stands there whether it is shown or not: a table of many rows is for comparing."""
    if score.gain is None:
        return ""
    shown = "" if score.gain.shown else ", not shown"
    return f"{100 * score.gain.difference:+.1f} ({between(score.gain.interval, '+')}{shown})"


def _plain(key: str, form: str) -> Column:
    head = {"cpu_s": "CPU-seconds"}.get(key, key)

    def text(cell: Cell) -> str:
        value = cell.number(key)
        return "" if value is None else f"{value:{form}}"

    return Column("", head, text, lambda cell: cell.number(key))


def comma(sweep: Sweep) -> str:
    """One line for each finished cell, in full precision."""
    keys = ("metric", "test", "low", "high", "val", "chance", "random")
    rest = ("step", "loss", "cpu_s", "wall_s", "starts")
    head = [*sweep.axes, *(f"{name} {key}" for name in sweep.suite for key in keys), *rest, "cell"]
    with io.StringIO(newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(head)
        for cell in sweep.finished:
            scores = [value for name in sweep.suite for value in _flat(cell.scores.get(name))]
            numbers = [(cell.row or {}).get(key) for key in rest]
            write.writerow(
                [*(cell.axes.get(axis, "") for axis in sweep.axes), *scores, *numbers, cell.hash]
            )
        return file.getvalue()


def _flat(score: RowScore | None) -> list[Any]:
    if score is None:
        return [None] * 7
    low, high = score.interval or (None, None)
    return [score.metric, score.test, low, high, score.val, score.chance, score.random]


def markdown(sweep: Sweep, said: Sequence[str]) -> str:
    """`said`: sentences above the table."""
    shown = columns(sweep)
    many = len(sweep.suite) > 1
    head = [
        f"{column.of} {column.name}" if many and column.of else column.name for column in shown
    ] + ["cell"]
    body = [head] + [
        [*(column.text(cell) for column in shown), cell.hash] for cell in sweep.finished
    ]
    body = [[text.replace("|", "\\|").replace("\n", " ") for text in line] for line in body]
    return "\n".join(
        [f"# {sweep.name}", "", *(f"{line}\n" for line in said), *markdown_table(body), ""]
    )
