"""Results -> tables: Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from ssvid.results import TUNED, Gain, Result, Score
from ssvid.results.text import (
    NOT_VALID,
    describe_mean,
    find_mean_class,
    find_spread,
    format_floor,
    format_gain_over_untrained,
    format_percent,
    format_rank,
    format_score,
    format_score_interval,
    format_untrained,
    is_beyond_all,
    is_old,
    name_floor,
)

HEAD = (
    "task",
    "encoder",
    "score",
    "95 % interval",
    "chance",
    "largest class",
    "mean of classes",
    "untrained",
    "rank",
    "more than untrained",
    "least gain to be shown",
    "pixel floor",
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
    "wide",
    "mean_class",
    "nets",
    "std_over_nets",
    "gain",
    "gain_low",
    "gain_high",
    "gain_level",
    "gain_p",
    "gain_shown",
    "gain_least",
    "chance",
    "majority",
    "rank",
    "floor",
    "ledger",
    "protocol",
    "data",
    "git",
    "inference",
    "mean_over",
    "std",
    "leak",
)
OLD = "(old inference)"
ACROSS = 5  # cells beside each other in LaTeX; more stand one below the other
TEX_ROWS = {"encoder": "", "random": "\\quad untrained", "floor": "\\quad pixel floor"}
TEX_NOT_VALID = f" \\textbf{{{NOT_VALID}}}"
TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
} | {c: f"\\{c}" for c in "&%$#_{}"}


def format_least_points(gain: Gain | None) -> str:
    if gain is None or gain.least is None:
        return ""
    return "none" if is_beyond_all(gain) else f"{100 * gain.least:.1f}"


def table_row(result: Result) -> tuple[str, ...]:
    """A row of HEAD."""
    gain = result.gains.get("random")
    score = format_score(result)
    if result.leak.clips:
        score = f"{score} {NOT_VALID}"
    return (
        result.cell,
        result.encoder.title,
        f"{score} {OLD}" if is_old(result) else score,
        format_score_interval(result.score),
        format_share(result.chance),
        format_share(result.majority),
        format_share(find_mean_class(result)),
        format_untrained(result),
        format_rank(result),
        format_gain_over_untrained(result),
        format_least_points(gain),
        format_floor(result),
        str(result.data.clips["test"]),
    )


def format_share(share: float | None) -> str:
    return format_percent(share) if share is not None else ""


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
    return re.sub(r"[\\|<&*`\[]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", join_lines(text))


def markdown(results: list[Result], notes: list[str]) -> str:
    rows: list[Sequence[str]] = [HEAD]
    rows += [list(map(markdown_text, table_row(result))) for result in results]
    lines = "\n".join(map("- {}".format, map(markdown_text, notes)))
    topic = "Fine-tuning" if all(r.kind == TUNED for r in results) else "Frozen features"
    return f"# {topic}\n\n" + "\n".join(markdown_table(rows)) + f"\n\n{lines}\n"


def comma(results: list[Result]) -> str:
    """Numbers unrounded, one line for each row of each cell, controls included.

    A gain that is over no row (`time`, of the encoder and three rows) has a line without a score.
    """
    with io.StringIO(newline="") as file:
        lines = csv.DictWriter(file, CSV_HEAD)
        lines.writeheader()
        for result in results:
            for name in dict.fromkeys([*result.rows, *result.gains]):
                lines.writerow({"row": name, **list_facts(result), **list_numbers(result, name)})
        return file.getvalue()


def list_facts(result: Result) -> dict[str, Any]:
    """What all rows of a result share."""
    return {
        "cell": result.cell,
        "encoder": result.encoder.title,
        "metric": result.metric,
        "chance": result.chance,
        "majority": result.majority,
        "rank": result.rank,
        "floor": name_floor(result),
        "ledger": result.ledger,
        "protocol": result.protocol_hash,
        "data": result.data.hash[:16],
        "git": result.git,
        "inference": result.inference,
        "mean_over": describe_mean(result),
        "leak": result.leak.clips,
    }


def list_numbers(result: Result, row: str) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    if row in result.rows:
        score = result.rows[row]
        numbers = {
            "score": score.value,
            "low": score.interval[0],
            "high": score.interval[1],
            "wide": score.wide,
            "mean_class": score.details.get("mean_class"),
            "nets": len(score.of_nets) if score.of_nets else None,
            "std_over_nets": find_spread(score) if score.of_nets else None,
            "std": score.spread,
        }
    return numbers | (list_gain(result.gains[row]) if row in result.gains else {})


def list_gain(gain: Gain) -> dict[str, Any]:
    return {
        "gain": gain.difference,
        "gain_low": gain.interval[0],
        "gain_high": gain.interval[1],
        "gain_level": gain.level,
        "gain_p": gain.p,
        "gain_shown": gain.shown,
        "gain_least": gain.least,
    }


def latex(results: list[Result], notes: Sequence[str] = ()) -> str:
    """A booktabs table: encoders down, cells across; the other way round where cells are many.

    Below each score stand those of its controls, small beside it the interval. The notes are
    comments above the table.
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
    comments = "".join(map("% {}\n".format, map(join_lines, notes)))
    return f"{comments}{top}{inner}\n\\bottomrule\n\\end{{tabular}}\n"


def join_lines(text: str) -> str:
    return " ".join(text.split())


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
        if result.leak.clips:
            table[name, "encoder"][column] += TEX_NOT_VALID
    return table


def tex_number(score: Score) -> str:
    low, high = 100 * score.interval[0], 100 * score.interval[1]
    std = find_spread(score)
    spread = f" $\\pm$ {100 * std:.1f}" if std is not None else ""
    return f"{100 * score.value:.1f}{spread} {{\\tiny [{low:.1f}, {high:.1f}]}}"


def tex_text(text: str) -> str:
    return "".join(TEX.get(c, c) for c in text)
