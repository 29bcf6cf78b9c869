"""two folders of results -> which differences are real: `python -m benchmarks.compare A B`.

Cells of the same name, protocol and test clips are compared clip by clip, groups resampled alike for both. Many
cells make a chance find likely, so a difference counts as real by Holm's rule over all that are compared.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from ssvid.errors import UserError
from ssvid.log import log
from ssvid.results import Result, read_folder, read_result
from ssvid.results.text import between
from ssvid.statistics import by_group, paired_difference, sign_flip, spread_of_difference, turned

LEVEL = 0.05  # chance of one false find or more, over all cells


class Pair(NamedTuple):
    cell: str
    a: Result
    b: Result


def compare(
    a: str,  # folder of results, or FOLDER/ENCODER where it holds several, or one result file
    b: str,  # the same of what A is compared with
    *,
    seed: int = 0,  # of the resampling
) -> dict[str, Any]:
    """Say for each cell whether A or B is better, and whether that can be chance."""
    pairs, left = matched(read(a), read(b))
    if not pairs:
        raise UserError(
            f"{a} and {b} share no cell with the same protocol and test clips{': ' + left[0] if left else ''}."
        )
    rows = [difference(pair, seed) for pair in pairs]
    holm(rows)
    for row in rows:
        word = "real" if row["real"] else "may be chance"
        gap = f"A - B {100 * row['difference']:+.1f} ({between(row['interval'], '+')})"
        log.info(f"{row['cell']}: {gap}, p = {row['p']:.3g}: {word}")
    for text in left:
        log.info(f"left out: {text}")
    return {"a": a, "b": b, "level": LEVEL, "cells": rows, "left_out": left}


def read(text: str) -> dict[str, Result]:
    """Cell -> result."""
    path, title = Path(text), None
    if not path.exists() and path.parent.is_dir():
        path, title = path.parent, path.name
    results = (
        read_folder(path) if path.is_dir() else {path: read_result(path)} if path.is_file() else {}
    )
    found = [
        result for result in results.values() if result and title in (None, result.encoder.title)
    ]
    if not found and (title or not path.exists()):
        raise UserError(f"There is no folder, encoder or result {text}.")
    if not found:
        raise UserError(f"{text} holds no result.")
    encoders = {result.encoder.title for result in found}
    if len(encoders) > 1:
        names = ", ".join(f"{text}/{name}" for name in sorted(encoders))
        raise UserError(f"{text} holds results of {len(encoders)} encoders: name one of {names}.")
    return {result.cell: result for result in found}


def matched(a: dict[str, Result], b: dict[str, Result]) -> tuple[list[Pair], list[str]]:
    pairs, left = [], []
    for cell in sorted(a.keys() | b.keys()):
        if cell not in a or cell not in b:
            left.append(f"{cell} is only in {'A' if cell in a else 'B'}")
        elif tested_on(a[cell]) != tested_on(b[cell]):
            left.append(f"{cell} was tested on other clips")
        elif a[cell].question != b[cell].question:
            left.append(f"{cell} had another task or probe")
        else:
            pairs.append(Pair(cell, a[cell], b[cell]))
    return pairs, left


def tested_on(result: Result) -> tuple[Any, ...]:
    return result.test.paths, result.test.groups, result.test.units


def difference(pair: Pair, seed: int) -> dict[str, Any]:
    if pair.a.test.draws is not None and pair.b.test.draws is not None:
        return of_draws(pair, pair.a.test.draws["encoder"], pair.b.test.draws["encoder"])
    ours, theirs = (
        torch.tensor((r.test.correct or {})["encoder"], dtype=torch.float64)
        for r in (pair.a, pair.b)
    )
    groups = pair.a.test.groups
    found, low, high = paired_difference(ours, theirs, groups, seed)
    value, _ = by_group(ours - theirs, groups)
    return {
        "cell": pair.cell,
        "difference": found,
        "interval": (low, high),
        "p": sign_flip(value, seed),
    }


def of_draws(pair: Pair, a: list[float], b: list[float]) -> dict[str, Any]:
    """Of rankings, whose numbers were redrawn on the same groups for A and B: p is how often the sign turns."""
    ours, theirs = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    n = len(pair.a.test.groups)
    interval, p = spread_of_difference(ours, theirs, n), turned(ours - theirs, n)
    return {
        "cell": pair.cell,
        "difference": pair.a.score.value - pair.b.score.value,
        "interval": interval,
        "p": p,
    }


def holm(rows: list[dict[str, Any]]) -> None:
    """Marks what is real: the smallest p against LEVEL / n, the next against LEVEL / (n - 1), until one fails."""
    going = True
    for place, row in enumerate(sorted(rows, key=lambda row: row["p"])):
        going = going and row["p"] <= LEVEL / (len(rows) - place)
        row["real"] = going


if __name__ == "__main__":
    from ssvid.cli import command

    command(compare, "a", "b")
