"""RoI-pooled tokens of annotated boxes -> the actions of each person, scored as AVA does.

arXiv:1705.08421: mean average precision over classes at IoU 0.5, interpolated over all points
(PASCAL VOC), in single frames. The boxes are the annotated ones, also on test: the task asks what
people do, not where they are.
"""

from collections import defaultdict

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.metrics.ranking import Ranked, draw_lots, mean_over, rank_classes, score_equally
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Task, list_class_precision, number_groups
from ssvid.errors import UserError
from ssvid.registry import tasks

MIN_IOU = 0.5


@tasks.register("detection")
class Detection(Task):
    metric = "map"
    kind = "boxes"

    def __init__(self, probe: Probe) -> None:
        if probe.reads != "pooled":
            raise UserError(
                "detection: boxes have pooled features only, no tokens: choose a probe that reads "
                "vectors."
            )
        self._probe = probe

    def answer(self, bench: Bench, source: str) -> Answer:
        train, val, test = bench.get_splits(source)
        result = self.run_probe(bench, source, train, val, test)
        lists = self.rank_boxes(bench, result.scores, test.labels)
        return Answer(
            correct=None,
            predictions=None,
            details={
                "val_map": result.metrics["val/map"],
                "chosen": result.chosen,
                "grid": result.grid,
                "warnings": result.warnings,
            },
            measure=mean_over(lists, interpolated=True),
            per_class=list_class_precision(bench, lists, interpolated=True),
        )

    def rank_boxes(self, bench: Bench, scores: Tensor, labels: Tensor) -> list[Ranked]:
        """For each class a ranking in which every test box is an answer."""
        from torchvision.ops import box_iou  # its import takes CPU-seconds

        units, group = bench.splits["test"], number_groups(bench)
        boxes_of_frame: dict[tuple[int, float], list[int]] = defaultdict(list)
        for i, unit in enumerate(units):
            time_s = bench.position_of_unit[unit][0]
            boxes_of_frame[bench.row_of_unit[unit], time_s].append(i)
        boxes = torch.tensor([bench.position_of_unit[unit][1:5] for unit in units])
        correct = torch.zeros_like(labels)
        for frame in boxes_of_frame.values():
            iou = box_iou(boxes[frame], boxes[frame])
            for q in labels[frame].any(0).nonzero()[:, 0].tolist():
                correct[frame, q] = match_boxes(iou, scores[frame, q], labels[frame, q])
        wanted = torch.zeros(int(group.max()) + 1, labels.shape[1], dtype=torch.float64)
        wanted = wanted.index_add(0, group, labels.double())
        return rank_classes(scores, correct, group, wanted)

    def chance(self, bench: Bench) -> float:
        """What boxes with scores by lot get."""
        labels, groups = bench.labels[bench.splits["test"]], number_groups(bench)

        def score(lots: Float[Tensor, "S Q"]) -> float:
            lists = self.rank_boxes(bench, lots, labels)
            return score_equally(mean_over(lists, interpolated=True), groups)

        return draw_lots(score, tuple(labels.shape), bench.seed)


def match_boxes(iou: Tensor, scores: Tensor, true: Tensor) -> Tensor:
    """Which boxes of a frame are right for one class: B B, B, B -> B.

    Boxes are matched in order of score, each to the true box with the highest IoU, which can be
    matched once. If two people overlap by more than MIN_IOU, a box can therefore be matched to the
    wrong person, as in AVA's own code.
    """
    correct = torch.zeros_like(true)
    matched = torch.zeros_like(true)
    for i in scores.argsort(descending=True, stable=True).tolist():
        best = int(torch.where(true, iou[i], -1.0).argmax())
        if iou[i, best] >= MIN_IOU and not matched[best]:
            correct[i] = matched[best] = True
    return correct
