"""results of one question -> their mean: over the folds of a data set, and over pretraining runs that differ in seed.

A mean is made anew from the result files whenever a table is, and stands in tables alone, never in a file of its own.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssvid.results import Result
from ssvid.statistics import Measure, by_group, redrawn, spread_of_difference, spread_of_share


def averages(found: Sequence[Result]) -> list[Result]:
    """Over folds, where all are there; then over pretraining seeds, also of those means."""
    folds: dict[Any, list[Result]] = defaultdict(list)
    for result in found:
        if fold := result.get("fold"):
            folds[fold["of"], result["encoder"]["hash"], result["protocol_hash"]].append(result)
    made = []
    for (cell, *_), of in folds.items():
        if sorted(result["fold"]["number"] for result in of) == sorted(of[0]["fold"]["folds"]):
            made.append(mean(of, cell=cell, over=f"folds {', '.join(map(str, of[0]['fold']['folds']))}"))
    runs: dict[Any, list[Result]] = defaultdict(list)
    for result in (*found, *made):
        if recipe := result["encoder"].get("recipe"):
            runs[result["cell"], recipe, result["protocol_hash"], result["data"]["hash"]].append(result)
    for of in runs.values():
        seeds = sorted({result["encoder"]["pretraining_seed"] for result in of})
        if len(seeds) == len(of) > 1:
            title = f"{of[0]['encoder']['title']} and {len(of) - 1} more"
            made.append(mean(of, title=title, over=f"pretraining seeds {', '.join(map(str, seeds))}"))
    return made


def mean(of: Sequence[Result], *, over: str, cell: str | None = None, title: str | None = None) -> Result:
    """As a result of its own, without what is of one test alone. Groups are redrawn for all of `of` alike."""
    first, metric = of[0], of[0]["metric"]
    rows = [name for name in ("encoder", *first["controls"]) if all(name in entries(result) for result in of)]
    draws, n = redrawings(of, rows), len({group for result in of for group in result["test"]["groups"]})
    values = {name: [entries(result)[name][metric] for result in of] for name in rows}

    def entry(name: str) -> Result:
        many = torch.tensor(values[name], dtype=torch.float64)
        return {metric: many.mean().item(), "interval": spread_of_share(draws[name], n), "std": many.std().item()}

    def gain(name: str) -> Result:
        difference = sum(values["encoder"]) / len(of) - sum(values[name]) / len(of)
        low, high = spread_of_difference(draws["encoder"], draws[name], n)
        return {"difference": difference, "interval": (low, high), "shown": low > 0 or high < 0}

    return {
        "kind": first["kind"],
        "cell": cell or first["cell"],
        "over": over,  # what it is the mean of
        "of": len(of),
        **entry("encoder"),
        "metric": metric,
        "chance": sum(result["chance"] for result in of) / len(of),
        "controls": {name: entry(name) for name in rows[1:]},
        "gains": {name: gain(name) for name in rows[1:]},
        "encoder": {**first["encoder"], "title": title or first["encoder"]["title"]},
        **{key: first[key] for key in ("protocol", "protocol_hash", "seed", "git", "leak", "cost", "command", "data")},
    }


def entries(result: Result) -> dict[str, Result]:
    return {"encoder": result, **result["controls"]}


def redrawings(of: Sequence[Result], rows: Sequence[str]) -> dict[str, Tensor]:
    """row -> its mean over `of`, on each redrawing of the groups of all their tests."""
    if "draws" in of[0]["test"]:
        return {
            name: torch.stack([torch.tensor(r["test"]["draws"][name], dtype=torch.float64) for r in of]).mean(0)
            for name in rows
        }
    groups = sorted({group for result in of for group in result["test"]["groups"]})
    return {
        name: redrawn(
            shares([(result["test"]["correct"][name], result["test"]["groups"]) for result in of], groups),
            len(groups),
            of[0]["seed"],
        )
        for name in rows
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
        each = [(weights @ value) / (weights @ weight) for value, weight in tables]  # NaN: none of its groups drawn
        return torch.stack(each).mean(0)

    return measure
