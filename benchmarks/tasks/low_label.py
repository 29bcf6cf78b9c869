"""A share of the train labels (1 % or 10 % of every class, at least one clip), encoder frozen.

The share is that of semi-supervised learning. Val is not read: settings are chosen inside the few
labels (few_labels.py).
"""

from jaxtyping import Int
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe
from benchmarks.probes.few_labels import find_rule
from benchmarks.tasks.base import Answer, Task
from benchmarks.tasks.few_labels import SELECTION, FewLabels, check_draws, describe_draws
from benchmarks.tasks.few_shot import draw_class, join_classes
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
        self.selection = SELECTION
        self.share, self.draws = share, draws

    def answer(self, bench: Bench, source: str) -> Answer:
        learner = FewLabels(self._rule, bench, source)
        labels = learner.train.labels
        answer = learner.answer_draws(draw_share(labels, self.share, bench.seed, self.draws))
        assert answer.draws is not None
        std = describe_draws(answer.draws)["std_over_draws"]
        return answer._replace(details={"std_over_draws": std, **answer.details})

    def chance(self, bench: Bench) -> float:
        return chance(bench.labels[bench.splits["test"]])


def draw_share(labels: Labels, share: float, seed: int, draws: int) -> list[Int[Tensor, " n"]]:
    """Of each draw the rows of `share` of each class, rounded, and at least one clip."""
    of_classes = []
    for label in labels.unique().tolist():
        count = max(1, round(share * int((labels == label).sum())))
        of_classes.append(draw_class(labels, label, count, seed, draws))
    return join_classes(of_classes)
