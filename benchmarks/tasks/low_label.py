"""A share of the train labels (1 % or 10 % of every class, at least one clip), encoder frozen.

This is the protocol of semi-supervised learning.
"""

import torch

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Task, mark_correct
from benchmarks.tasks.few_shot import draw_shots
from benchmarks.tasks.frozen import join_splits, take_clips
from ssvid.errors import UserError, check_range
from ssvid.registry import tasks
from ssvid.shapes import Frozen
from ssvid.statistics import chance


@tasks.register("low_label")
class LowLabel(Task):
    def __init__(
        self,
        probe: Probe,
        *,
        share: float = 0.1,  # of each class's train clips
        draws: int = 5,  # of the clips, the same for every encoder
    ) -> None:
        check_range(0, 1, share=share)
        if not share or draws < 1:
            raise UserError("low_label: share and draws must be more than 0.")
        self._probe, self.share, self.draws = probe, share, draws

    def answer(self, bench: Bench, source: str) -> Answer:
        train, val, test = bench.get_splits(source)
        rows = []
        for draw in range(self.draws):
            labelled = draw_share(train, self.share, bench.seed, draw)
            result = self.get_probe(source).run(labelled, val, test, bench.seed)
            rows.append(mark_correct(result.predictions, test.labels))
        correct = torch.stack(rows)  # draws S
        std = correct.mean(1).std().item() if self.draws > 1 else 0.0
        return Answer(correct.mean(0), None, {"std_over_draws": std})

    def chance(self, bench: Bench) -> float:
        return chance(bench.labels[bench.splits["test"]])


def draw_share(train: Frozen, share: float, seed: int, draw: int) -> Frozen:
    """`share` of each class, rounded, and at least one clip."""
    classes = []
    for label in train.labels.unique().tolist():
        rows = (train.labels == label).nonzero().flatten()
        count = max(1, round(share * len(rows)))
        classes.append(draw_shots(take_clips(train, rows), count, seed, draw))
    return join_splits(classes)
