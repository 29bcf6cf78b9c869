"""Several classes a clip (Charades, arXiv:1604.01753): mean average precision over classes.

Average precision is the plain one, as in Charades' own code and scikit-learn. Clips without any
class are left out.
"""

from jaxtyping import Float
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.metrics.ranking import draw_lots, mean_over, rank_table, score_equally
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
        result = self.run_probe(bench, source, train, val, test)
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
        """What a blind ranking scores: above the prevalence, the more so the fewer the clips."""
        labels, groups = bench.labels[bench.splits["test"]], number_groups(bench)

        def score(lots: Float[Tensor, "S Q"]) -> float:
            return score_equally(mean_over(rank_table(lots, labels, groups)), groups)

        return draw_lots(score, tuple(labels.shape), bench.seed)
