"""Bench -> Scored: what every task is. A task says what is asked of frozen features, and holds a probe that answers."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.probe import Probe
from benchmarks.sources import ROWS
from benchmarks.subject import Bench
from ssvid import registry
from ssvid.statistics import bootstrap, paired_difference

Row = dict[str, Any]


class Answer(NamedTuple):
    """What one row (the encoder or a control) got."""

    correct: Float[Tensor, "S"]  # of each test clip, 0 to 1: its share of right answers
    said: Int[Tensor, "S"] | None  # the class it was taken for, where the task names one
    more: Row  # further metrics, the chosen setting


class Task(ABC):
    """`__init__` takes a probe and keyword-only settings. A probe chooses on val; test is read once."""

    metric: str = "top1"  # the name of the main number
    rows: tuple[str, ...] = ROWS  # that are asked
    ways: tuple[str, ...] = ("",)  # in which a row's clips are changed before: /reversed, /shuffled
    _probe: Probe | None = None

    @property
    def form(self) -> str:
        """`:tokens` behind the name of a source, where the probe reads them."""
        return ":tokens" if self._probe is not None and self._probe.reads == "tokens" else ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Sources whose features are read."""
        return tuple(row + way + self.form for row in self.rows for way in self.ways)

    def probe_of(self, source: str) -> Probe:
        """The task's own; pixels are no tokens, so where that reads tokens they get a linear one."""
        assert self._probe is not None, "this task was made without a probe"
        return registry.probes["linear"]() if self.form and source.startswith("pixels") else self._probe

    @abstractmethod
    def answer(self, bench: Bench, source: str) -> Answer:
        """One row's answers, from the arrays of `source` alone."""

    @abstractmethod
    def chance(self, bench: Bench) -> float:
        """What a blind guess gets."""

    def settings(self) -> Row:
        """All that the numbers depend on beside the features."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}


def score(task: Task, bench: Bench, progress: Callable[[str], None] = lambda row: None) -> Row:
    """Every row's number with its interval over groups of test clips, and the encoder's paired difference from each."""
    groups = [bench.data.groups[i] for i in bench.splits["test"]]
    answers: dict[str, Answer] = {}
    for source in task.rows:
        progress(source)
        answers[source] = task.answer(bench, source + task.form)

    def entry(got: Answer) -> Row:
        low_high = bootstrap(got.correct, groups, bench.seed)
        return {task.metric: got.correct.double().mean().item(), "interval": low_high, **got.more}

    def gain(other: Answer) -> Row:
        difference, low, high = paired_difference(answers["encoder"].correct, other.correct, groups, bench.seed)
        return {"difference": difference, "interval": (low, high), "shown": low > 0 or high < 0}

    controls = {name: entry(got) for name, got in answers.items() if name != "encoder"}
    return {
        **entry(answers["encoder"]),
        "metric": task.metric,
        "chance": task.chance(bench),
        "controls": controls,
        "gains": {name: gain(answers[name]) for name in controls},
        "test": {
            "paths": [bench.data.rows[i].path for i in bench.splits["test"]],
            "groups": groups,
            "labels": bench.data.labels[bench.splits["test"]].tolist(),
            "correct": {name: [round(float(c), 6) for c in got.correct] for name, got in answers.items()},
            "predictions": {name: got.said.tolist() for name, got in answers.items() if got.said is not None},
        },
    }


def right(said: Int[Tensor, "S"], labels: Int[Tensor, "S"]) -> Float[Tensor, "S"]:
    return (said == labels).to(torch.float64)
