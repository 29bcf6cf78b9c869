"""Several classes a clip (Charades, arXiv:1604.01753): mean average precision over classes.

Average precision is the plain one, as in Charades' own code and scikit-learn; clips without any class are left out.
"""

import torch

from benchmarks.features.bench import Bench
from benchmarks.metrics.ranking import mean_over, of_table
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Task, group_numbers, of_classes
from ssvid.registry import tasks


@tasks.register("multi_label")
class MultiLabel(Task):
    metric = "map"
    kind = "several"

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def answer(self, bench: Bench, source: str) -> Answer:
        train, val, test = (bench.frozen(source, split) for split in ("train", "val", "test"))
        got = self.get_probe(source).run(train, val, test, bench.seed)
        lists = of_table(got.scores, test.labels, group_numbers(bench))
        more = {"val_map": got.metrics["val/map"], "chosen": got.chosen, "grid": got.grid}
        return Answer(None, None, more, mean_over(lists), of_classes(bench, lists))

    def chance(self, bench: Bench) -> float:
        return prevalence(bench.labels[bench.splits["test"]])


def prevalence(held: torch.Tensor) -> float:
    """Mean share of units that hold a class, over the classes that are there: what a blind ranking gets on average."""
    share = held.double().mean(0)
    return share[share > 0].mean().item()
