"""result files of `benchmarks.run` -> tables: Markdown, CSV, LaTeX; and with board_page.py one HTML page.

`python -m benchmarks.report DIR [DIR ...]` makes them anew from the files alone.
"""

import csv
import difflib
import io
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.reports import results
from benchmarks.reports.averages import averages
from benchmarks.reports.board_page import html_page
from benchmarks.reports.results import between, gained, mean_of, percent, scored, std
from ssvid.errors import UserError
from ssvid.results import BENCH, Result

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


def is_board(folder: Path) -> bool:
    return any(results.read(file, (BENCH,)) for file in folder.glob("*.json"))


def write(*folders: Path, out: Path | None = None, baseline: str = "random") -> Path:
    """One report of all folders, in `out` or the first of them. `baseline`: of the gains per class."""
    found = read_all(*folders)
    if not found:
        raise UserError(f"{' and '.join(map(str, folders))} holds no result of benchmarks.run.")
    known(baseline, found)
    found = sorted([*found, *averages(found)], key=order)
    place = out or folders[0]
    place.mkdir(parents=True, exist_ok=True)
    made = {
        "board.md": markdown(found),
        "board.csv": comma(found),
        "board.tex": latex(found),
        "report.html": html_page(found, notes(found), baseline),
    }
    for name, text in made.items():
        results.write_text(place / name, text)
    return place / "report.html"


def read_all(*folders: Path) -> list[Result]:
    """By cell, then by encoder. A result that two folders hold alike is taken once."""
    kept: dict[tuple[str, str], tuple[Path, Result]] = {}
    for file in (file for folder in folders for file in sorted(folder.glob("*.json"))):
        if result := results.read(file, (BENCH,)):
            key = place_of(result)
            first, other = kept.setdefault(key, (file, result))
            if numbers(other) != numbers(result):
                raise UserError(
                    f"{first} and {file} both hold {key[1]} on {key[0]} but differ: "
                    "leave one folder out, or rename the folder of one encoder and run it anew."
                )
    return sorted((result for _, result in kept.values()), key=order)


def place_of(result: Result) -> tuple[str, str]:
    return result["cell"], result["encoder"]["title"]


def order(result: Result) -> tuple[str, bool, str]:
    """By cell, then by encoder; means come last."""
    return result["cell"], "over" in result, result["encoder"]["title"]


def numbers(result: Result) -> str:
    """What makes a result this one and no other: neither what it cost, nor the path to its encoder."""
    keys = ("metric", result["metric"], "interval", "controls", "test", "per_class", "protocol_hash")
    same = [result["encoder"]["hash"], result["data"]["hash"], *(result.get(key) for key in keys)]
    return json.dumps(same, sort_keys=True)


def known(baseline: str, found: list[Result]) -> None:
    rows = dict.fromkeys(name for result in found for name in result["controls"])
    names = list(dict.fromkeys([*rows, "chance", *(result["encoder"]["title"] for result in found)]))
    if baseline not in names:
        near = difflib.get_close_matches(baseline, names) or names
        raise UserError(f"--baseline {baseline}: no row or encoder of these results; near: {', '.join(near)}.")


def brief(folder: Path) -> list[Result]:
    """What the command prints."""
    return [
        {
            "cell": result["cell"],
            "encoder": result["encoder"]["title"],
            result["metric"]: result[result["metric"]],
            "interval": result["interval"],
            "chance": result.get("chance"),
            "gain_over_random": result["gains"].get("random"),
        }
        for result in read_all(folder)
    ]


def cells(result: Result) -> tuple[str, ...]:
    """A row of HEAD."""
    gain, controls, metric = result["gains"].get("random"), result["controls"], result["metric"]
    return (
        result["cell"],
        result["encoder"]["title"],
        scored(result),
        between(result["interval"]),
        percent(result["chance"]) if result.get("chance") is not None else "",
        percent(controls["random"][metric]) if "random" in controls else "",
        gained(gain) if gain else "",
        percent(controls["pixels"][metric]) if "pixels" in controls else "",
        str(result["data"]["clips"]["test"]),
    )


def line(result: Result) -> str:
    task, encoder, score, interval, chance, untrained, more, *_ = cells(result)
    beside = [f"{name} {value}" for name, value in (("untrained", untrained), ("chance", chance)) if value]
    return f"{encoder}, {task}: {score} ({interval})" + "; ".join(["", ", ".join(beside), more]).rstrip("; ")


def markdown(found: list[Result]) -> str:
    body = [HEAD, *(tuple(map(marked, cells(result))) for result in found)]
    widths = [max(len(row[i]) for row in body) for i in range(len(HEAD))]
    rows = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in body]
    rows.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    said = "\n".join(f"- {marked(text)}" for text in notes(found))
    return "# Frozen features\n\n" + "\n".join(rows) + f"\n\n{said}\n"


