"""The answers of all rows of a task -> what a result says: scores, intervals, and tested gains."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.tasks.base import Answer, Task
from benchmarks.tasks.folds import answer_all_folds, average_numbers, chance_of_all_folds
from ssvid.progress import progress_bar
from ssvid.results import Answers, Gain, Score
from ssvid.results.evidence import find_differences, make_gains
from ssvid.statistics import (
    GroupSums,
    Spread,
    are_few_sources,
    find_score_interval,
    majority,
    mean_class_accuracy,
    measure_noise,
    sum_by_group,
    take_jackknife,
)

Row = dict[str, Any]


class RowAnswers(NamedTuple):
    """A row's answers over all its nets (the untrained twins) and all seeds of the probe."""

    first: Answer  # of the first net and seed
    details: Row  # of the first, but with the numbers averaged over nets and seeds
    correct: Float[Tensor, " S"] | None  # the mean over nets and seeds
    of_groups: GroupSums  # what each group adds to the number of the row
    value: float  # the main number: the mean over nets and seeds
    of_seeds: list[float]
    of_nets: list[float]
    noise: float  # the part of the variance between nets that the test groups explain
    of_draws: list[float] | None  # of few labels


class Scored(NamedTuple):
    """What a task adds to a result."""

    metric: str
    score: Score
    chance: float
    majority: float | None
    controls: dict[str, Score]
    gains: dict[str, Gain]
    rank: int | None
    seeds: list[int] | None  # of the probe, where there are several
    test: Answers
    pictures: Row


def score_task(
    task: Task, bench: Bench, seeds: int = 1, pictures: bool = False, label: str = ""
) -> Scored:
    """The number of every row with its interval, and the encoder's gain over each control.

    `seeds`: the probe is trained once for each of bench.seed, bench.seed + 1, ..., and the numbers
    are averages. `pictures`: also what people look at. `label`: of the bar, which counts the
    probes that are trained. Raises the errors of the task.
    """
    probe_seeds = list(range(bench.seed, bench.seed + seeds))
    has_pictures = pictures and not bench.folds  # a fold has a train split of its own
    answers: dict[str, RowAnswers] = {}
    sources = {row: task.list_row_sources(row, bench.twins) for row in task.list_rows()}
    total = seeds * sum(map(len, sources.values()))
    with progress_bar(total, "probe", desc=label, leave=False) as bar:
        for row, sources_of_row in sources.items():
            of_nets = []
            for source in sources_of_row:
                of_seeds = []
                for seed in probe_seeds:
                    of_seeds.append(answer_all_folds(task, bench._replace(seed=seed), source))
                    bar.update()
                of_nets.append(of_seeds)
            answers[row] = average_answers(of_nets, bench)
    rows = {name: score_row(task, row, bench) for name, row in answers.items()}
    test = list_test_answers(bench, answers)
    return Scored(
        metric=task.metric,
        score=rows["encoder"],
        chance=chance_of_all_folds(task, bench),
        majority=find_majority(task, bench),
        controls={name: score for name, score in rows.items() if name != "encoder"},
        gains=make_gains(find_differences(rows, test)),
        rank=rank_encoder(rows),
        seeds=probe_seeds if seeds > 1 else None,
        test=test,
        pictures=task.visualize(bench, answers["encoder"].first) if has_pictures else {},
    )


def average_answers(of_nets: Sequence[Sequence[Answer]], bench: Bench) -> RowAnswers:
    """One row's answers, by net and by seed of the probe -> their mean."""
    first = of_nets[0][0]
    groups = bench.get_groups_of_units(bench.index_videos("test")[0])
    of_answers: list[list[GroupSums]] = []  # by net and seed
    numbers: list[list[float]] = []
    for of_seeds in of_nets:
        of_answers.append([sum_answer(answer, groups) for answer in of_seeds])
        numbers.append([sums.mean for sums in of_answers[-1]])
    weight, values, nets = of_answers[0][0].weight, [], []
    for row in of_answers:
        of_net = torch.stack([sums.value for sums in row]).mean(0)  # G, the mean over seeds
        values.append(of_net)
        nets.append(GroupSums(of_net, weight))
    table = torch.tensor(numbers, dtype=torch.float64)  # N R
    details: list[Row] = []
    for of_seeds in of_nets:
        details += map(attrgetter("details"), of_seeds)
    return RowAnswers(
        first=first,
        details={**first.details, **average_numbers(details, [1] * len(details))},
        correct=average_correct(of_nets),
        of_groups=GroupSums(torch.stack(values).mean(0), weight),
        value=table.mean().item(),
        of_seeds=table.mean(0).tolist(),
        of_nets=table.mean(1).tolist(),
        noise=measure_noise(nets),
        of_draws=average_draws(of_nets),
    )


