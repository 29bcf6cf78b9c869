"""Result files -> one report of them: tables, and with board_page.py an HTML page.

`python -m benchmarks.report DIR [DIR ...]` makes it from the files alone.
"""

import difflib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.reports import run_page, tables
from benchmarks.reports.averages import average_results
from benchmarks.reports.board_page import render_board
from benchmarks.reports.cell_titles import rank_cells, without_fold
from benchmarks.reports.page_heads import count, date_of, title_of
from benchmarks.reports.verdict import WARNING
from ssvid.errors import UserError
from ssvid.files import write_text_whole
from ssvid.results import TUNED, Result, read_folder
from ssvid.results.run_files import read_mapping
from ssvid.results.schema import KINDS


def is_board(folder: Path) -> bool:
    """The folder holds a result. Damaged files are passed over here; `write_board` names them."""
    return any(read_mapping(file).get("kind") in KINDS for file in folder.glob("*.json"))


def write_board(*folders: Path, out: Path | None = None, baseline: str = "random") -> Path:
    """Write one report of all folders into `out` or the first of them, and return its page.

    `baseline`: what the gains by class are over. A UserError: no result, or results that differ.
    """
    files = read_results(*folders)
    if not files:
        raise UserError(
            f"{' and '.join(map(str, folders))} holds no result of benchmarks.run or fine-tuning."
        )
    results = list(files.values())
    check_baseline(baseline, results)
    folder = out or folders[0]
    folder.mkdir(parents=True, exist_ok=True)
    pages = write_run_pages(files, folder)
    results = order_by_suite([*results, *average_results(results)])
    notes = list_notes(results)
    texts = {
        "board.md": tables.markdown(results, notes),
        "board.csv": tables.comma(results),
        "board.tex": tables.latex(results),
        "report.html": render_board(results, notes, baseline, pages, date_of(files)),
    }
    for name, text in texts.items():
        write_text_whole(folder / name, text)
    return folder / "report.html"


def write_run_pages(files: dict[Path, Result], folder: Path) -> dict[str, str]:
    """Title of an encoder -> the page of the run that it came from, beside the report."""
    pages: dict[str, str] = {}
    for file, result in files.items():
        name = run_page.name_page(result)
        if name in pages.values():
            continue
        run = run_page.run_of_result(result, file.parent)
        if run is not None:
            run_page.write_run_page(run, folder / name)
            pages[result.encoder.title] = name
    return pages


def read_results(*folders: Path) -> dict[Path, Result]:
    """File -> result, by cell, then by encoder. What two folders hold alike is taken once."""
    unique: dict[tuple[str, str], tuple[Path, Result]] = {}
    for folder in folders:
        for file, result in read_folder(folder).items():
            key = result.cell, result.encoder.title
            first, earlier = unique.setdefault(key, (file, result))
            if identity(earlier) != identity(result):
                raise UserError(
                    f"{first} and {file} both hold {key[1]} on {key[0]} but differ: "
                    "leave one folder out, or rename the folder of one encoder and run it anew."
                )
    return dict(sorted(unique.values(), key=lambda item: alphabetical(item[1])))


def alphabetical(result: Result) -> tuple[str, bool, str]:
    """By cell, then by encoder; means come last."""
    return result.cell, result.over is not None, result.encoder.title


def order_by_suite(results: list[Result]) -> list[Result]:
    """Cells as their suite lists them; those that no known suite lists come last, by name."""
    ranks = rank_cells(results)

    def key(result: Result) -> tuple[int, tuple[str, bool, str]]:
        return ranks.get(without_fold(result.cell), len(ranks)), alphabetical(result)

    return sorted(results, key=key)


def identity(result: Result) -> tuple[Any, ...]:
    """What makes a result this one and no other; not its cost, nor the path to its encoder."""
    hashes = result.encoder.hash, result.data.hash, result.protocol_hash
    main = result.score.value, result.score.interval, result.score.per_class
    return *hashes, result.metric, *main, result.controls, result.test


def check_baseline(baseline: str, results: list[Result]) -> None:
    names = ["chance"]
    for result in results:
        names = [*result.controls, *names, result.encoder.title]
    names = list(dict.fromkeys(names))
    if baseline not in names and baseline != "random":
        near = difflib.get_close_matches(baseline, names) or names
        raise UserError(
            f"--baseline {baseline}: no row or encoder of these results; near: {', '.join(near)}."
        )


def summarise_folder(folder: Path) -> list[dict[str, Any]]:
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
        for result in read_results(folder).values()
    ]


def list_notes(results: list[Result]) -> list[str]:
    """Sentences under the head of the report. Warnings begin with WARNING and come first."""
    warnings, notes = (
        warn_of_unlike_results(results),
        [
            "Intervals are 95 % bootstraps over groups of test clips. "
            "Settings are chosen on val; test is read once."
        ],
    )
    if any(result.kind == TUNED for result in results):
        notes.append(
            "Fine-tuning trains the encoder on the labels, and no controls stand beside it."
        )
    gains = [result for result in results if result.over is None and "random" in result.gains]
    if len(gains) > 1:
        notes.append(
            f"The untrained net of a row is one random draw. Of {count(len(gains), 'interval')} "
            "at 95 %, about one in twenty leaves out zero by chance."
        )
    leaks = []
    for result in results:
        title = result.encoder.title
        if result.leak.clips:
            leaks.append(
                f"{WARNING}: {title} was trained on {result.leak.clips} of the test clips: "
                "its scores are not valid."
            )
        if result.encoder.weights != "trained":
            notes.append(f"{title} has random weights.")
        if result.encoder.licence:
            notes.append(f"The weights of {title} are under {result.encoder.licence}.")
    return list(dict.fromkeys([*leaks, *warnings, *notes]))


def warn_of_unlike_results(results: list[Result]) -> list[str]:
    """What makes rows that stand together no fair comparison."""

    def cell_of(result: Result) -> str:
        return result.cell

    def settings_of(result: Result) -> str:
        return json.dumps(result.question, sort_keys=True)

    sentences = {
        "data": "WARNING: the results of {} are of different data: do not compare them.",
        "settings": "WARNING: the results of {} are of different tasks or probes: "
        "do not compare them.",
        "names": "WARNING: several encoders (of different hashes) are called {}.",
    }
    data = with_several(results, cell_of, lambda result: result.data.hash)
    settings = with_several(results, cell_of, settings_of)
    names = with_several(results, title_of, lambda result: result.encoder.hash)
    return [
        *map(sentences["data"].format, data),
        *map(sentences["settings"].format, settings),
        *map(sentences["names"].format, names),
    ]


def with_several(
    results: list[Result], key: Callable[[Result], str], value: Callable[[Result], str]
) -> list[str]:
    """The keys whose results do not all have the same value."""
    values: dict[str, set[str]] = {}
    for result in results:
        values.setdefault(key(result), set()).add(value(result))
    return [name for name, members in values.items() if len(members) > 1]
