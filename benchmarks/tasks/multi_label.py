"""Several classes a clip (Charades, arXiv:1604.01753): mean average precision over classes.

Average precision is the plain one, as in Charades' own code and scikit-learn. Clips without any
class are left out.
"""

import torch

from benchmarks.features.bench import Bench
from benchmarks.metrics.ranking import mean_over, rank_table
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Task, list_class_precision, number_groups
from ssvid.registry import tasks


@tasks.register("multi_label")
class MultiLabel(Task):
    metric = "map"
    kind = "several"

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def answer(self, bench: Bench, source: str) -> Answer:
        train, val, test = bench.get_splits(source)
        result = self.get_probe(source).run(train, val, test, bench.seed)
        lists = rank_table(result.scores, test.labels, number_groups(bench))
        return Answer(
            correct=None,
            predictions=None,
            details={
                "val_map": result.metrics["val/map"],
                "chosen": result.chosen,
                "grid": result.grid,
                "warnings": result.warnings,
            },
            measure=mean_over(lists),
            per_class=list_class_precision(bench, lists),
        )

    def chance(self, bench: Bench) -> float:
        return compute_prevalence(bench.labels[bench.splits["test"]])


def compute_prevalence(labels: torch.Tensor) -> float:
    """The share of units that have a class, averaged over the classes that occur.

    It is what a blind ranking scores on average. `labels`: S Q.
    """
    share = labels.double().mean(0)
    return share[share > 0].mean().item()
