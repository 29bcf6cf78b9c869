"""two folders of results -> which differences are real: `python -m benchmarks.compare A B`.

Cells of the same name, protocol and test clips are compared clip by clip, and groups are resampled
in the same way for both. With many cells some differences look large by chance, so a difference
counts as real by Holm's rule over all cells that are compared.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from ssvid.errors import UserError
from ssvid.log import log
from ssvid.results import Result, read_folder, read_result
from ssvid.results.text import format_interval
from ssvid.statistics import (
    p_of_sign,
    paired_difference,
    sign_flip,
    spread_of_difference,
    sum_by_group,
)

LEVEL = 0.05  # probability of one false difference or more, over all cells


class Pair(NamedTuple):
    cell: str
    a: Result
    b: Result


def compare(
    a: str,  # folder of results, or FOLDER/ENCODER where it holds several, or one result file
    b: str,  # the same, with which A is compared
    *,
    seed: int = 0,  # of the resampling
) -> dict[str, Any]:
    """Report for each cell whether A or B is better, and whether that can be chance."""
    pairs, left_out = pair_results(read(a), read(b))
    if not pairs:
        reason = f": {left_out[0]}" if left_out else ""
        raise UserError(f"{a} and {b} share no cell with the same protocol and test clips{reason}.")
    rows = [compute_difference(pair, seed) for pair in pairs]
    apply_holm(rows)
    for row in rows:
        verdict = "real" if row["real"] else "may be chance"
        gap = f"A - B {100 * row['difference']:+.1f} ({format_interval(row['interval'], '+')})"
        log.info(f"{row['cell']}: {gap}, p = {row['p']:.3g}: {verdict}")
    for text in left_out:
        log.info(f"left out: {text}")
    return {"a": a, "b": b, "level": LEVEL, "cells": rows, "left_out": left_out}


def read(text: str) -> dict[str, Result]:
    """Cell -> result, of one encoder. Raises a UserError where there is none, or several."""
    path, title = Path(text), None
    if not path.exists() and path.parent.is_dir():
        path, title = path.parent, path.name
    results = [r for r in read_results(path) if r and title in (None, r.encoder.title)]
    if not results and (title or not path.exists()):
        raise UserError(f"There is no folder, encoder or result {text}.")
    if not results:
        raise UserError(f"{text} holds no result.")
    encoders = {result.encoder.title for result in results}
    if len(encoders) > 1:
        names = ", ".join(f"{text}/{name}" for name in sorted(encoders))
        raise UserError(f"{text} holds results of {len(encoders)} encoders: name one of {names}.")
    return {result.cell: result for result in results}


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
        elif list_test_units(a[cell]) != list_test_units(b[cell]):
            left_out.append(f"{cell} was tested on other clips")
        elif a[cell].question != b[cell].question:
            left_out.append(f"{cell} had another task or probe")
        else:
            pairs.append(Pair(cell, a[cell], b[cell]))
    return pairs, left_out


def list_test_units(result: Result) -> tuple[Any, ...]:
    return result.test.paths, result.test.groups, result.test.units


def compute_difference(pair: Pair, seed: int) -> dict[str, Any]:
    """The difference of a pair, its interval and its p value."""
    a, b = pair.a.test, pair.b.test
    if a.draws is not None and b.draws is not None:
        return compare_draws(pair, a.draws["encoder"], b.draws["encoder"])
    ours, theirs = to_tensor((a.correct or {})["encoder"]), to_tensor((b.correct or {})["encoder"])
    difference, low, high = paired_difference(ours, theirs, a.groups, seed)
    group_differences, _ = sum_by_group(ours - theirs, a.groups)
    return {
        "cell": pair.cell,
        "difference": difference,
        "interval": (low, high),
        "p": sign_flip(group_differences, seed),
    }


def compare_draws(pair: Pair, a: list[float], b: list[float]) -> dict[str, Any]:
    """The same for rankings, whose numbers were redrawn on the same groups for A and B.

    p is how often the sign of the difference turns.
    """
    ours, theirs, groups = to_tensor(a), to_tensor(b), len(pair.a.test.groups)
    return {
        "cell": pair.cell,
        "difference": pair.a.score.value - pair.b.score.value,
        "interval": spread_of_difference(ours, theirs, groups),
        "p": p_of_sign(ours - theirs, groups),
    }


def to_tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def apply_holm(rows: list[dict[str, Any]]) -> None:
    """Set `real` in each row by Holm's rule.

    The smallest p is compared with LEVEL / n, the next with LEVEL / (n - 1), until one fails.
    """
    is_real = True
    for rank, row in enumerate(sorted(rows, key=lambda row: row["p"])):
        is_real = is_real and row["p"] <= LEVEL / (len(rows) - rank)
        row["real"] = is_real


if __name__ == "__main__":
    from ssvid.cli import command

    command(compare, "a", "b")
