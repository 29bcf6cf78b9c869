"""Bench -> Scored: what every task is. A task says what is asked of frozen features, and holds a probe that answers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.features.sources import ROWS
from benchmarks.metrics.ranking import Ranked, average_precision
from benchmarks.probes.base import Probe
from ssvid import registry
from ssvid.results import Answers, Gain, Score
from ssvid.statistics import (
    Measure,
    bootstrap,
    numbered,
    paired_difference,
    redrawn,
    spread_of_difference,
    spread_of_share,
)

Row = dict[str, Any]


class Answer(NamedTuple):
    """What one row (the encoder or a control) got: of each unit, or as a ranking."""

    correct: Float[Tensor, " S"] | None  # of each test video, 0 to 1: its share of right answers
    predictions: (
        Int[Tensor, " S"] | None
    )  # the class of each test video, where the task has classes
    more: Row  # further metrics, the chosen setting
    measure: Measure | None = (
        None  # where the number is no average over units: weights of the groups -> it
    )
    per_class: dict[str, float | None] | None = None  # where `correct` does not tell
    attention: Float[Tensor, "S N"] | None = None  # of the probe over the tokens of each test clip


class Task(ABC):
    """`__init__` takes a probe and keyword-only settings. A probe chooses on val; test is read once."""

    metric: str = "top1"  # the name of the main number
    kind: str = "clips"  # what is scored one by one: a name of benchmarks.features.units
    rows: tuple[str, ...] = ROWS  # that are asked
    joint: bool = False  # reads clips in the space that the encoder's text side shares with them
    fuses_encoders: bool = False  # can ask several encoders together (bench.streams)
    frame_orders: tuple[str, ...] = ("",)  # suffixes of sources: "", /reversed, /shuffled
    _probe: Probe | None = None

    @property
    def form(self) -> str:
        """`:tokens` behind the name of a source, where the probe reads them; or `:joint`."""
        if self.joint:
            return ":joint"
        return ":tokens" if self._probe is not None and self._probe.reads == "tokens" else ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Sources whose features are read."""
        return tuple(row + way + self.form for row in self.rows for way in self.frame_orders)

    def get_probe(self, source: str) -> Probe:
        """The task's own; pixels are no tokens, so where that reads tokens they get a linear one."""
        assert self._probe is not None, "this task was made without a probe"
        return (
            registry.probes["linear"]()
            if self.form and source.startswith("pixels")
            else self._probe
        )

    @abstractmethod
    def answer(self, bench: Bench, source: str) -> Answer:
        """One row's answers, from the arrays of `source` alone."""

    @abstractmethod
    def chance(self, bench: Bench) -> float:
        """What a blind guess gets."""

    def visualize(self, bench: Bench, answer: Answer) -> Row:
        """Parts of the result that people look at, from the encoder's answers."""
        return {}

    def settings(self) -> Row:
        """All that the numbers depend on beside the features."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}


class RowAnswers(NamedTuple):
    """A row's answers over all seeds."""

    first: Answer
    correct: Tensor | None  # S, averaged over the seeds
    measure: Measure | None
    scores: list[float]  # of each seed


class Scored(NamedTuple):
    """What a task adds to a result."""

    metric: str
    score: Score
    chance: float
    controls: dict[str, Score]
    gains: dict[str, Gain]
    seeds: list[int] | None  # of the probe, where there are several
    test: Answers
    pictures: Row


