"""K labelled clips of each class, drawn many times: how much a few labels are worth.

Test and val stay whole.
"""

from typing import Any

import torch

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Task, mark_correct
from benchmarks.tasks.frozen import take_clips
from ssvid.errors import UserError, check_positive
from ssvid.randomness import uniform
from ssvid.registry import tasks
from ssvid.shapes import Frozen
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
        check_positive(shots=min(shots, default=0), draws=draws)
        if main not in shots:
            raise UserError(f"few_shot: main {main} is not one of its shots {list(shots)}.")
        self._probe, self.shots, self.main, self.draws = probe, tuple(shots), main, draws

    def answer(self, bench: Bench, source: str) -> Answer:
        train, val, test = bench.get_splits(source)
        smallest_class = int(train.labels.bincount()[train.labels.unique()].min())
        details: dict[str, Any] = {}
        main_correct = None
        for k in self.shots:
            if k > smallest_class:
                details[f"{k}_shot"] = None
                continue
            correct_of_draws = []
            for draw in range(self.draws):
                drawn_clips = draw_shots(train, k, bench.seed, draw)
                result = self.get_probe(source).run(drawn_clips, val, test, bench.seed)
                correct_of_draws.append(mark_correct(result.predictions, test.labels))
            correct = torch.stack(correct_of_draws)  # draws S, where S are the test clips
            std = correct.mean(1).std().item() if self.draws > 1 else 0.0
            details[f"{k}_shot"] = {"top1": correct.mean().item(), "std_over_draws": std}
            if k == self.main:
                main_correct = correct.mean(0)
        if main_correct is None:
            raise UserError(
                f"few_shot: a class has fewer than {self.main} train clips; choose a smaller main."
            )
        return Answer(correct=main_correct, predictions=None, details=details)

    def chance(self, bench: Bench) -> float:
        return chance(bench.labels[bench.splits["test"]])


def draw_shots(train: Frozen, k: int, seed: int, draw: int) -> Frozen:
    """k clips of each class, drawn from (seed, draw, class).

    The clips of a smaller k are among those of a larger one.
    """
    chosen = []
    for label in train.labels.unique().tolist():
        rows = (train.labels == label).nonzero().flatten()
        # The draw takes the place of a sample's index. There are no epochs here, so epoch is 0.
        u = uniform(seed, f"few_shot/{label}", epoch=0, index=draw, n=len(rows))[0]
        chosen.append(rows[u.argsort(stable=True)[:k]])
    return take_clips(train, torch.cat(chosen))
