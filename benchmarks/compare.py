"""two folders of results -> which differences are shown: `python -m benchmarks.compare A B`.

Cells of the same name, protocol and test clips are compared clip by clip, by sign flips over groups
of clips. With many cells some differences look large by chance, so a difference counts as shown by
Holm's rule over all cells that are compared. A side may be several runs that differ in their seed
of pretraining alone: their spread is then in the interval.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.reports.averages import average_seeds
from ssvid.errors import UserError
from ssvid.log import log
from ssvid.results import Gain, Result, read_folder, read_result
from ssvid.results.evidence import differ_from_result, make_gains
from ssvid.results.schema import OLD_INFERENCE
from ssvid.results.text import NOT_VALID, format_gain, format_leak
from ssvid.results.unlike import (
    describe_differences,
    describe_missing_answers,
    list_clip_changes,
)
from ssvid.statistics.groups import TOO_FEW_GROUPS
from ssvid.statistics.holm import ALPHA


class Pair(NamedTuple):
    cell: str
    a: Result
    b: Result


def compare(
    a: str,  # folder of results, or FOLDER/ENCODER where it holds several, or one result file
    b: str,  # the same, with which A is compared
) -> dict[str, Any]:
    """Report for each cell whether A or B is shown to be better.

    A folder with runs of one recipe that differ in their seed alone is taken as their mean.
    """
    pairs, left_out = pair_results(read(a), read(b))
    if not pairs:
        reason = f": {left_out[0]}" if left_out else ""
        raise UserError(f"{a} and {b} share no cell that can be compared{reason}.")
    warnings = warn_of_few(pairs)
    for text in warnings:
        log.warning(text)
    rows = compare_pairs(pairs)
    for text in left_out:
        log.info(f"left out: {text}")
    return {
        "a": a,
        "b": b,
        "level": ALPHA,
        "cells": rows,
        "left_out": left_out,
        "warnings": warnings,
    }


def read(text: str) -> dict[str, Result]:
    """Cell -> result, of one encoder or of the mean over seeds of pretraining.

    Raises a UserError where there is none, or where there are several that are no seeds of one.
    """
    path, title = Path(text), None
    if not path.exists() and path.parent.is_dir():
        path, title = path.parent, path.name
    results = [r for r in read_results(path) if r and title in (None, r.encoder.title)]
    if not results and (title or not path.exists()):
        raise UserError(f"There is no folder, encoder or result {text}.")
    if not results:
        raise UserError(f"{text} holds no result.")
    encoders = {result.encoder.title for result in results}
    of_cells = {result.cell: result for result in results}
    if len(encoders) == 1:
        return of_cells
    means = {}
    for mean in average_seeds(results):
        if mean.member_count == len(encoders):
            means[mean.cell] = mean
    if means.keys() != of_cells.keys():
        names = ", ".join(f"{text}/{name}" for name in sorted(encoders))
        raise UserError(
            f"{text} holds results of {len(encoders)} encoders, which are not in every cell runs "
            f"of one recipe with other seeds: name one of {names}."
        )
    return means


def read_results(path: Path) -> list[Result | None]:
    """The results of a folder or a file; None where a file is of something else."""
    if path.is_dir():
        return list(read_folder(path).values())
    return [read_result(path)] if path.is_file() else []


def pair_results(a: dict[str, Result], b: dict[str, Result]) -> tuple[list[Pair], list[str]]:
    """(pairs of comparable results, sentences that name the other cells and the reason)."""
    pairs, left_out = [], []
    for cell in sorted(a.keys() | b.keys()):
        if cell not in a or cell not in b:
            left_out.append(f"{cell} is only in {'A' if cell in a else 'B'}")
            continue
        fault = find_fault(a[cell], b[cell])
        if fault:
            left_out.append(f"{cell} {fault}")
        else:
            pairs.append(Pair(cell, a[cell], b[cell]))
    return pairs, left_out


def find_fault(a: Result, b: Result) -> str:
    """Why two results of one cell cannot be compared; empty if they can."""
    unlike = describe_differences(a, b)
    if unlike:
        return f"differs in {', '.join(unlike)}"
    for side, result in (("A", a), ("B", b)):
        # Of the controls nothing is asked here.
        missing = describe_missing_answers(replace(result, controls={}))
        if missing:
            return f"{missing} in {side}: run it again"
    if list_test_units(a) != list_test_units(b):
        return "was tested on other clips"
    return ""


def list_test_units(result: Result) -> tuple[Any, ...]:
    return result.test.paths, result.test.groups, result.test.units


def compare_pairs(pairs: list[Pair]) -> list[dict[str, Any]]:
    """Log and return the difference of each pair, with Holm's rule over all of them."""
    differences = {}
    for pair in pairs:
        differences[pair.cell] = differ_from_result(pair.a, pair.b)
    gains = make_gains(differences)
    rows = []
    for pair in pairs:
        seeds = [pair.a.member_count or 1, pair.b.member_count or 1]
        leaks = [pair.a.leak.clips or 0, pair.b.leak.clips or 0]
        row = {"cell": pair.cell, **vars(gains[pair.cell]), "seeds": seeds, "leaks": leaks}
        log.info(describe_row(row, gains[pair.cell]))
        rows.append(row)
    return rows


def describe_row(row: dict[str, Any], gain: Gain) -> str:
    """One line about a cell: the difference, and what it does not exclude."""
    text = f"{row['cell']}: A - B {format_gain(gain)}"
    if any(row["leaks"]):
        text = f"{row['cell']}, {NOT_VALID}: A - B {format_gain(gain)}"
    if min(row["seeds"]) == 1:
        text += "; a difference of pretraining seeds is not excluded"
    return text


def warn_of_leaks(pairs: list[Pair]) -> list[str]:
    """Of each side the scores that are not valid. Cells with the same leak share a sentence."""
    cells: dict[str, list[str]] = {}
    for pair in pairs:
        for side, result in (("A", pair.a), ("B", pair.b)):
            leak = format_leak(result)
            if leak:
                cells.setdefault(f"{side}: {leak}", []).append(pair.cell)
    return [f"{leak} ({', '.join(names)})" for leak, names in cells.items()]


def warn_of_few(pairs: list[Pair]) -> list[str]:
    """What a reader of all these rows must know."""
    few, single, warnings = [], [], []
    warnings += warn_of_leaks(pairs)
    for pair in pairs:
        if len(set(pair.a.test.groups)) <= TOO_FEW_GROUPS:
            few.append(pair.cell)
        if pair.a.is_ungrouped:
            single.append(pair.cell)
        if OLD_INFERENCE in (pair.a.inference, pair.b.inference):
            warnings.append(
                f"{pair.cell}: a file of the old inference; the answers to its clips are tested "
                "anew here, and its own intervals are not used."
            )
        changes = list_clip_changes(pair.a, pair.b)
        if changes:
            warnings.append(
                f"{pair.cell}: each encoder sees clips of its own ({', '.join(changes)} differ)."
            )
    if few:
        warnings.append(
            f"Six groups of test clips or fewer in {', '.join(few)}: they show something only "
            "where all groups agree and nothing else is compared with them."
        )
    if single:
        warnings.append(
            f"Every test clip is a group of its own in {', '.join(single)}: if clips share a film "
            "or a person, name their groups in the data set, or intervals are too narrow."
        )
    return warnings


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("compare")
