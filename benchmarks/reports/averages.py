"""Results of one question -> their mean: over the folds of a data set, and over pretraining runs that differ in seed.

A mean is made anew from the result files whenever a table is, and stands in tables alone, never in a file of its own.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ssvid.results import Answers, Gain, Result, Score
from ssvid.statistics import Measure, by_group, redrawn, spread_of_difference, spread_of_share


def averages(results: Sequence[Result]) -> list[Result]:
    """Over folds, where all are there; then over pretraining seeds, also of those means."""
    folds: dict[Any, list[Result]] = defaultdict(list)
    for result in results:
        if result.fold:
            folds[result.fold.of, result.encoder.hash, result.protocol_hash].append(result)
    means = []
    for (cell, *_), members in folds.items():
        wanted = members[0].fold.folds if members[0].fold else []
        if sorted(result.fold.number for result in members if result.fold) == sorted(wanted):
            means.append(mean(members, cell=cell, over=f"folds {', '.join(map(str, wanted))}"))
    runs: dict[Any, list[Result]] = defaultdict(list)
    for result in (*results, *means):
        if recipe := result.encoder.recipe:
            runs[result.cell, recipe, result.protocol_hash, result.data.hash].append(result)
    for members in runs.values():
        seeds = sorted({result.encoder.pretraining_seed or 0 for result in members})
        if len(seeds) == len(members) > 1:
            title = f"{members[0].encoder.title} and {len(members) - 1} more"
            means.append(
                mean(members, title=title, over=f"pretraining seeds {', '.join(map(str, seeds))}")
            )
    return means


def mean(
    members: Sequence[Result], *, over: str, cell: str | None = None, title: str | None = None
) -> Result:
    """As a result of its own, without what is of one test alone. Groups are redrawn for all members alike."""
    first = members[0]
    rows = [name for name in first.rows if all(name in result.rows for result in members)]
    draws = redrawings(members, rows)
    groups = sorted({group for result in members for group in result.test.groups})
    number = len(groups)
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
        test=Answers(groups=groups, draws={name: of.tolist() for name, of in draws.items()}),
        fold=None,
        seeds=None,
        majority=None,
        confusion=None,
        strips=None,
        attention=None,
    )


def redrawings(members: Sequence[Result], rows: Sequence[str]) -> dict[str, Tensor]:
    """row -> its mean over the members, on each redrawing of the groups of all their tests."""
    if members[0].test.draws is not None:
        return {
            name: torch.stack(
                [torch.tensor((r.test.draws or {})[name], dtype=torch.float64) for r in members]
            ).mean(0)
            for name in rows
        }
    groups = sorted({group for result in members for group in result.test.groups})
    measures = {
        name: shares([((r.test.correct or {})[name], r.test.groups) for r in members], groups)
        for name in rows
    }
    return {
        name: redrawn(measure, len(groups), members[0].seed) for name, measure in measures.items()
    }


def shares(tests: Sequence[tuple[list[float], list[str]]], groups: list[str]) -> Measure:
    """Weights of all groups -> the mean over tests of the share of right answers."""
    tables, number = [], {name: i for i, name in enumerate(groups)}
    for correct, own in tests:
        value, weight = by_group(torch.tensor(correct, dtype=torch.float64), own)
        place = torch.tensor([number[name] for name in sorted(set(own))])
        zero = torch.zeros(len(groups), dtype=torch.float64)
        tables.append((zero.index_add(0, place, value), zero.index_add(0, place, weight)))

    def measure(weights: Tensor) -> Tensor:
        each = [
            (weights @ value) / (weights @ weight) for value, weight in tables
        ]  # NaN: none of its groups drawn
        return torch.stack(each).mean(0)

    return measure
