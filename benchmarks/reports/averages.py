"""Results of one question -> their mean: over the folds of a data set, and over pretraining runs that differ in seed.

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
from ssvid.statistics import Measure, by_group, redrawn, spread_of_difference, spread_of_share


def average_results(results: Sequence[Result]) -> list[Result]:
    """Means over folds, where all are there; then over pretraining seeds, also of those means."""
    means = average_folds(results)
    return means + average_seeds([*results, *means])


def average_folds(results: Sequence[Result]) -> list[Result]:
    folds: dict[Any, list[Result]] = defaultdict(list)
    for result in results:
        if result.fold:
            folds[result.fold.of, result.encoder.hash, result.protocol_hash].append(result)
    means = []
    for (cell, *_), members in folds.items():
        wanted = members[0].fold.folds if members[0].fold else []
        numbers = sorted(result.fold.number for result in members if result.fold)
        if numbers == sorted(wanted):
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
        seeds = sorted({result.encoder.pretraining_seed or 0 for result in members})
        if len(seeds) == len(members) > 1:
            title = f"{members[0].encoder.title} and {len(members) - 1} more"
            over = f"pretraining seeds {', '.join(map(str, seeds))}"
            means.append(average(members, title=title, over=over))
    return means


def average(
    members: Sequence[Result], *, over: str, cell: str | None = None, title: str | None = None
) -> Result:
    """The mean as a result of its own, without what belongs to one test alone.

    Groups are redrawn for all members alike.
    """
    first = members[0]
    rows = [name for name in first.rows if all(name in result.rows for result in members)]
    draws = redraw_rows(members, rows)
    number = len(groups_of(members))
    values = {name: [result.rows[name].value for result in members] for name in rows}

    def entry(name: str) -> Score:
        many = torch.tensor(values[name], dtype=torch.float64)
        interval = spread_of_share(draws[name], number)
        return Score(value=many.mean().item(), interval=interval, std=many.std().item())

    def gain(name: str) -> Gain:
        difference = sum(values["encoder"]) / len(members) - sum(values[name]) / len(members)
        return Gain.between(
            difference, *spread_of_difference(draws["encoder"], draws[name], number)
        )

    chances = [result.chance for result in members if result.chance is not None]
    return replace(
        first,
        cell=cell or first.cell,
        over=over,
        of=len(members),
        score=entry("encoder"),
        chance=sum(chances) / len(members) if len(chances) == len(members) else None,
        controls={name: entry(name) for name in rows[1:]},
        gains={name: gain(name) for name in rows[1:]},
        encoder=replace(first.encoder, title=title or first.encoder.title),
        test=Answers(
            groups=groups_of(members),
            draws={name: values.tolist() for name, values in draws.items()},
        ),
        fold=None,
        seeds=None,
        majority=None,
        confusion=None,
        strips=None,
        attention=None,
    )


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
            tables = [torch.tensor(values, dtype=torch.float64) for values in draws]
            means[name] = torch.stack(tables).mean(0)
        else:
            tests = [((r.test.correct or {})[name], r.test.groups) for r in members]
            means[name] = redrawn(measure_shares(tests, groups), len(groups), members[0].seed)
    return means


def measure_shares(tests: Sequence[tuple[list[float], list[str]]], groups: list[str]) -> Measure:
    """Weights of all groups -> the mean over tests of the share of right answers."""
    tables, number = [], {name: i for i, name in enumerate(groups)}
    for correct, test_groups in tests:
        value, weight = by_group(torch.tensor(correct, dtype=torch.float64), test_groups)
        rows = torch.tensor([number[name] for name in sorted(set(test_groups))])
        zero = torch.zeros(len(groups), dtype=torch.float64)
        tables.append((zero.index_add(0, rows, value), zero.index_add(0, rows, weight)))

    def measure(weights: Tensor) -> Tensor:
        # A test none of whose groups is drawn gives NaN.
        shares = [(weights @ value) / (weights @ weight) for value, weight in tables]
        return torch.stack(shares).mean(0)

    return measure
