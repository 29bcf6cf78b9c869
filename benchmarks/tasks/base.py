"""Bench -> Answer: the contract of a task.

A task turns frozen features into answers on test. Most tasks hold a probe that learns from train.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.features.sources import ROWS, TOKEN_ROWS, list_sources
from benchmarks.metrics.ranking import Ranked, average_precision
from benchmarks.probes.base import Probe, ProbeResult
from benchmarks.probes.floor import Floor
from benchmarks.tasks.floor import run_floor
from benchmarks.tasks.frozen import join_splits
from ssvid.shapes import Frozen
from ssvid.statistics import Measure, index_groups

Row = dict[str, Any]
# Of a task whose features are large or need many passes.
TWINS_OF_LARGE_TASKS = 4


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
    answers: bool = False  # asks what the encoder's run learnt beside it, which answers questions
    joint: bool = False  # reads clips in the space that they share with the encoder's text side
    names_classes: bool = True  # its answers are the classes of the data set
    fuses_encoders: bool = False  # can score several encoders together (bench.streams)
    frame_orders: tuple[str, ...] = ("",)  # suffixes of sources: "", /reversed, /shuffled
    _probe: Probe | None = None

    @property
    def source_suffix(self) -> str:
        """What follows the name of a source: its form."""
        if self.joint:
            return ":joint"
        if self.answers:
            return ":answers"
        return ":tokens" if self._probe is not None and self._probe.reads == "tokens" else ""

    def list_rows(self) -> tuple[str, ...]:
        """The rows of its results. Tokens are large, so a probe of tokens has fewer rows."""
        if self.source_suffix != ":tokens":
            return self.rows
        return tuple(filter(TOKEN_ROWS.__contains__, self.rows))

    def list_row_sources(self, row: str, twins: int) -> list[str]:
        """The sources of a row; `answer` takes each. `twins`: untrained nets at hand."""
        if self.source_suffix in (":tokens", ":answers") or len(self.frame_orders) > 1:
            twins = min(twins, TWINS_OF_LARGE_TASKS)
        if row == "floor":  # pixels have one form
            return list_sources(row, twins)
        return [source + self.source_suffix for source in list_sources(row, twins)]

    def list_source_names(self, twins: int) -> list[str]:
        """The sources whose features the task reads, in all its orders of frames."""
        names: list[str] = []
        for row in self.list_rows():
            for source in self.list_row_sources(row, twins):
                net, colon, form = source.partition(":")
                names += [net + order + colon + form for order in self.frame_orders]
        return names

    def get_probe(self, source: str) -> Probe:
        """The task's probe; for pixels the floor, which is the same in all tasks."""
        if source.startswith("pixels"):
            return Floor()
        assert self._probe is not None, "this task was made without a probe"
        return self._probe

    def run_probe(
        self, bench: Bench, source: str, train: Frozen, val: Frozen, test: Frozen
    ) -> ProbeResult:
        """The answers of the task's probe, with the setting that val chooses.

        On folds the probe is then trained anew on train and val together, because a fold's train
        is small.
        """
        probe = self.get_probe(source)
        if isinstance(probe, Floor):
            result = run_floor(bench, train, val, test)
        else:
            result = probe.run(train, val, test, bench.seed)
        if not bench.refits:
            return result
        again = probe.refit(join_splits([train, val]), test, result.chosen, bench.seed)
        return again._replace(grid=result.grid, chosen=result.chosen, warnings=result.warnings)

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


def mark_correct(predictions: Int[Tensor, " S"], labels: Int[Tensor, " S"]) -> Float[Tensor, " S"]:
    return (predictions == labels).to(torch.float64)


def average_probabilities(
    logits: Float[Tensor, "W Q"], videos: int, video_of_view: Int[Tensor, " W"]
) -> Float[Tensor, "S Q"]:
    """The softmax of the views, averaged over the views of each video."""
    probability = logits.softmax(-1)
    total = probability.new_zeros(videos, probability.shape[1])
    total = total.index_add_(0, video_of_view, probability)
    return total / video_of_view.bincount(minlength=videos)[:, None]


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
