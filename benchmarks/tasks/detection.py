"""Who does what? RoI-pooled tokens of given boxes -> actions of each person, as AVA scores them (arXiv:1705.08421).

Mean average precision over classes at IoU 0.5, interpolated over all points (PASCAL VOC), in single frames. The boxes
are the annotated ones, also of test: what is asked of is the action, not where people are.
"""

from collections import defaultdict

import torch
from torch import Tensor
from torchvision.ops import box_iou

from benchmarks.features.bench import Bench
from benchmarks.metrics.ranking import Ranked, mean_over, ranked
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Task, group_numbers, of_classes
from benchmarks.tasks.multi_label import prevalence
from ssvid.errors import UserError
from ssvid.registry import tasks

OVERLAP = 0.5


@tasks.register("detection")
class Detection(Task):
    metric = "map"
    kind = "boxes"

    def __init__(self, probe: Probe) -> None:
        if probe.reads != "pooled":
            raise UserError(
                "detection: boxes have pooled features alone, no tokens: take a probe that reads vectors."
            )
        self._probe = probe

    def answer(self, bench: Bench, source: str) -> Answer:
        train, val, test = (bench.frozen(source, split) for split in ("train", "val", "test"))
        got = self.get_probe(source).run(train, val, test, bench.seed)
        lists = self.lists(bench, got.scores, test.labels)
        more = {"val_map": got.metrics["val/map"], "chosen": got.chosen, "grid": got.grid}
        return Answer(
            None,
            None,
            more,
            mean_over(lists, interpolated=True),
            of_classes(bench, lists, interpolated=True),
        )

    def lists(self, bench: Bench, scores: Tensor, held: Tensor) -> list[Ranked]:
        """Of each class: every test box is an answer."""
        units, group = bench.splits["test"], group_numbers(bench)
        frames: dict[tuple[int, float], list[int]] = defaultdict(list)
        for place, unit in enumerate(units):
            frames[bench.row[unit], bench.at[unit][0]].append(place)
        boxes = torch.tensor([bench.at[unit][1:5] for unit in units])
        right = torch.zeros_like(held)
        for own in frames.values():
            shared = box_iou(boxes[own], boxes[own])
            for q in held[own].any(0).nonzero()[:, 0].tolist():
                right[own, q] = matched(shared, scores[own, q], held[own, q])
        wanted = torch.zeros(int(group.max()) + 1, held.shape[1], dtype=torch.float64).index_add(
            0, group, held.double()
        )
        return [
            ranked(scores[:, q], right[:, q], group, wanted[:, q]) for q in range(held.shape[1])
        ]

    def chance(self, bench: Bench) -> float:
        return prevalence(bench.labels[bench.splits["test"]])


def matched(shared: Tensor, scores: Tensor, true: Tensor) -> Tensor:
    """Which boxes of a frame are right: the surest first, each on the true box that it covers best, once.

    Two people may overlap: then the surer box may be counted as the other's, as AVA's own code does.
    """
    right = torch.zeros_like(true)
    taken = torch.zeros_like(true)
    for i in scores.argsort(descending=True, stable=True).tolist():
        best = int(torch.where(true, shared[i], -1.0).argmax())
        if shared[i, best] >= OVERLAP and not taken[best]:
            right[i] = taken[best] = True
    return right