def sum_answer(answer: Answer, groups: list[str]) -> GroupSums:
    """`groups`: of each test video."""
    if answer.correct is not None:
        return sum_by_group(answer.correct, groups)
    assert answer.measure is not None, "an answer has either `correct` or a measure"
    value = take_jackknife(answer.measure, len(set(groups)))
    return GroupSums(value, torch.ones_like(value))


def average_correct(of_nets: Sequence[Sequence[Answer]]) -> Float[Tensor, " S"] | None:
    rows = []
    for of_seeds in of_nets:
        for answer in of_seeds:
            if answer.correct is None:
                return None
            rows.append(answer.correct.double())
    return torch.stack(rows).mean(0)


def average_draws(of_nets: Sequence[Sequence[Answer]]) -> list[float] | None:
    """The number with each draw of few labels, averaged over nets and seeds."""
    rows = []
    for of_seeds in of_nets:
        for answer in of_seeds:
            if answer.draws is None:
                return None
            rows.append(answer.draws.double().mean(1))
    return round_values(torch.stack(rows).mean(0))


def score_row(task: Task, row: RowAnswers, bench: Bench) -> Score:
    """The number of a row. Its interval is over test groups, nets and draws of labels."""
    several_nets, several_seeds = len(row.of_nets) > 1, len(row.of_seeds) > 1
    extra_variance = 0.0
    if several_nets:
        nets = Spread.measure(row.of_nets, row.noise)
        extra_variance += (nets.variance - nets.noise) / nets.count
    if row.of_draws:
        draws = Spread.measure(row.of_draws)
        extra_variance += draws.variance / draws.count
    details = dict(row.details)
    labels = find_classes(task, bench)
    if row.correct is not None and labels is not None:
        details["mean_class"] = mean_class_accuracy(row.correct, labels)
    return Score(
        value=row.value,
        interval=find_score_interval(row.of_groups, extra_variance=extra_variance),
        details=details,
        per_class=row.first.per_class,
        of_seeds=row.of_seeds if several_seeds else None,
        std_over_seeds=standard_deviation(row.of_seeds) if several_seeds else None,
        of_nets=row.of_nets if several_nets else None,
        noise_of_nets=row.noise if several_nets else None,
        of_draws=row.of_draws,
        wide=are_few_sources(row.of_groups) or None,
    )


def find_classes(task: Task, bench: Bench) -> Int[Tensor, " S"] | None:
    """The class of each test video; None where the answers are no classes, or several to a clip."""
    labels = bench.labels[bench.index_videos("test")[0]]
    if not task.names_classes or labels.ndim > 1 or int(labels.min()) < 0:
        return None
    return labels


def find_majority(task: Task, bench: Bench) -> float | None:
    """The score of always naming the largest class of test."""
    labels = find_classes(task, bench)
    return None if labels is None else majority(labels)


def rank_encoder(rows: dict[str, Score]) -> int | None:
    """The encoder's place among itself and its untrained twins; 1 is the best."""
    if "random" not in rows:
        return None
    twins = rows["random"].of_nets or [rows["random"].value]
    return 1 + sum(twin > rows["encoder"].value for twin in twins)


def list_test_answers(bench: Bench, answers: dict[str, RowAnswers]) -> Answers:
    """What `compare` and the report need of test: the answers to each video.

    Of a ranking it is what each group says of the number: no single one of its thousands of
    seconds or boxes is right or wrong.
    """
    if answers["encoder"].correct is None:
        units, groups = bench.splits["test"], bench.get_groups("test")
        return Answers(
            paths=list(dict.fromkeys(list_paths(bench, units))),
            groups=sorted(set(groups)),
            units=len(units),
            of_groups={name: round_values(row.of_groups.value) for name, row in answers.items()},
        )
    units, _ = bench.index_videos("test")
    correct, predictions = {}, {}
    for name, row in answers.items():
        if row.correct is not None:
            correct[name] = round_values(row.correct)
        if row.first.predictions is not None and len(row.of_nets) == 1:
            predictions[name] = row.first.predictions.tolist()
    return Answers(
        paths=list_paths(bench, units),
        groups=bench.get_groups_of_units(units),
        labels=bench.labels[units].tolist(),
        correct=correct,
        predictions=predictions,
    )


def list_paths(bench: Bench, units: Sequence[int]) -> list[str]:
    return [bench.data.rows[bench.row_of_unit[unit]].path for unit in units]


def standard_deviation(values: list[float]) -> float:
    return torch.tensor(values, dtype=torch.float64).std().item()


def round_values(values: Tensor) -> list[float]:
    return [round(value, 9) for value in values.tolist()]
