"""result -> a title of its cell that one can read, and the order of cells in their suite."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ssvid.errors import UserError
from ssvid.old_names import SUITES as OLD_SUITES
from ssvid.results import TUNED, Result
from ssvid.results.run_files import read_whole_mapping
from ssvid.results.text import PROBE_NAMES

SUITES = Path(__file__).parents[1] / "suites"
TASKS = {
    "classify": "Classification",
    "detection": "Detection of actions",
    "few_shot": "Few-shot classification",
    "htm_align": "Alignment of narration",
    "localisation": "Localisation in time",
    "low_label": "Classification with few labels",
    "multi_label": "Classification with several labels",
    "order": "Order of frames",
    "retrieval": "Retrieval of clips",
    "text_retrieval": "Retrieval by text",
    "zero_shot": "Zero-shot classification",
    "video_qa": "Questions about videos",
}


def title_cell(result: Result) -> str:
    """In words; the name of the cell where its task is none of ours."""
    if result.kind == TUNED:
        return "Fine-tuning"
    settings = result.question
    if settings.get("task") not in TASKS:
        return result.cell
    words = [TASKS[settings["task"]]]
    probe, share = settings.get("probe"), settings.get("share")
    if probe:
        words.append(PROBE_NAMES.get(probe, str(probe)))
    if isinstance(share, float):
        words.append(f"{100 * share:g} % of the labels")
    if result.fold:
        words.append(f"fold {result.fold.number}")
    return ", ".join(words)


def group_cells(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Cell -> its results, in the order in which they come."""
    cells: dict[str, list[Result]] = {}
    for result in results:
        cells.setdefault(result.cell, []).append(result)
    return cells


def rank_cells(results: list[Result]) -> dict[str, int]:
    """Cell -> its rank in the suite that asked it. Cells of an unknown suite are left out."""
    ranks: dict[str, int] = {}
    for suite in dict.fromkeys(map(suite_of, results)):
        for name in list_cells(suite):
            ranks.setdefault(name, len(ranks))
    return ranks


def suite_of(result: Result) -> str:
    """Name or path of the suite that the command named; empty where none did."""
    if "benchmarks.linear_probe" in (result.command or ""):
        return "linear"
    suite = (result.config or {}).get("suite")
    return suite if isinstance(suite, str) else ""


def list_cells(suite: str) -> list[str]:
    """Names of a suite's cells as benchmarks/suites/loader.py gives them, without folds."""
    if not suite:
        return []
    name = OLD_SUITES.get(suite, suite)  # a file may hold the name of the version before
    file = Path(name) if name.endswith((".yaml", ".yml")) else SUITES / f"{name}.yaml"
    try:
        content = read_whole_mapping(file) or {}
    except UserError:
        return []
    rows = content.get("cells")
    if not isinstance(rows, list):
        return []
    return [_name_cell(row) for row in rows if isinstance(row, dict)]


def _name_cell(row: dict[str, Any]) -> str:
    data = row.get("data")
    if isinstance(data, dict):
        data = data.get("name")
    parts = filter(None, [data, row.get("task"), row.get("probe")])
    return str(row.get("name") or ".".join(map(str, parts)))


def without_fold(cell: str) -> str:
    return re.sub(r"\.fold\d+$", "", cell)
