"""A share of the train labels (1 % or 10 % of every class, at least one clip), encoder frozen.

The share is that of semi-supervised learning. Val is not read: settings are chosen inside the few
labels (few_labels.py).
"""

import torch
from jaxtyping import Int
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe
from benchmarks.probes.few_labels import find_rule
from benchmarks.tasks.base import Answer, Task
from benchmarks.tasks.few_labels import FewLabels, check_draws, describe_draws
from benchmarks.tasks.few_shot import draw_class
from ssvid.errors import UserError, check_range
from ssvid.registry import tasks
from ssvid.shapes import Labels
from ssvid.statistics import chance


@tasks.register("low_label")
class LowLabel(Task):
    def __init__(
        self,
        probe: Probe,
        *,
        share: float = 0.1,  # of each class's train clips
        draws: int = 20,  # of the clips, the same for every encoder
    ) -> None:
        check_range(0, 1, share=share)
        check_draws("low_label", draws)
        if not share:
            raise UserError("low_label: share must be more than 0.")
        self._probe, self._rule = probe, find_rule(probe, "low_label")
        self.share, self.draws = share, draws

    def answer(self, bench: Bench, source: str) -> Answer:
        learner = FewLabels(self._rule, bench, source)
        labels = learner.train.labels
        draws = [draw_share(labels, self.share, bench.seed, draw) for draw in range(self.draws)]
        answer = learner.answer_draws(draws)
        assert answer.draws is not None
        std = describe_draws(answer.draws)["std_over_draws"]
        return answer._replace(details={"std_over_draws": std, **answer.details})

    def chance(self, bench: Bench) -> float:
        return chance(bench.labels[bench.splits["test"]])


def draw_share(labels: Labels, share: float, seed: int, draw: int) -> Int[Tensor, " n"]:
    """Rows of `share` of each class, rounded, and at least one clip."""
    rows = []
    for label in labels.unique().tolist():
        count = max(1, round(share * int((labels == label).sum())))
        rows.append(draw_class(labels, label, count, seed, draw))
    return torch.cat(rows)
