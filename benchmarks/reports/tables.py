"""Results -> tables: Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Sequence

from ssvid.results import Result, Score
from ssvid.results.text import between, control_score, gain_over_untrained, mean_of, percent, scored

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
        scored(result),
        between(result.score.interval),
        percent(result.chance) if result.chance is not None else "",
        control_score(result, "random"),
        gain_over_untrained(result),
        control_score(result, "pixels"),
        str(result.data.clips["test"]),
    )


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines, padded so that a terminal shows them straight. The first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return [lines[0], rule, *lines[1:]]


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is. An underscore inside a word is plain already."""
    return re.sub(r"[\\|<&*`\[]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(text.split()))


def markdown(results: list[Result], notes: list[str]) -> str:
    rows = [HEAD, *(tuple(map(markdown_text, table_row(result))) for result in results)]
    said = "\n".join(f"- {markdown_text(text)}" for text in notes)
    return "# Frozen features\n\n" + "\n".join(markdown_table(rows)) + f"\n\n{said}\n"


def comma(results: list[Result]) -> str:
    """Numbers unrounded, one line for each row of each cell, controls included."""
    with io.StringIO(newline="") as file:
        lines = csv.writer(file)
        head = (
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
        )
        lines.writerow((*head, "mean_over", "std"))
        for result in results:
            shared = (result.chance, result.protocol_hash, result.data.hash[:16], result.git)
            for name, score in result.rows.items():
                number = (score.value, *score.interval)
                first = (result.cell, result.encoder.title, name, result.metric)
                lines.writerow((*first, *number, *shared, mean_of(result), score.spread))
        return file.getvalue()


def latex(results: list[Result]) -> str:
    """A booktabs table: encoders down, cells across; where these are too many for a page, the other way round.

    Below each score those of its controls, small beside it the interval.
    """
    names = list(dict.fromkeys(tex_text(result.cell) for result in results))
    titles = list(dict.fromkeys(tex_text(result.encoder.title) for result in results))
    chance = {tex_text(r.cell): f"{100 * r.chance:.1f}" for r in results if r.chance is not None}
    turned = len(names) > ACROSS
    down, across = (names, titles) if turned else (titles, names)
    table: dict[tuple[str, str], dict[str, str]] = {
        (name, row): {} for name in down for row in TEX_ROWS
    }
    for result in results:
        pair = tex_text(result.cell), tex_text(result.encoder.title)
        name, column = pair if turned else pair[::-1]
        for row in TEX_ROWS.keys() & result.rows.keys():
            table[name, row][column] = tex_number(result.rows[row])
    lines = [
        (TEX_ROWS[row] or name, values, name) for (name, row), values in table.items() if values
    ]
    body = [[said, *(values.get(column, "--") for column in across)] for said, values, _ in lines]
    head = ["", *across]
    if turned and chance:
        head.append("chance")
        body = [
            [*row, "" if row[0] != line[2] else chance[line[2]]]
            for row, line in zip(body, lines, strict=True)
        ]
    elif chance:
        body.append(["chance", *(chance.get(column, "--") for column in across)])
    inner = "\n".join(" & ".join(row) + " \\\\" for row in body)
    top = f"\\begin{{tabular}}{{l{'c' * (len(head) - 1)}}}\n\\toprule\n{' & '.join(head)} \\\\\n\\midrule\n"
    return f"{top}{inner}\n\\bottomrule\n\\end{{tabular}}\n"


def tex_number(score: Score) -> str:
    low, high = (100 * end for end in score.interval)
    spread = f" $\\pm$ {100 * score.spread:.1f}" if score.spread is not None else ""
    return f"{100 * score.value:.1f}{spread} {{\\tiny [{low:.1f}, {high:.1f}]}}"


def tex_text(text: str) -> str:
    return "".join(TEX.get(c, c) for c in text)
