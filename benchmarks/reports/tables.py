"""Results -> tables: Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from ssvid.results import Result, Score
from ssvid.results.text import (
    describe_mean,
    format_control_score,
    format_gain_over_untrained,
    format_interval,
    format_percent,
    format_score,
)

HEAD = (
    "task",
    "encoder",
    "score",
    "95 % interval",
    "chance",
    "untrained",
    "more than untrained",
    "pixels",
    "test clips",
)
CSV_HEAD = (
    "cell",
    "encoder",
    "row",
    "metric",
    "score",
    "low",
    "high",
    "chance",
    "protocol",
    "data",
    "git",
    "mean_over",
    "std",
)
ACROSS = 5  # cells beside each other in LaTeX; more stand one below the other
TEX_ROWS = {"encoder": "", "random": "\\quad untrained", "pixels": "\\quad raw pixels"}
TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
} | {c: f"\\{c}" for c in "&%$#_{}"}


def table_row(result: Result) -> tuple[str, ...]:
    """A row of HEAD."""
    return (
        result.cell,
        result.encoder.title,
        format_score(result),
        format_interval(result.score.interval),
        format_percent(result.chance) if result.chance is not None else "",
        format_control_score(result, "random"),
        format_gain_over_untrained(result),
        format_control_score(result, "pixels"),
        str(result.data.clips["test"]),
    )


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines, padded so that a terminal shows them straight. The first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = map(str.ljust, row, widths)
        lines.append(f"| {' | '.join(padded)} |")
    rule = "|" + "|".join(["-" * (width + 2) for width in widths]) + "|"
    return [lines[0], rule, *lines[1:]]


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is. An underscore inside a word is plain already."""
    return re.sub(r"[\\|<&*`\[]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(text.split()))


def markdown(results: list[Result], notes: list[str]) -> str:
    rows: list[Sequence[str]] = [HEAD]
    rows += [list(map(markdown_text, table_row(result))) for result in results]
    lines = "\n".join(map("- {}".format, map(markdown_text, notes)))
    return "# Frozen features\n\n" + "\n".join(markdown_table(rows)) + f"\n\n{lines}\n"


def comma(results: list[Result]) -> str:
    """Numbers unrounded, one line for each row of each cell, controls included."""
    with io.StringIO(newline="") as file:
        lines = csv.writer(file)
        lines.writerow(CSV_HEAD)
        for result in results:
            shared = (result.chance, result.protocol_hash, result.data.hash[:16], result.git)
            for name, score in result.rows.items():
                number = (score.value, *score.interval)
                first = (result.cell, result.encoder.title, name, result.metric)
                lines.writerow((*first, *number, *shared, describe_mean(result), score.spread))
        return file.getvalue()


def latex(results: list[Result]) -> str:
    """A booktabs table: encoders down, cells across; the other way round where cells are many.

    Below each score stand those of its controls, small beside it the interval.
    """
    cells: dict[str, None] = {}
    titles: dict[str, None] = {}
    chance: dict[str, str] = {}
    for result in results:
        cells[tex_text(result.cell)] = None
        titles[tex_text(result.encoder.title)] = None
        if result.chance is not None:
            chance[tex_text(result.cell)] = f"{100 * result.chance:.1f}"
    turned = len(cells) > ACROSS
    down, across = (list(cells), list(titles)) if turned else (list(titles), list(cells))
    table = _tex_table(results, down, turned)
    with_chance = bool(chance)
    head = ["", *across]
    if turned and with_chance:
        head.append("chance")
    body = []
    for (name, row), values in table.items():
        if not values:
            continue
        line = [TEX_ROWS[row] or name, *fill(values, across)]
        if turned and with_chance:
            line.append(chance.get(name, "") if row == "encoder" else "")
        body.append(line)
    if with_chance and not turned:
        body.append(["chance", *fill(chance, across)])
    inner = "\n".join(map("{} \\\\".format, map(" & ".join, body)))
    columns = "l" + "c" * (len(head) - 1)
    top = f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{' & '.join(head)} \\\\\n\\midrule\n"
    return f"{top}{inner}\n\\bottomrule\n\\end{{tabular}}\n"


def fill(values: dict[str, str], columns: Sequence[str]) -> list[str]:
    """A line of the table; -- where there is no value."""
    return [values.get(column, "--") for column in columns]


def _tex_table(
    results: list[Result], down: list[str], turned: bool
) -> dict[tuple[str, str], dict[str, str]]:
    """(name at the left, row of a result) -> column -> number."""
    table: dict[Any, dict[str, str]] = {}
    for name in down:
        for row in TEX_ROWS:
            table[name, row] = {}
    for result in results:
        cell, title = tex_text(result.cell), tex_text(result.encoder.title)
        name, column = (cell, title) if turned else (title, cell)
        for row in TEX_ROWS.keys() & result.rows.keys():
            table[name, row][column] = tex_number(result.rows[row])
    return table


def tex_number(score: Score) -> str:
    low, high = 100 * score.interval[0], 100 * score.interval[1]
    spread = f" $\\pm$ {100 * score.spread:.1f}" if score.spread is not None else ""
    return f"{100 * score.value:.1f}{spread} {{\\tiny [{low:.1f}, {high:.1f}]}}"


def tex_text(text: str) -> str:
    return "".join(TEX.get(c, c) for c in text)
