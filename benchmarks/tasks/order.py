"""Temporal order: is a clip played forwards, backwards or shuffled? What an encoder knows of time itself.

Every clip is seen in all three ways, so what it shows cannot tell; labels of the data set are not used.
"""

import torch

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Task, right
from ssvid.registry import tasks
from ssvid.shapes import Frozen

FRAME_ORDERS = ("", "/reversed", "/shuffled")


@tasks.register("order")
class Order(Task):
    rows = ("encoder", "random", "pixels")
    frame_orders = FRAME_ORDERS

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def answer(self, bench: Bench, source: str) -> Answer:
        train, val, test = (three_ways(bench, source, split) for split in ("train", "val", "test"))
        got = self.get_probe(source).run(train, val, test, bench.seed)
        each = right(got.predictions, test.labels).view(3, -1)  # way S
        ways = {
            f"top1_{name}": each[i].mean().item()
            for i, name in enumerate(("forward", "reversed", "shuffled"))
        }
        more = {"val_top1": got.metrics["val/top1"], "chosen": got.chosen, **ways}
        return Answer(each.mean(0), None, more)

    def chance(self, bench: Bench) -> float:
        return 1 / 3


def three_ways(bench: Bench, source: str, split: str) -> Frozen:
    row, colon, form = source.partition(":")
    parts = [bench.frozen(row + way + colon + form, split) for way in FRAME_ORDERS]
    feats = {
        pooling: torch.cat([part.feats[pooling] for part in parts]) for pooling in parts[0].feats
    }
    return Frozen(
        feats, torch.arange(3).repeat_interleave(len(parts[0].labels)), parts[0].groups * 3
    )
