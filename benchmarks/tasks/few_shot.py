"""K labelled clips of each class, drawn many times: how much a few labels are worth.

Test stays whole and val is not read: settings are chosen inside the few labels (few_labels.py). At
one shot the pooling is fixed beforehand: the narrowest.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe
from benchmarks.probes.few_labels import find_rule
from benchmarks.tasks.base import Answer, Task
from benchmarks.tasks.few_labels import SELECTION, FewLabels, check_draws, describe_draws
from ssvid.errors import UserError, check_positive
from ssvid.randomness import uniform
from ssvid.registry import tasks
from ssvid.shapes import Labels
from ssvid.statistics import chance


@tasks.register("few_shot")
class FewShot(Task):
    """The main number is the mean over draws at `main` shots. The other K are written beside it."""

    def __init__(
        self,
        probe: Probe,
        *,
        shots: tuple[int, ...] = (1, 2, 4, 8, 16),  # clips of each class
        main: int = 4,  # the number of shots whose score stands in the table
        draws: int = 20,  # how often the clips are drawn anew; every encoder gets the same draws
    ) -> None:
        check_positive(shots=min(shots, default=0))
        check_draws("few_shot", draws)
        if main not in shots:
            raise UserError(f"few_shot: main {main} is not one of its shots {list(shots)}.")
        self._probe, self._rule = probe, find_rule(probe, "few_shot")
        self.selection = SELECTION
        self.shots, self.main, self.draws = tuple(shots), main, draws

    def answer(self, bench: Bench, source: str) -> Answer:
        learner = FewLabels(self._rule, bench, source)
        labels = learner.train.labels
        smallest_class = int(labels.bincount()[labels.unique()].min())
        details: dict[str, Any] = {}
        answer: Answer | None = None
        for k in self.shots:
            if k > smallest_class:
                details[f"{k}_shot"] = None
                continue
            of_shots = learner.answer_draws(draw_shots(labels, k, bench.seed, self.draws))
            assert of_shots.draws is not None
            details[f"{k}_shot"] = describe_draws(of_shots.draws)
            if k == self.main:
                answer = of_shots
        if answer is None:
            raise UserError(
                f"few_shot: a class has fewer than {self.main} train clips; choose a smaller main."
            )
        return answer._replace(details={**details, **answer.details})

    def chance(self, bench: Bench) -> float:
        return chance(bench.labels[bench.splits["test"]])


def draw_shots(labels: Labels, k: int, seed: int, draws: int) -> list[Int[Tensor, " n"]]:
    """Of each draw the rows of k clips of each class, drawn from (seed, draw, class).

    The clips of a smaller k are among those of a larger one.
    """
    classes = labels.unique().tolist()
    return join_classes([draw_class(labels, label, k, seed, draws) for label in classes])


def draw_class(labels: Labels, label: int, k: int, seed: int, draws: int) -> Int[Tensor, "D k"]:
    rows = (labels == label).nonzero().flatten()
    # The draw takes the place of a sample's index. There are no epochs here, so epoch is 0.
    u = uniform(seed, f"few_shot/{label}", epoch=0, index=torch.arange(draws), n=len(rows))
    return rows[u.argsort(dim=1, stable=True)[:, :k]]


def join_classes(of_classes: Sequence[Int[Tensor, "D k"]]) -> list[Int[Tensor, " n"]]:
    """Of each draw the rows of all classes."""
    return list(torch.cat(list(of_classes), dim=1))