def score(task: Task, bench: Bench, seeds: int = 1, pictures: bool = False) -> Scored:
    """Every row's number with its interval over groups of test units, and the encoder's paired difference from each.

    `seeds`: the probe is trained anew with bench.seed, bench.seed + 1, ... and the numbers are averages.
    """
    groups = bench.groups_of(bench.videos("test")[0])
    number = len(set(groups))
    answers: dict[str, RowAnswers] = {}
    for source in task.rows:
        each = [
            task.answer(bench._replace(seed=bench.seed + n), source + task.form)
            for n in range(seeds)
        ]
        answers[source] = over_seeds(each, number)
    draws = {
        name: redrawn(row.measure, number, bench.seed)
        for name, row in answers.items()
        if row.measure
    }

    def entry(name: str) -> Score:
        row = answers[name]
        if row.correct is not None:
            interval = bootstrap(row.correct, groups, bench.seed)
        else:
            interval = spread_of_share(draws[name], number)
        value, many = sum(row.scores) / seeds, seeds > 1
        return Score(
            value=value,
            interval=interval,
            more=row.first.more,
            per_class=row.first.per_class,
            of_seeds=row.scores if many else None,
            std_over_seeds=torch.tensor(row.scores, dtype=torch.float64).std().item()
            if many
            else None,
        )

    def gain(name: str) -> Gain:
        ours, theirs = answers["encoder"], answers[name]
        if ours.correct is not None and theirs.correct is not None:
            return Gain.between(
                *paired_difference(ours.correct, theirs.correct, groups, bench.seed)
            )
        difference = (sum(ours.scores) - sum(theirs.scores)) / seeds
        return Gain.between(
            difference, *spread_of_difference(draws["encoder"], draws[name], number)
        )

    controls = [name for name in answers if name != "encoder"]
    return Scored(
        metric=task.metric,
        score=entry("encoder"),
        chance=task.chance(bench),
        controls={name: entry(name) for name in controls},
        gains={name: gain(name) for name in controls},
        seeds=[bench.seed + n for n in range(seeds)] if seeds > 1 else None,
        test=tested(bench, answers, draws),
        pictures=task.visualize(bench, answers["encoder"].first) if pictures else {},
    )


def over_seeds(each: Sequence[Answer], groups: int) -> RowAnswers:
    first = each[0]
    if first.measure is None:
        correct = torch.stack([answer.correct for answer in each if answer.correct is not None])
        return RowAnswers(first, correct.double().mean(0), None, correct.double().mean(1).tolist())
    measures, whole = (
        [answer.measure for answer in each if answer.measure],
        torch.ones(1, groups, dtype=torch.float64),
    )
    scores = [measure(whole).item() for measure in measures]
    return RowAnswers(
        first, None, lambda weights: torch.stack([m(weights) for m in measures]).mean(0), scores
    )


def tested(bench: Bench, answers: dict[str, RowAnswers], draws: dict[str, Tensor]) -> Answers:
    """What `compare` and the report need of test: each unit's answers, or each redrawing's number."""
    if draws:  # a ranking: thousands of seconds or boxes, of which no one is right or wrong
        units, groups = bench.splits["test"], bench.groups("test")
        paths = list(dict.fromkeys(bench.data.rows[bench.row[i]].path for i in units))
        rounded = {name: rounded_list(of) for name, of in draws.items()}
        return Answers(paths=paths, groups=sorted(set(groups)), units=len(units), draws=rounded)
    units, _ = bench.videos("test")
    return Answers(
        paths=[bench.data.rows[bench.row[i]].path for i in units],
        groups=bench.groups_of(units),
        labels=bench.labels[units].tolist(),
        correct={
            name: rounded_list(row.correct)
            for name, row in answers.items()
            if row.correct is not None
        },
        predictions={
            name: row.first.predictions.tolist()
            for name, row in answers.items()
            if row.first.predictions is not None
        },
    )


def rounded_list(values: Tensor) -> list[float]:
    return [round(value, 6) for value in values.tolist()]


def right(said: Int[Tensor, " S"], labels: Int[Tensor, " S"]) -> Float[Tensor, " S"]:
    return (said == labels).to(torch.float64)


def group_numbers(bench: Bench, split: str = "test") -> Int[Tensor, " S"]:
    """The group of each unit, numbered by name."""
    return torch.tensor(numbered(bench.groups(split)))


def of_classes(
    bench: Bench, lists: Sequence[Ranked], interpolated: bool = False
) -> dict[str, float | None]:
    """Average precision of each class; None where test has none of it."""
    one = torch.ones(1, len(lists[0].wanted), dtype=torch.float64)
    values = [average_precision(answers, one, interpolated).item() for answers in lists]
    return {
        name: None if value != value else value
        for name, value in zip(bench.data.classes, values, strict=True)
    }


def share(right: Float[Tensor, " R"], group: Int[Tensor, " R"], n: int) -> Measure:
    """The mean over answers, as a function of how much each of n groups of videos counts."""
    total = right.new_zeros(n).index_add(0, group, right)
    count = right.new_zeros(n).index_add(0, group, torch.ones_like(right))

    def measure(weights: Float[Tensor, "W G"]) -> Float[Tensor, " W"]:
        return (weights @ total) / (weights @ count)

    return measure
