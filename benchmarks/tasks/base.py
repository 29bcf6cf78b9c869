"""Bench -> Scored: the contract of a task, and how its answers are scored.

A task turns frozen features into answers on test. Most tasks hold a probe that learns from train.
"""

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
from benchmarks.probes.floor import Floor
from ssvid.results import Answers, Gain, Score
from ssvid.statistics import (
    Measure,
    bootstrap,
    index_groups,
    paired_difference,
    redraw,
    spread_of_difference,
    spread_of_share,
)

Row = dict[str, Any]


class Answer(NamedTuple):
    """The answers of one row (the encoder or a control) on test: of each video, or as a ranking."""

    correct: Float[Tensor, " S"] | None  # of each test video its share of right answers, 0 to 1
    predictions: Int[Tensor, " S"] | None  # the class of each test video, where there are classes
    details: Row  # further metrics and the chosen setting, written beside the main number
    # Where the number is no average over units: weights of the groups -> the number.
    measure: Measure | None = None
    per_class: dict[str, float | None] | None = None  # where it cannot be computed from `correct`
    attention: Float[Tensor, "S N"] | None = None  # of the probe over the tokens of each test clip
    # Right answers by draw of the labels, where few labels are drawn; `correct` is their mean.
    draws: Float[Tensor, "D S"] | None = None


class Task(ABC):
    """`__init__` takes a probe and keyword-only settings.

    A probe chooses on val; test is read once. All attributes without a leading underscore are
    settings, and settings are hashed.
    """

    metric: str = "top1"  # the name of the main number
    kind: str = "clips"  # of the units that are scored: a name of benchmarks.features.units
    rows: tuple[str, ...] = ROWS  # the encoder and the controls that are scored
    joint: bool = False  # reads clips in the space that they share with the encoder's text side
    fuses_encoders: bool = False  # can score several encoders together (bench.streams)
    frame_orders: tuple[str, ...] = ("",)  # suffixes of sources: "", /reversed, /shuffled
    _probe: Probe | None = None

    @property
    def source_suffix(self) -> str:
        """What follows the name of a source: `:tokens` if the probe reads them, or `:joint`."""
        if self.joint:
            return ":joint"
        return ":tokens" if self._probe is not None and self._probe.reads == "tokens" else ""

    @property
    def source_names(self) -> tuple[str, ...]:
        """The sources whose features the task reads."""
        names: list[str] = []
        for row in self.rows:
            names += [row + order + self.source_suffix for order in self.frame_orders]
        return tuple(names)

    def get_probe(self, source: str) -> Probe:
        """The task's probe; for pixels the floor, which is the same in all tasks."""
        if source.startswith("pixels"):
            return Floor()
        assert self._probe is not None, "this task was made without a probe"
        return self._probe

    @abstractmethod
    def answer(self, bench: Bench, source: str) -> Answer:
        """The answers of one row, from the arrays of `source` alone."""

    @abstractmethod
    def chance(self, bench: Bench) -> float:
        """The score of a blind guess."""

    def visualize(self, bench: Bench, answer: Answer) -> Row:
        """Entries of the result that people look at, made from the encoder's answers."""
        return {}

    def settings(self) -> Row:
        """All that the numbers depend on, apart from the features. Hashed."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}


class RowAnswers(NamedTuple):
    """A row's answers over all seeds."""

    first: Answer  # of the first seed
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


class Scorer:
    """The answers of all rows -> their scores, and the gains of the encoder over the controls."""

    def __init__(self, bench: Bench, answers: dict[str, RowAnswers], seeds: int) -> None:
        self.seed, self.seeds, self.answers = bench.seed, seeds, answers
        self.groups = bench.get_groups_of_units(bench.index_videos("test")[0])
        self.group_count = len(set(self.groups))
        # Row -> its number in each redrawing of the groups, where it is no average over units.
        self.draws: dict[str, Tensor] = {}
        for name, row in answers.items():
            if row.measure:
                self.draws[name] = redraw(row.measure, self.group_count, bench.seed)

    def compute_score(self, name: str) -> Score:
        """The number of a row, with its interval over groups of test units."""
        row = self.answers[name]
        if row.correct is not None:
            interval = bootstrap(row.correct, self.groups, self.seed)
        else:
            interval = spread_of_share(self.draws[name], self.group_count)
        return Score(
            value=sum(row.scores) / self.seeds,
            interval=interval,
            details=row.first.details,
            per_class=row.first.per_class,
            of_seeds=row.scores if self.seeds > 1 else None,
            std_over_seeds=standard_deviation(row.scores) if self.seeds > 1 else None,
        )

    def compute_gain(self, name: str) -> Gain:
        """The paired difference of the encoder from a control."""
        ours, theirs = self.answers["encoder"], self.answers[name]
        if ours.correct is not None and theirs.correct is not None:
            return Gain.between(
                *paired_difference(ours.correct, theirs.correct, self.groups, self.seed)
            )
        difference = (sum(ours.scores) - sum(theirs.scores)) / self.seeds
        low, high = spread_of_difference(self.draws["encoder"], self.draws[name], self.group_count)
        return Gain.between(difference, low, high)


