"""Result files -> one report of them: tables, and with board_page.py an HTML page.

`python -m benchmarks.report DIR [DIR ...]` makes it from the files alone.
"""

import difflib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.reports import run_page, tables
from benchmarks.reports.averages import averages
from benchmarks.reports.board_page import html_page
from ssvid.errors import UserError
from ssvid.files import write_text_whole
from ssvid.results import TUNED, Result, read_folder
from ssvid.results.run_files import read_mapping
from ssvid.results.schema import KINDS


def is_board(folder: Path) -> bool:
    """Damaged files are passed over here; `write` names them."""
    return any(read_mapping(file).get("kind") in KINDS for file in folder.glob("*.json"))


def write(*folders: Path, out: Path | None = None, baseline: str = "random") -> Path:
    """One report of all folders, in `out` or the first of them. `baseline`: of the gains per class."""
    files = read_all(*folders)
    if not files:
        raise UserError(
            f"{' and '.join(map(str, folders))} holds no result of benchmarks.run or fine-tuning."
        )
    results = list(files.values())
    check_baseline(baseline, results)
    place = out or folders[0]
    place.mkdir(parents=True, exist_ok=True)
    runs = write_runs(files, place)
    results = sorted([*results, *averages(results)], key=order)
    texts = {
        "board.md": tables.markdown(results, notes(results)),
        "board.csv": tables.comma(results),
        "board.tex": tables.latex(results),
        "report.html": html_page(results, notes(results), baseline, runs),
    }
    for name, text in texts.items():
        write_text_whole(place / name, text)
    return place / "report.html"


def write_runs(files: dict[Path, Result], place: Path) -> dict[str, str]:
    """Title of an encoder -> the page of the run that it came from, beside the report."""
    pages: dict[str, str] = {}
    for file, result in files.items():
        name = run_page.name(result)
        if name not in pages.values() and (run := run_page.of_result(result, file.parent)):
            run_page.write(run, place / name)
            pages[result.encoder.title] = name
    return pages


def read_all(*folders: Path) -> dict[Path, Result]:
    """By cell, then by encoder. A result that two folders hold alike is taken once."""
    kept: dict[tuple[str, str], tuple[Path, Result]] = {}
    for file, result in (item for folder in folders for item in read_folder(folder).items()):
        key = result.cell, result.encoder.title
        first, other = kept.setdefault(key, (file, result))
        if numbers(other) != numbers(result):
            raise UserError(
                f"{first} and {file} both hold {key[1]} on {key[0]} but differ: "
                "leave one folder out, or rename the folder of one encoder and run it anew."
            )
    return dict(sorted(kept.values(), key=lambda item: order(item[1])))


def order(result: Result) -> tuple[str, bool, str]:
    """By cell, then by encoder; means come last."""
    return result.cell, result.over is not None, result.encoder.title


def numbers(result: Result) -> tuple[Any, ...]:
    """What makes a result this one and no other: neither what it cost, nor the path to its encoder."""
    hashes = result.encoder.hash, result.data.hash, result.protocol_hash
    main = result.score.value, result.score.interval, result.score.per_class
    return *hashes, result.metric, *main, result.controls, result.test


def check_baseline(baseline: str, results: list[Result]) -> None:
    rows = dict.fromkeys(name for result in results for name in result.controls)
    names = list(dict.fromkeys([*rows, "chance", *(result.encoder.title for result in results)]))
    if baseline not in names and baseline != "random":
        near = difflib.get_close_matches(baseline, names) or names
        raise UserError(
            f"--baseline {baseline}: no row or encoder of these results; near: {', '.join(near)}."
        )


def brief(folder: Path) -> list[dict[str, Any]]:
    """What the command prints."""
    return [
        {
            "cell": result.cell,
            "encoder": result.encoder.title,
            result.metric: result.score.value,
            "interval": result.score.interval,
            "chance": result.chance,
            "gain_over_random": vars(result.gains["random"]) if "random" in result.gains else None,
        }
        for result in read_all(folder).values()
    ]


def notes(results: list[Result]) -> list[str]:
    said = [
        "Intervals are 95 % bootstraps over groups of test clips. Settings are chosen on val; test is read once."
    ]
    if any(result.kind == TUNED for result in results):
        said.append(
            "Fine-tuning trains the encoder on the labels, and no controls stand beside it."
        )
    said += mixed(results)
    for result in results:
        if result.leak.clips:
            said.append(
                f"WARNING: {result.encoder.title} was trained on {result.leak.clips} of the test clips."
            )
        if result.encoder.weights != "trained":
            said.append(f"{result.encoder.title} has random weights.")
        if result.encoder.licence:
            said.append(
                f"The weights of {result.encoder.title} are under {result.encoder.licence}."
            )
    return list(dict.fromkeys(said))


def mixed(results: list[Result]) -> list[str]:
    """What makes rows that stand together no fair comparison."""

    def several(name: Callable[[Result], str], what: Callable[[Result], str]) -> Iterable[str]:
        values: dict[str, set[str]] = {}
        for result in results:
            values.setdefault(name(result), set()).add(what(result))
        return (key for key, seen in values.items() if len(seen) > 1)

    def cell(result: Result) -> str:
        return result.cell

    data = several(cell, lambda result: result.data.hash)
    settings = several(cell, lambda result: json.dumps(result.question, sort_keys=True))
    nets = several(lambda result: result.encoder.title, lambda result: result.encoder.hash)
    return [
        *(
            f"WARNING: the results of {name} are of different data: do not compare them."
            for name in data
        ),
        *(
            f"WARNING: the results of {name} are of different tasks or probes: do not compare them."
            for name in settings
        ),
        *(f"WARNING: several encoders (of different hashes) are called {name}." for name in nets),
    ]
