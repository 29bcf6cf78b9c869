"""A task's answers on every fold -> its answers on the whole data set, each clip asked once."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.tasks.base import Answer, Task
from ssvid.statistics import Measure


def answer_all_folds(task: Task, bench: Bench, source: str) -> Answer:
    """The answer of a task; of folds, their answers one behind the other."""
    if not bench.folds:
        return task.answer(bench, source)
    benches = bench.list_folds()
    answers, details, sizes = [], [], []
    for fold in benches:
        answers.append(task.answer(fold, source))
        details.append(answers[-1].details)
        sizes.append(len(fold.splits["test"]))
    joined = Answer(None, None, average_details(details, sizes))
    if answers[0].measure is not None:
        return joined._replace(measure=average_measures(answers, benches))
    return joined._replace(
        correct=join(answers, "correct"),
        predictions=join(answers, "predictions"),
        draws=join(answers, "draws", dim=1),
    )


def chance_of_all_folds(task: Task, bench: Bench) -> float:
    if not bench.folds:
        return task.chance(bench)
    total, clips = 0.0, 0
    for fold in bench.list_folds():
        size = len(fold.splits["test"])
        total, clips = total + size * task.chance(fold), clips + size
    return total / clips


def join(answers: Sequence[Answer], part: str, dim: int = 0) -> Any:
    """This part of the answers, one fold behind the other; None where a fold has none."""
    tensors = []
    for answer in answers:
        tensor = getattr(answer, part)
        if tensor is None:
            return None
        tensors.append(tensor)
    return torch.cat(tensors, dim)


def average_details(details: Sequence[dict[str, Any]], sizes: Sequence[int]) -> dict[str, Any]:
    """Numbers that all folds have, weighted by their test clips; and what each fold chose."""
    average = average_numbers(details, sizes)
    choices = []
    warnings: dict[str, None] = {}
    for of_fold in details:
        if "chosen" in of_fold:
            choices.append(of_fold["chosen"])
        warnings |= dict.fromkeys(of_fold.get("warnings", ()))
    if choices:
        average["chosen_by_fold"] = choices
    if warnings:
        average["warnings"] = list(warnings)
    return average


def average_numbers(details: Sequence[dict[str, Any]], sizes: Sequence[int]) -> dict[str, Any]:
    """The numbers of all folds, also those of inner mappings such as `4_shot: {top1: ...}`."""
    average: dict[str, Any] = {}
    for key in details[0]:
        values: list[Any] = [of_fold.get(key) for of_fold in details]
        if key == "chosen" or isinstance(values[0], bool):
            continue
        if all(isinstance(value, dict) for value in values):
            if all(value.keys() == values[0].keys() for value in values):
                average[key] = average_numbers(values, sizes)
        elif all(isinstance(value, int | float) for value in values):
            table = torch.tensor([values, sizes], dtype=torch.float64)
            average[key] = (table.prod(0).sum() / sum(sizes)).item()
    return average


def average_measures(answers: Sequence[Answer], benches: Sequence[Bench]) -> Measure:
    """The mean over folds of a metric that is no average over clips. A fold is one group."""
    numbers = {}
    for answer, fold in zip(answers, benches, strict=True):
        (group,) = set(fold.get_groups("test"))
        assert answer.measure is not None, "all folds answer in the same form"
        numbers[group] = answer.measure(torch.ones(1, 1, dtype=torch.float64))[0]
    table = torch.stack(list(map(numbers.__getitem__, sorted(numbers))))

    def measure(weights: Float[Tensor, "W G"]) -> Float[Tensor, " W"]:
        return (weights @ table) / weights.sum(1)

    return measure
