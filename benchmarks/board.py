"""result files of `benchmarks.run` -> tables: Markdown, CSV, LaTeX and one HTML page that loads nothing from elsewhere.

`python -m benchmarks.board DIR` makes them anew from the files alone.
"""

import csv
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks import results
from benchmarks.page import BLUE, GREY, INK, html_table, page, picture
from benchmarks.results import ROWS, between, percent
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


def board(folder: str) -> dict[str, Any]:
    """Make the tables and the page of a folder of results anew."""
    return {"report": str(write(Path(folder)))}


def read_all(folder: Path) -> list[Result]:
    """By cell, then by encoder."""
    found = [result for file in sorted(folder.glob("*.json")) if (result := results.read(file, (BENCH,)))]
    return sorted(found, key=lambda result: (result["cell"], result["encoder"]["title"]))


def write(folder: Path) -> Path:
    found = read_all(folder)
    if not found:
        raise UserError(f"{folder} holds no result of benchmarks.run.")
    made = {"board.md": markdown, "board.csv": comma, "board.tex": latex, "report.html": html_page}
    for name, make in made.items():
        results.write_text(folder / name, make(found))
    return folder / "report.html"


def brief(folder: Path) -> list[Result]:
    """What the command prints."""
    return [
        {
            "cell": result["cell"],
            "encoder": result["encoder"]["title"],
            result["metric"]: result[result["metric"]],
            "interval": result["interval"],
            "chance": result["chance"],
            "gain_over_random": result["gains"]["random"],
        }
        for result in read_all(folder)
    ]


def cells(result: Result) -> tuple[str, ...]:
    """A row of HEAD."""
    gain, controls, metric = result["gains"]["random"], result["controls"], result["metric"]
    more = f"{100 * gain['difference']:+.1f} ({between(gain['interval'], '+')})"
    return (
        result["cell"],
        result["encoder"]["title"],
        percent(result[metric]),
        between(result["interval"]),
        percent(result["chance"]),
        percent(controls["random"][metric]),
        more if gain["shown"] else f"no difference shown ({between(gain['interval'], '+')})",
        percent(controls["pixels"][metric]) if "pixels" in controls else "",
        str(result["data"]["clips"]["test"]),
    )


def line(result: Result) -> str:
    task, encoder, score, interval, chance, untrained, more, *_ = cells(result)
    return f"{encoder}, {task}: {score} ({interval}); untrained {untrained}, chance {chance}; {more}"


def markdown(found: list[Result]) -> str:
    body = [HEAD, *map(cells, found)]
    widths = [max(len(row[i]) for row in body) for i in range(len(HEAD))]
    rows = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in body]
    rows.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "# Frozen features\n\n" + "\n".join(rows) + "\n\n" + "\n".join(f"- {text}" for text in notes(found)) + "\n"


def notes(found: list[Result]) -> list[str]:
    said = ["Intervals are 95 % bootstraps over groups of test clips. Settings are chosen on val; test is read once."]
    for result in found:
        leak = result["leak"]
        if leak["checked"] and leak["clips"]:
            said.append(f"WARNING: {result['encoder']['title']} was trained on {leak['clips']} of the test clips.")
        if result["encoder"]["weights"] != "trained":
            said.append(f"{result['encoder']['title']} has random weights.")
        if result["encoder"].get("licence"):
            said.append(f"The weights of {result['encoder']['title']} are under {result['encoder']['licence']}.")
    return list(dict.fromkeys(said))


def comma(found: list[Result]) -> str:
    """Numbers unrounded, one line for each row of each cell, controls included."""
    with io.StringIO(newline="") as file:
        lines = csv.writer(file)
        lines.writerow(
            ("cell", "encoder", "row", "metric", "score", "low", "high", "chance", "protocol", "data", "git")
        )
        for result in found:
            metric = result["metric"]
            shared = (result["chance"], result["protocol_hash"], result["data"]["hash"][:16], result["git"])
            for name, row in {"encoder": result, **result["controls"]}.items():
                number = (row[metric], *row["interval"])
                lines.writerow((result["cell"], result["encoder"]["title"], name, metric, *number, *shared))
        return file.getvalue()


