"""A task's answers on every fold -> its answers on the whole data set, each clip asked once."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.tasks.base import Answer, Task
from ssvid.statistics import Measure, index_groups


def answer_all_folds(task: Task, bench: Bench, source: str) -> Answer:
    """The answer of a task; of folds, their answers one behind the other."""
    if not bench.folds:
        return task.answer(bench, source)
    benches = bench.list_folds()
    answers = [task.answer(fold, source) for fold in benches]
    sizes = [len(fold.splits["test"]) for fold in benches]
    joined = Answer(None, None, average_details([answer.details for answer in answers], sizes))
    if answers[0].measure is not None:
        return joined._replace(measure=average_measures(answers, benches))
    return joined._replace(
        correct=join([answer.correct for answer in answers]),
        predictions=join([answer.predictions for answer in answers]),
        draws=join([answer.draws for answer in answers], dim=1),
    )


def chance_of_all_folds(task: Task, bench: Bench) -> float:
    if not bench.folds:
        return task.chance(bench)
    total, clips = 0.0, 0
    for fold in bench.list_folds():
        size = len(fold.splits["test"])
        total, clips = total + size * task.chance(fold), clips + size
    return total / clips


def join(parts: Sequence[Tensor | None], dim: int = 0) -> Any:
    """None where a fold has none."""
    tensors = [part for part in parts if part is not None]
    return torch.cat(tensors, dim) if len(tensors) == len(parts) else None


def average_details(details: Sequence[dict[str, Any]], sizes: Sequence[int]) -> dict[str, Any]:
    """Numbers that all folds have, weighted by their test clips; and what each fold chose."""
    average: dict[str, Any] = {}
    for key, first in details[0].items():
        values = [of_fold.get(key) for of_fold in details]
        if isinstance(first, dict) and all(isinstance(value, dict) for value in values):
            inner = average_details([value for value in values if value], sizes)
            if inner and key != "chosen":
                average[key] = inner
        elif all(isinstance(value, int | float) for value in values):
            products = [value * size for value, size in zip(values, sizes, strict=True) if value]
            average[key] = sum(products) / sum(sizes)
    choices = [of_fold["chosen"] for of_fold in details if "chosen" in of_fold]
    warnings: dict[str, None] = {}
    for of_fold in details:
        warnings |= dict.fromkeys(of_fold.get("warnings", ()))
    if choices:
        average["chosen_by_fold"] = choices
    if warnings:
        average["warnings"] = list(warnings)
    return average


def average_measures(answers: Sequence[Answer], benches: Sequence[Bench]) -> Measure:
    """The mean over folds of a metric that is no average over clips.

    A fold counts by the mean weight of its groups, each of which lies in one fold.
    """
    groups_of_folds = [fold.get_groups("test") for fold in benches]
    every_group = sorted(set().union(*groups_of_folds))
    membership = torch.zeros(len(every_group), len(benches), dtype=torch.float64)  # G folds
    numbers = torch.zeros(len(benches), dtype=torch.float64)
    for fold, (answer, groups) in enumerate(zip(answers, groups_of_folds, strict=True)):
        own = sorted(set(groups))
        for group in own:
            membership[every_group.index(group), fold] = 1 / len(own)
        assert answer.measure is not None, "all folds answer in the same form"
        equal = torch.ones(1, max(index_groups(groups)) + 1, dtype=torch.float64)
        numbers[fold] = answer.measure(equal)[0]

    def measure(weights: Float[Tensor, "W G"]) -> Float[Tensor, " W"]:
        of_folds = weights @ membership
        return (of_folds @ numbers) / of_folds.sum(1)

    return measure
