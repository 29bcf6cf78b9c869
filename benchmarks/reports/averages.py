"""Results of one question -> their mean: over folds, and over pretraining runs that differ in seed.

A mean is made anew from the result files whenever a table is. It stands in tables alone, never in a
file of its own.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ssvid.results import Answers, Gain, Result, Score
from ssvid.statistics import Measure, redraw, spread_of_difference, spread_of_share, sum_by_group


def average_results(results: Sequence[Result]) -> list[Result]:
    """Means over folds, where all are there; then over pretraining seeds, also of those means."""
    means = average_folds(results)
    return means + average_seeds([*results, *means])


def average_folds(results: Sequence[Result]) -> list[Result]:
    folds: dict[Any, list[Result]] = defaultdict(list)
    for result in results:
        if result.fold:
            folds[result.fold.cell, result.encoder.hash, result.protocol_hash].append(result)
    means = []
    for (cell, *_), members in folds.items():
        wanted = members[0].fold.folds if members[0].fold else []
        if sorted(map(fold_number, members)) == sorted(wanted):
            means.append(average(members, cell=cell, over=f"folds {', '.join(map(str, wanted))}"))
    return means


def average_seeds(results: Sequence[Result]) -> list[Result]:
    runs: dict[Any, list[Result]] = defaultdict(list)
    for result in results:
        recipe = result.encoder.recipe
        if recipe:
            runs[result.cell, recipe, result.protocol_hash, result.data.hash].append(result)
    means = []
    for members in runs.values():
        seeds = sorted(set(map(pretraining_seed, members)))
        if len(seeds) == len(members) > 1:
            title = f"{members[0].encoder.title} and {len(members) - 1} more"
            over = f"pretraining seeds {', '.join(map(str, seeds))}"
            means.append(average(members, title=title, over=over))
    return means


def fold_number(result: Result) -> int:
    return result.fold.number if result.fold else 0


def pretraining_seed(result: Result) -> int:
    return result.encoder.pretraining_seed or 0


def average(
    members: Sequence[Result], *, over: str, cell: str | None = None, title: str | None = None
) -> Result:
    """The mean as a result of its own, without what belongs to one test alone.

    Groups are redrawn for all members alike.
    """
    first = members[0]
    rows = shared_rows(members)
    draws = redraw_rows(members, rows)
    number = len(groups_of(members))

    def entry(name: str) -> Score:
        values = torch.tensor(values_of(members, name), dtype=torch.float64)
        interval = spread_of_share(draws[name], number)
        return Score(value=values.mean().item(), interval=interval, std=values.std().item())

    def gain(name: str) -> Gain:
        values, base = values_of(members, "encoder"), values_of(members, name)
        difference = sum(values) / len(members) - sum(base) / len(members)
        ends = spread_of_difference(draws["encoder"], draws[name], number)
        return Gain.between(difference, *ends)

    controls, gains, tables = {}, {}, {"encoder": draws["encoder"].tolist()}
    for name in rows[1:]:
        controls[name], gains[name] = entry(name), gain(name)
        tables[name] = draws[name].tolist()
    return replace(
        first,
        cell=cell or first.cell,
        over=over,
        member_count=len(members),
        score=entry("encoder"),
        chance=average_chance(members),
        controls=controls,
        gains=gains,
        encoder=replace(first.encoder, title=title or first.encoder.title),
        test=Answers(groups=groups_of(members), draws=tables),
        fold=None,
        seeds=None,
        majority=None,
        confusion=None,
        strips=None,
        attention=None,
    )


def shared_rows(members: Sequence[Result]) -> list[str]:
    """The rows that all members have, the encoder's first."""
    names = list(members[0].rows)
    for result in members:
        names = [name for name in names if name in result.rows]
    return names


def values_of(members: Sequence[Result], row: str) -> list[float]:
    return [result.rows[row].value for result in members]


def average_chance(members: Sequence[Result]) -> float | None:
    """None where a member has none."""
    total = 0.0
    for result in members:
        if result.chance is None:
            return None
        total += result.chance
    return total / len(members)


def groups_of(members: Sequence[Result]) -> list[str]:
    """Of all their tests, each once."""
    groups: set[str] = set()
    for result in members:
        groups |= set(result.test.groups)
    return sorted(groups)


def redraw_rows(members: Sequence[Result], rows: Sequence[str]) -> dict[str, Tensor]:
    """row -> its mean over the members, on each redrawing of the groups of all their tests."""
    groups, means = groups_of(members), {}
    for name in rows:
        if members[0].test.draws is not None:
            draws = [(result.test.draws or {})[name] for result in members]
            means[name] = torch.tensor(draws, dtype=torch.float64).mean(0)
        else:
            tests = [((r.test.correct or {})[name], r.test.groups) for r in members]
            means[name] = redraw(measure_shares(tests, groups), len(groups), members[0].seed)
    return means


def measure_shares(tests: Sequence[tuple[list[float], list[str]]], groups: list[str]) -> Measure:
    """Weights of all groups -> the mean over tests of the share of right answers."""
    tables, number = [], dict(zip(groups, range(len(groups)), strict=True))
    for correct, test_groups in tests:
        value, weight = sum_by_group(torch.tensor(correct, dtype=torch.float64), test_groups)
        rows = torch.tensor([number[name] for name in sorted(set(test_groups))])
        zero = torch.zeros(len(groups), dtype=torch.float64)
        tables.append((zero.index_add(0, rows, value), zero.index_add(0, rows, weight)))

    def measure(weights: Tensor) -> Tensor:
        # A test none of whose groups is drawn gives NaN.
        shares = [(weights @ value) / (weights @ weight) for value, weight in tables]
        return torch.stack(shares).mean(0)

    return measure
