"""Results of one question -> their mean: over folds, and over pretraining runs that differ in seed.

A mean is made anew from the result files whenever a table is. It stands in tables alone, never in a
file of its own.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch

from ssvid.results import Answers, Result, Score
from ssvid.results.evidence import SAME_NET, find_differences, make_gains, sum_row
from ssvid.results.schema import OLD_INFERENCE
from ssvid.statistics import Spread, are_few_sources, find_score_interval, measure_noise


def average_results(results: Sequence[Result]) -> list[Result]:
    """Means over folds, where all are there; then over pretraining seeds, also of those means.

    Results of the old inference have none: what they hold is too little to test a mean.
    """
    results = [result for result in results if result.inference != OLD_INFERENCE]
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
            mean = average(members, cell=cell, over=f"folds {', '.join(map(str, wanted))}")
            means.append(replace(mean, notes=[*mean.notes, describe_folds(members)]))
    return means


def describe_folds(members: Sequence[Result]) -> str:
    """The score's standard deviation over folds, which papers print beside the mean."""
    values = torch.tensor([result.score.value for result in members], dtype=torch.float64)
    return (
        f"Over the {len(values)} folds the standard deviation is {100 * values.std():.1f} points."
    )


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

    Its gains are tested over the groups of all tests, and over the nets where they differ.
    """
    first = members[0]
    names = shared_rows(members)
    test = average_answers(members, names)
    rows = {name: average_row(members, name, test) for name in names}
    mean = replace(
        first,
        cell=cell or first.cell,
        over=over,
        member_count=len(members),
        score=rows.pop("encoder"),
        chance=average_numbers(map(attrgetter("chance"), members)),
        majority=average_numbers(map(attrgetter("majority"), members)),
        controls=rows,
        gains={},
        encoder=replace(first.encoder, title=title or first.encoder.title),
        test=test,
        fold=None,
        seeds=None,
        rank=None,
        confusion=None,
        strips=None,
        attention=None,
    )
    return replace(mean, gains=make_gains(find_differences(mean.rows, test)))


def average_row(members: Sequence[Result], name: str, test: Answers) -> Score:
    """The mean of a row. It is over nets where the encoders of the members differ.

    The twins of several pretraining runs are the same nets, which count once.
    """
    scores, values, sums_of_members = [], [], []
    encoders = set()
    for result in members:
        scores.append(result.rows[name])
        values.append(result.rows[name].value)
        sums_of_members.append(sum_row(result.test, name))
        encoders.add(result.encoder.hash)
    is_mean_of_nets = len(encoders) == len(members) and name in ("encoder", *SAME_NET)
    of_nets, noise = scores[0].of_nets, scores[0].noise_of_nets
    if is_mean_of_nets:
        of_nets, noise = values, measure_noise(sums_of_members)
    elif of_nets:
        of_nets = average_lists([score.of_nets for score in scores])
        if noise and len(encoders) < len(members):  # folds, whose test groups are other ones
            noise /= len(members)
    sums = sum_row(test, name)
    extra_variance = 0.0
    if of_nets:
        nets = Spread.measure(of_nets, noise or 0.0)
        extra_variance = (nets.variance - nets.noise) / max(nets.count, 1)
    return Score(
        value=sum(values) / len(values),
        interval=find_score_interval(sums, extra_variance=extra_variance),
        details=average_details(scores),
        of_nets=of_nets,
        noise_of_nets=noise,
        of_draws=average_lists([score.of_draws for score in scores]),
        wide=are_few_sources(sums) or None,
        std=torch.tensor(values, dtype=torch.float64).std().item(),
    )


def average_details(scores: Sequence[Score]) -> dict[str, Any]:
    """The mean over classes, and the choice of val where all members have the same."""
    details: dict[str, Any] = {}
    mean_class = average_numbers([score.details.get("mean_class") for score in scores])
    if mean_class is not None:
        details["mean_class"] = mean_class
    chosen = scores[0].details.get("chosen")
    if chosen and all(score.details.get("chosen") == chosen for score in scores):
        details["chosen"] = chosen
    return details


def average_lists(lists: Sequence[Sequence[float] | None]) -> list[float] | None:
    """Element by element; None where a member has none, or another number of them."""
    tables = list(filter(None, lists))
    if len(tables) < len(lists) or len(set(map(len, tables))) > 1:
        return None
    return torch.tensor(tables, dtype=torch.float64).mean(0).tolist()


def shared_rows(members: Sequence[Result]) -> list[str]:
    """The rows that all members have, the encoder's first."""
    names = list(members[0].rows)
    for result in members:
        names = list(filter(result.rows.__contains__, names))
    return names


def average_numbers(numbers: Iterable[float | None]) -> float | None:
    """None where a member has none."""
    present = []
    for number in numbers:
        if number is None:
            return None
        present.append(number)
    return sum(present) / len(present)


def groups_of(members: Sequence[Result]) -> list[str]:
    """Of all their tests, each once, sorted."""
    groups: set[str] = set()
    for result in members:
        groups |= set(result.test.groups)
    return sorted(groups)


def average_answers(members: Sequence[Result], names: Sequence[str]) -> Answers:
    """The mean of the members' answers: clip by clip if they were asked the same, else by group."""
    first = members[0].test
    tables = []
    for result in members:
        test = result.test
        if (test.paths, test.groups, test.units) != (first.paths, first.groups, first.units):
            return join_tests(members, names)
        tables.append(test.of_groups or test.correct or {})
    mean = {}
    for name in names:
        mean[name] = average_lists([table[name] for table in tables]) or []
    if first.of_groups is not None:
        return replace(first, of_groups=mean)
    return replace(first, correct=mean, predictions=None)


def join_tests(members: Sequence[Result], names: Sequence[str]) -> Answers:
    """What each group of all tests adds to the mean of the members' numbers.

    Each member counts alike, however large its test is.
    """
    groups = groups_of(members)
    number = dict(zip(groups, range(len(groups)), strict=True))
    of_groups, weights = {}, torch.zeros(len(groups), dtype=torch.float64)
    for name in names:
        value, weight = torch.zeros_like(weights), torch.zeros_like(weights)
        for result in members:
            sums = sum_row(result.test, name)
            rows = torch.tensor([number[group] for group in sorted(set(result.test.groups))])
            share = 1 / (sums.weight.sum() * len(members))
            value.index_add_(0, rows, sums.value * share)
            weight.index_add_(0, rows, sums.weight * share)
        of_groups[name], weights = value.tolist(), weight
    return Answers(groups=groups, of_groups=of_groups, weights=weights.tolist())
