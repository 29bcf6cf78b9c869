"""Temporal order: is a clip played forwards, backwards or shuffled?

The task shows what an encoder knows of time itself. Every clip is seen in all three orders, so its
content cannot give the answer. Labels of the data set are not used.
"""

import torch

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Row, Task, mark_correct
from benchmarks.tasks.frozen import join_splits
from ssvid.registry import tasks
from ssvid.shapes import Frozen

FRAME_ORDERS = ("", "/reversed", "/shuffled")
ORDER_NAMES = ("forward", "reversed", "shuffled")


@tasks.register("order")
class Order(Task):
    rows = ("encoder", "random", "floor")
    names_classes = False
    frame_orders = FRAME_ORDERS

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def answer(self, bench: Bench, source: str) -> Answer:
        train = join_frame_orders(bench, source, "train")
        val = join_frame_orders(bench, source, "val")
        test = join_frame_orders(bench, source, "test")
        result = self.run_probe(bench, source, train, val, test)
        correct = mark_correct(result.predictions, test.labels).view(3, -1)  # order S
        details: Row = {"val_top1": result.metrics["val/top1"], "chosen": result.chosen}
        details["warnings"] = result.warnings
        for name, of_order in zip(ORDER_NAMES, correct, strict=True):
            details[f"top1_{name}"] = of_order.mean().item()
        return Answer(correct.mean(0), None, details)

    def chance(self, bench: Bench) -> float:
        return 1 / 3


def join_frame_orders(bench: Bench, source: str, split: str) -> Frozen:
    """The clips of a split in all three orders. The label is the number of the order."""
    row, colon, form = source.partition(":")
    orders = [bench.get_frozen(row + order + colon + form, split) for order in FRAME_ORDERS]
    labels = torch.arange(3).repeat_interleave(len(orders[0].labels))
    return join_splits(orders)._replace(labels=labels)
