"""Result files -> one report of them: tables, and with board_page.py an HTML page.

`python -m benchmarks.report DIR [DIR ...]` makes it from the files alone.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.reports import run_page, tables
from benchmarks.reports.averages import average_results
from benchmarks.reports.board_page import render_board
from benchmarks.reports.cell_titles import rank_cells, without_fold
from benchmarks.reports.notes import list_notes
from benchmarks.reports.page_heads import date_of
from ssvid.errors import UserError
from ssvid.files import write_text_whole
from ssvid.old_names import rename_row
from ssvid.results import Result, read_folder
from ssvid.results.evidence import correct_gains
from ssvid.results.json_form import KINDS
from ssvid.results.run_files import read_mapping
from ssvid.results.text import find_mean_class, is_old
from ssvid.results.unlike import describe_differences, describe_missing_answers


def is_board(folder: Path) -> bool:
    """The folder holds a result. Damaged files are passed over here; `write_board` names them."""
    return any(read_mapping(file).get("kind") in KINDS for file in folder.glob("*.json"))


def write_board(*folders: Path, out: Path | None = None, baseline: str = "random") -> Path:
    """Write one report of all folders into `out` or the first of them, and return its page.

    `baseline`: what the gains by class are over. A UserError: no result, or results that cannot
    be compared.
    """
    files = read_results(*folders)
    if not files:
        raise UserError(
            f"{' and '.join(map(str, folders))} holds no result of ssvid bench, ssvid probe or "
            "ssvid finetune."
        )
    results = make_table(files)
    baseline = rename_row(baseline)
    check_baseline(baseline, list(files.values()))
    return write_table(files, results, out or folders[0], baseline)


def make_table(files: dict[Path, Result]) -> list[Result]:
    """All that stands in the table, means too, with Holm's rule over all gains.

    A UserError: results that cannot be tested, or cannot stand in one table.
    """
    refuse_untestable(files)
    refuse_unlike(files)
    results = list(files.values())
    return order_by_suite(correct_gains([*results, *average_results(results)]))


def write_table(
    files: dict[Path, Result], results: list[Result], folder: Path, baseline: str = "random"
) -> Path:
    """`results`: what `make_table` made of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = write_run_pages(files, folder)
    notes = list_notes(results)
    texts = {
        "board.md": tables.markdown(results, notes),
        "board.csv": tables.comma(results),
        "board.tex": tables.latex(results, notes),
        "report.html": render_board(results, notes, baseline, pages, date_of(files)),
    }
    for name, text in texts.items():
        write_text_whole(folder / name, text)
    return folder / "report.html"


def refuse_untestable(files: dict[Path, Result]) -> None:
    """Raise a UserError where a result lacks the answers that its tests are made of."""
    for file, result in files.items():
        reason = describe_missing_answers(result)
        if result.gains and not is_old(result) and reason:
            raise UserError(
                f"{file} {reason}, so no difference can be tested: delete it and run the command "
                "again."
            )


def refuse_unlike(files: dict[Path, Result]) -> None:
    """Raise a UserError where results that would stand together cannot be compared."""
    first: dict[str, Path] = {}
    for file, result in files.items():
        other = first.setdefault(result.cell, file)
        differences = describe_differences(files[other], result)
        if differences:
            raise UserError(
                f"{other} and {file} both hold the cell {result.cell} but are unlike in "
                f"{', '.join(differences)}: they cannot stand in one table. Leave one out, or run "
                "one anew with the flags of the other."
            )


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


def summarise_results(results: Iterable[Result]) -> list[dict[str, Any]]:
    """What the command prints. Means stand in the table alone."""
    summaries = []
    for result in results:
        if result.over is None:
            gain = result.gains.get("random")
            summary = {
                "cell": result.cell,
                "encoder": result.encoder.title,
                result.metric: result.score.value,
                "interval": result.score.interval,
                "chance": result.chance,
                "majority": result.majority,
                "mean_class": find_mean_class(result),
                "rank": result.rank,
                "leak": result.leak.clips,
                "gain_over_random": vars(gain) if gain else None,
            }
            summaries.append(summary)
    return summaries