def score_task(task: Task, bench: Bench, seeds: int = 1, pictures: bool = False) -> Scored:
    """The number of every row with its interval, and the encoder's gain over each control.

    `seeds`: the probe is trained once for each of bench.seed, bench.seed + 1, ..., and the numbers
    are averages. `pictures`: also what people look at. Raises the errors of the task.
    """
    group_count = len(set(bench.get_groups_of_units(bench.index_videos("test")[0])))
    probe_seeds = list(range(bench.seed, bench.seed + seeds))
    answers: dict[str, RowAnswers] = {}
    for row in task.rows:
        answers_of_seeds = []
        for seed in probe_seeds:
            seeded = bench._replace(seed=seed)
            answers_of_seeds.append(task.answer(seeded, row + task.source_suffix))
        answers[row] = average_seeds(answers_of_seeds, group_count)
    scorer = Scorer(bench, answers, seeds)
    controls = [name for name in answers if name != "encoder"]
    return Scored(
        metric=task.metric,
        score=scorer.compute_score("encoder"),
        chance=task.chance(bench),
        controls={name: scorer.compute_score(name) for name in controls},
        gains={name: scorer.compute_gain(name) for name in controls},
        seeds=probe_seeds if seeds > 1 else None,
        test=list_test_answers(bench, answers, scorer.draws),
        pictures=task.visualize(bench, answers["encoder"].first) if pictures else {},
    )


def average_seeds(answers: Sequence[Answer], groups: int) -> RowAnswers:
    """One row's answers with each seed -> their average. `groups`: the number of groups."""
    first = answers[0]
    if first.measure is None:
        rows = [answer.correct for answer in answers if answer.correct is not None]
        correct = torch.stack(rows).double()  # seeds S
        return RowAnswers(first, correct.mean(0), None, correct.mean(1).tolist())
    measures = [answer.measure for answer in answers if answer.measure]
    equal_weights = torch.ones(1, groups, dtype=torch.float64)

    def average(weights: Float[Tensor, "W G"]) -> Float[Tensor, " W"]:
        return torch.stack([measure(weights) for measure in measures]).mean(0)

    scores = [measure(equal_weights).item() for measure in measures]
    return RowAnswers(first, None, average, scores)


def list_test_answers(
    bench: Bench, answers: dict[str, RowAnswers], draws: dict[str, Tensor]
) -> Answers:
    """What `compare` and the report need of test: the answers to each video.

    Of a ranking it is the number in each redrawing: no single one of its thousands of seconds or
    boxes is right or wrong.
    """
    if draws:
        units, groups = bench.splits["test"], bench.get_groups("test")
        return Answers(
            paths=list(dict.fromkeys(list_paths(bench, units))),
            groups=sorted(set(groups)),
            units=len(units),
            draws=dict(zip(draws, map(round_values, draws.values()), strict=True)),
        )
    units, _ = bench.index_videos("test")
    correct, predictions = {}, {}
    for name, row in answers.items():
        if row.correct is not None:
            correct[name] = round_values(row.correct)
        if row.first.predictions is not None:
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
    return [round(value, 6) for value in values.tolist()]


def mark_correct(predictions: Int[Tensor, " S"], labels: Int[Tensor, " S"]) -> Float[Tensor, " S"]:
    return (predictions == labels).to(torch.float64)


def number_groups(bench: Bench, split: str = "test") -> Int[Tensor, " S"]:
    """The number of each unit's group; groups are numbered by name."""
    return torch.tensor(index_groups(bench.get_groups(split)))


def list_class_precision(
    bench: Bench, lists: Sequence[Ranked], interpolated: bool = False
) -> dict[str, float | None]:
    """Class -> its average precision; None where test has no unit of the class."""
    equal_weights = torch.ones(1, len(lists[0].wanted), dtype=torch.float64)
    precision: dict[str, float | None] = {}
    for name, ranked in zip(bench.data.classes, lists, strict=True):
        value = average_precision(ranked, equal_weights, interpolated).item()
        precision[name] = None if value != value else value  # NaN
    return precision


def make_share_measure(
    correct: Float[Tensor, " R"], group: Int[Tensor, " R"], groups: int
) -> Measure:
    """The share of right answers, as a function of the weights of the groups of videos.

    `group`: of each answer, from 0 to `groups` - 1.
    """
    total = correct.new_zeros(groups).index_add(0, group, correct)
    count = correct.new_zeros(groups).index_add(0, group, torch.ones_like(correct))

    def measure(weights: Float[Tensor, "W G"]) -> Float[Tensor, " W"]:
        return (weights @ total) / (weights @ count)

    return measure