def marked(text: str) -> str:
    """Text that Markdown shows as it is. An underscore inside a word is plain already."""
    return re.sub(r"[\\|<&*`\[]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(text.split()))


def notes(found: list[Result]) -> list[str]:
    said = ["Intervals are 95 % bootstraps over groups of test clips. Settings are chosen on val; test is read once."]
    said += mixed(found)
    for result in found:
        leak = result["leak"]
        if leak["checked"] and leak["clips"]:
            said.append(f"WARNING: {result['encoder']['title']} was trained on {leak['clips']} of the test clips.")
        if result["encoder"]["weights"] != "trained":
            said.append(f"{result['encoder']['title']} has random weights.")
        if result["encoder"].get("licence"):
            said.append(f"The weights of {result['encoder']['title']} are under {result['encoder']['licence']}.")
    return list(dict.fromkeys(said))


def mixed(found: list[Result]) -> list[str]:
    """What makes rows that stand together no fair comparison."""

    def several(name: Callable[[Result], str], what: Callable[[Result], str]) -> Iterable[str]:
        values: dict[str, set[str]] = {}
        for result in found:
            values.setdefault(name(result), set()).add(what(result))
        return (key for key, seen in values.items() if len(seen) > 1)

    def cell(result: Result) -> str:
        return str(result["cell"])

    def asked(result: Result) -> str:
        return json.dumps(result["protocol"]["cell"], sort_keys=True)

    data = several(cell, lambda result: result["data"]["hash"])
    settings = several(cell, asked)
    nets = several(lambda result: result["encoder"]["title"], lambda result: result["encoder"]["hash"])
    return [
        *(f"WARNING: the results of {name} are of different data: do not compare them." for name in data),
        *(
            f"WARNING: the results of {name} are of different tasks or probes: do not compare them."
            for name in settings
        ),
        *(f"WARNING: several encoders (of different hashes) are called {name}." for name in nets),
    ]


def comma(found: list[Result]) -> str:
    """Numbers unrounded, one line for each row of each cell, controls included."""
    with io.StringIO(newline="") as file:
        lines = csv.writer(file)
        head = ("cell", "encoder", "row", "metric", "score", "low", "high", "chance", "protocol", "data", "git")
        lines.writerow((*head, "mean_over", "std"))
        for result in found:
            metric = result["metric"]
            shared = (result.get("chance"), result["protocol_hash"], result["data"]["hash"][:16], result["git"])
            for name, row in {"encoder": result, **result["controls"]}.items():
                spread = (mean_of(result), std(row))
                number = (row[metric], *row["interval"])
                lines.writerow((result["cell"], result["encoder"]["title"], name, metric, *number, *shared, *spread))
        return file.getvalue()


def latex(found: list[Result]) -> str:
    """A booktabs table: encoders down, cells across; where these are too many for a page, the other way round.

    Below each score those of its controls, small beside it the interval.
    """
    names = list(dict.fromkeys(plain(result["cell"]) for result in found))
    titles = list(dict.fromkeys(plain(result["encoder"]["title"]) for result in found))
    chance = {plain(r["cell"]): f"{100 * r['chance']:.1f}" for r in found if r.get("chance") is not None}
    turned = len(names) > ACROSS
    down, across = (names, titles) if turned else (titles, names)
    table: dict[tuple[str, str], dict[str, str]] = {(name, row): {} for name in down for row in TEX_ROWS}
    for result in found:
        pair = plain(result["cell"]), plain(result["encoder"]["title"])
        name, column = pair if turned else pair[::-1]
        for row, scores in {"encoder": result, **result["controls"]}.items():
            if row in TEX_ROWS:
                table[name, row][column] = number(scores, result["metric"])
    lines = [(TEX_ROWS[row] or name, values, name) for (name, row), values in table.items() if values]
    body = [[said, *(values.get(column, "--") for column in across)] for said, values, _ in lines]
    head = ["", *across]
    if turned and chance:
        head.append("chance")
        body = [[*row, "" if row[0] != line[2] else chance[line[2]]] for row, line in zip(body, lines, strict=True)]
    elif chance:
        body.append(["chance", *(chance.get(column, "--") for column in across)])
    inner = "\n".join(" & ".join(row) + " \\\\" for row in body)
    top = f"\\begin{{tabular}}{{l{'c' * (len(head) - 1)}}}\n\\toprule\n{' & '.join(head)} \\\\\n\\midrule\n"
    return f"{top}{inner}\n\\bottomrule\n\\end{{tabular}}\n"


def number(row: dict[str, Any], metric: str) -> str:
    low, high = (100 * end for end in row["interval"])
    spread = f" $\\pm$ {100 * share:.1f}" if (share := std(row)) is not None else ""
    return f"{100 * row[metric]:.1f}{spread} {{\\tiny [{low:.1f}, {high:.1f}]}}"


def plain(text: str) -> str:
    return "".join(TEX.get(c, c) for c in text)
