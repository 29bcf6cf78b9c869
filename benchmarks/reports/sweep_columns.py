"""cells of a sweep -> the columns of its tables; and rows.csv, rows.md."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.reports.sweep_rows import Cell, Sweep, numeric_values
from benchmarks.reports.tables import markdown_table
from ssvid.results.rows import RowScore
from ssvid.results.text import NOT_VALID, format_interval, format_least, format_test

SCORE_KEYS = ("metric", "test", "low", "high", "val", "chance", "random", "leak")
COST_KEYS = ("step", "loss", "cpu_s", "wall_s", "starts")
NUMBERS = {"step": ".0f", "loss": ".4g", "cpu_s": ".0f", "starts": ".0f"}  # key -> format


class Shown(NamedTuple):
    """What stands in one place of a table."""

    text: str
    interval: str = ""
    kind: str = ""  # "better" or "worse" of a gain that is shown
    note: str = ""

    @property
    def line(self) -> str:
        return f"{self.text} ({self.interval}{self.note})" if self.interval else self.text


class Column(NamedTuple):
    suite_cell: str  # empty: of the sweep's cell itself
    name: str
    show: Callable[[Cell], Shown]
    value: Callable[[Cell], str | float | None]  # to sort by

    def text(self, cell: Cell) -> str:
        return self.show(cell).line


def list_columns(sweep: Sweep) -> list[Column]:
    """Of the tables for reading."""
    columns = [_axis_column(axis, values) for axis, values in sweep.axes.items()]
    if not columns:
        columns = [Column("", "cell", lambda cell: Shown(cell.name), lambda cell: cell.name)]
    for name in sweep.suite:
        metric = scores_on(sweep, name)[0].metric
        columns += [
            _score_column(name, f"test {metric}, %", _show_test, "test"),
            _score_column(name, "val", lambda score: _show_share(score.val), "val"),
            _score_column(name, "more than untrained", _show_gain, "gain"),
            _score_column(name, "chance", lambda score: _show_share(score.chance), "chance"),
        ]
    return [*columns, *map(_number_column, NUMBERS, NUMBERS.values())]


def scores_on(sweep: Sweep, suite_cell: str) -> list[RowScore]:
    """Of the finished cells that have one."""
    return [cell.scores[suite_cell] for cell in sweep.finished if suite_cell in cell.scores]


def equal_chances(sweep: Sweep) -> dict[str, float]:
    """Cell of the suite -> chance, where all cells of the sweep have the same."""
    equal = {}
    for name in sweep.suite:
        chance, *others = {score.chance for score in scores_on(sweep, name)}
        if not others and chance is not None:
            equal[name] = chance
    return equal


def _axis_column(axis: str, values: list[str]) -> Column:
    numbers = numeric_values(values)

    def value(cell: Cell) -> str | float | None:
        text = cell.axes.get(axis, "")
        return numbers.get(text) if numbers else text

    return Column("", axis, lambda cell: Shown(cell.axes.get(axis, "")), value)


def _score_column(name: str, head: str, show: Callable[[RowScore], Shown], key: str) -> Column:
    def value(cell: Cell) -> float | None:
        score = cell.scores.get(name)
        if key == "gain":
            return score.gain.difference if score and score.gain else None
        return getattr(score, key, None)

    def show_cell(cell: Cell) -> Shown:
        return show(cell.scores[name]) if name in cell.scores else Shown("")

    return Column(name, head, show_cell, value)


def _show_test(score: RowScore) -> Shown:
    """A score that a leak makes invalid is red and says so."""
    interval = format_interval(score.interval) if score.interval else ""
    if score.leak:
        return Shown(f"{100 * score.test:.1f} {NOT_VALID}", interval, "worse")
    return Shown(f"{100 * score.test:.1f}", interval)


def _show_share(share: float | None) -> Shown:
    return Shown("" if share is None else f"{100 * share:.1f}")


def _show_gain(score: RowScore) -> Shown:
    """The difference stands there even if it is not shown: a long table is for comparing."""
    gain = score.gain
    if gain is None:
        return Shown("")
    points = f"{100 * gain.difference:+.1f}"
    if not gain.shown:
        return Shown(points, format_test(gain), note=f"; not shown: {format_least(gain)}")
    kind = "better" if gain.difference > 0 else "worse"
    return Shown(points, format_test(gain), "" if score.leak else kind)


def _number_column(key: str, form: str) -> Column:
    head = {"cpu_s": "CPU-seconds"}.get(key, key)

    def show(cell: Cell) -> Shown:
        value = cell.number(key)
        return Shown("" if value is None else f"{value:{form}}")

    return Column("", head, show, lambda cell: cell.number(key))


def comma(sweep: Sweep) -> str:
    """One line for each finished cell, in full precision."""
    head, suite = list(sweep.axes), sweep.suite
    for name in suite:
        head += [f"{name} {key}" for key in SCORE_KEYS]
    with io.StringIO(newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow([*head, *COST_KEYS, "cell"])
        for cell in sweep.finished:
            line: list[Any] = [cell.axes.get(axis, "") for axis in sweep.axes]
            for name in suite:
                line += _flat(cell.scores.get(name))
            line += map((cell.row or {}).get, COST_KEYS)
            write.writerow([*line, cell.hash])
        return file.getvalue()


def _flat(score: RowScore | None) -> list[Any]:
    """In the order of SCORE_KEYS."""
    if score is None:
        return [None] * len(SCORE_KEYS)
    low, high = score.interval or (None, None)
    numbers = [score.test, low, high, score.val, score.chance, score.random, score.leak]
    return [score.metric, *numbers]


def markdown(sweep: Sweep, sentences: Sequence[str]) -> str:
    """`sentences`: above the table."""
    columns = list_columns(sweep)
    head = []
    for column in columns:
        named = len(sweep.suite) > 1 and column.suite_cell
        head.append(f"{column.suite_cell} {column.name}" if named else column.name)
    body = [[*map(plain, head), "cell"]]
    for cell in sweep.finished:
        texts = [plain(column.text(cell)) for column in columns]
        body.append([*texts, cell.hash])
    above = map("{}\n".format, sentences)
    return "\n".join([f"# {sweep.name}", "", *above, *markdown_table(body), ""])


def plain(text: str) -> str:
    """As a place of a table can hold it."""
    return text.replace("|", "\\|").replace("\n", " ")