def latex(found: list[Result]) -> str:
    """A booktabs table: encoders down, cells across, intervals small beside the scores."""
    names = list(dict.fromkeys(result["cell"] for result in found))
    rows: dict[str, dict[str, str]] = {
        title: {} for title in dict.fromkeys(result["encoder"]["title"] for result in found)
    }
    for result in found:
        low, high = (100 * end for end in result["interval"])
        score = f"{100 * result[result['metric']]:.1f}"
        rows[result["encoder"]["title"]][result["cell"]] = f"{score} {{\\tiny [{low:.1f}, {high:.1f}]}}"
    body = [" & ".join([plain(title), *(row.get(name, "--") for name in names)]) for title, row in rows.items()]
    head = " & ".join(["", *map(plain, names)])
    inner = "\n".join(f"{text} \\\\" for text in body)
    top = f"\\begin{{tabular}}{{l{'c' * len(names)}}}\n\\toprule\n{head} \\\\\n\\midrule\n"
    return f"{top}{inner}\n\\bottomrule\n\\end{{tabular}}\n"


def plain(text: str) -> str:
    return "".join(f"\\{c}" if c in "&%$#_{}" else c for c in text)


def html_page(found: list[Result]) -> str:
    said = "".join(f"<li>{html.escape(text)}</li>" for text in notes(found))
    parts = [f"<h1>Frozen features</h1><ul>{said}</ul>", html_table(HEAD, [cells(result) for result in found])]
    for name in dict.fromkeys(result["cell"] for result in found):
        own = [result for result in found if result["cell"] == name]
        parts += [f"<h2>{html.escape(name)}</h2>", picture(bars(own), f"Scores of {name}"), *map(detail, own)]
    return page("Frozen features", "\n".join(parts))


def bars(found: list[Result]) -> Figure:
    """A bar for each encoder and each of its controls, with intervals, and the line of chance."""
    metric, rows = found[0]["metric"], []
    for result in found:
        rows.append((result["encoder"]["title"], result, BLUE))
        rows += [(ROWS.get(name, name), row, GREY) for name, row in result["controls"].items()]
    figure = Figure(figsize=(7, 0.34 * len(rows) + 0.9))
    axes = figure.subplots()
    place = np.arange(len(rows))[::-1]
    top = np.array([100 * row[metric] for _, row, _ in rows])
    low, high = (100 * np.array([row["interval"] for _, row, _ in rows])).T
    axes.barh(place, top, color=[colour for *_, colour in rows], height=0.6)
    axes.errorbar(top, place, xerr=np.stack([top - low, high - top]).clip(min=0), fmt="none", ecolor=INK, capsize=3)
    for y, value, end in zip(place, top, high, strict=True):
        axes.text(end + 1.5, y, f"{value:.1f}", va="center", color=INK, fontsize=9)
    chance = 100 * found[0]["chance"]
    axes.axvline(chance, color=INK, linestyle="--", linewidth=1)
    axes.text(chance, len(rows) - 0.45, f"chance {chance:.1f}", ha="center", va="bottom", fontsize=8, color=INK)
    axes.set_yticks(place, [name for name, *_ in rows])
    axes.set_xlim(0, 108)
    axes.set_xlabel(f"{metric} on test, %")
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def detail(result: Result) -> str:
    """Everything else of a cell, folded away: what it chose, its protocol, cost and command."""
    more = {
        key: result[key] for key in result if key not in ("grid", "test", "protocol", "config", "controls", "gains")
    }
    text = html.escape(json.dumps({**more, "protocol": result["protocol"]}, indent=1))
    command = f"<pre>{html.escape(result['command'])}</pre>" if result.get("command") else ""
    title = html.escape(result["encoder"]["title"])
    return f"<details><summary>{title}: protocol, cost, command</summary>{command}<pre>{text}</pre></details>"


if __name__ == "__main__":
    from ssvid.cli import command

    command(board, "folder")
