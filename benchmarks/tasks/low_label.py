"""A share of the train labels, 1 % or 10 % of every class and at least one clip: semi-supervised protocol, frozen."""

import torch

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Task, right
from benchmarks.tasks.few_shot import pick
from ssvid.errors import UserError, within
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
        within(0, 1, share=share)
        if not share or draws < 1:
            raise UserError("low_label: share and draws are more than 0.")
        self._probe, self.share, self.draws = probe, share, draws

    def answer(self, bench: Bench, source: str) -> Answer:
        train, val, test = (bench.frozen(source, split) for split in ("train", "val", "test"))
        each = []
        for draw in range(self.draws):
            got = self.get_probe(source).run(
                part(train, self.share, bench.seed, draw), val, test, bench.seed
            )
            each.append(right(got.predictions, test.labels))
        found = torch.stack(each)  # draws S
        spread = found.mean(1).std().item() if self.draws > 1 else 0.0
        return Answer(found.mean(0), None, {"std_over_draws": spread})

    def chance(self, bench: Bench) -> float:
        return chance(bench.labels[bench.splits["test"]])


def part(train: Frozen, share: float, seed: int, draw: int) -> Frozen:
    """`share` of each class, rounded, at least one."""
    classes = train.labels.unique().tolist()
    only = [
        pick(
            of_class(train, label),
            max(1, round(share * int((train.labels == label).sum()))),
            seed,
            draw,
        )
        for label in classes
    ]
    feats = {name: torch.cat([one.feats[name] for one in only]) for name in train.feats}
    return Frozen(
        feats,
        torch.cat([one.labels for one in only]),
        [group for one in only for group in one.groups],
    )


def of_class(train: Frozen, label: int) -> Frozen:
    rows = (train.labels == label).nonzero().flatten()
    feats = {name: table[rows] for name, table in train.feats.items()}
    return Frozen(feats, train.labels[rows], [train.groups[i] for i in rows.tolist()])
