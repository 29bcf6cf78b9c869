"""K labelled clips of each class, drawn many times: how much a few labels are worth. Test and val stay whole."""

from typing import Any

import torch

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Task, right
from ssvid.errors import UserError, positive
from ssvid.randomness import uniform
from ssvid.registry import tasks
from ssvid.shapes import Frozen
from ssvid.statistics import chance


@tasks.register("few_shot")
class FewShot(Task):
    """The main number is the mean over draws at `main` shots; each other K stands beside it."""

    def __init__(
        self,
        probe: Probe,
        *,
        shots: tuple[int, ...] = (1, 2, 4, 8, 16),  # clips of each class
        main: int = 4,  # the number of shots whose score stands in the table
        draws: int = 20,  # of the clips, the same for every encoder
    ) -> None:
        positive(shots=min(shots, default=0), draws=draws)
        if main not in shots:
            raise UserError(f"few_shot: main {main} is none of its shots {list(shots)}.")
        self._probe, self.shots, self.main, self.draws = probe, tuple(shots), main, draws

    def answer(self, bench: Bench, source: str) -> Answer:
        val, test = bench.frozen(source, "val"), bench.frozen(source, "test")
        train = bench.frozen(source, "train")
        more: dict[str, Any] = {}
        main = None
        for k in self.shots:
            smallest = int(train.labels.bincount()[train.labels.unique()].min())
            if k > smallest:
                more[f"{k}_shot"] = None  # a class has fewer train clips
                continue
            means = []
            for draw in range(self.draws):
                got = self.get_probe(source).run(
                    pick(train, k, bench.seed, draw), val, test, bench.seed
                )
                means.append(right(got.predictions, test.labels))
            each = torch.stack(means)  # draws S
            spread = each.mean(1).std().item() if self.draws > 1 else 0.0
            more[f"{k}_shot"] = {"top1": each.mean().item(), "std_over_draws": spread}
            main = each.mean(0) if k == self.main else main
        if main is None:
            raise UserError(
                f"few_shot: a class has fewer than {self.main} train clips; take a smaller main."
            )
        return Answer(main, None, more)

    def chance(self, bench: Bench) -> float:
        return chance(bench.labels[bench.splits["test"]])


def pick(train: Frozen, k: int, seed: int, draw: int) -> Frozen:
    """k clips of each class, drawn from (seed, draw, class): larger k holds what smaller k holds."""
    rows = []
    for label in train.labels.unique().tolist():
        own = (train.labels == label).nonzero().flatten()
        order = uniform(seed, f"few_shot/{label}", 0, draw, len(own))[0].argsort(stable=True)
        rows.append(own[order[:k]])
    chosen = torch.cat(rows)
    groups = [train.groups[i] for i in chosen.tolist()]
    return Frozen(
        {name: feats[chosen] for name, feats in train.feats.items()}, train.labels[chosen], groups
    )
