"""Nearest-neighbour retrieval: test clips ask, train clips answer; right if one of the k nearest has the query's class.

As MemDPC and CoCLR report it (R@1, 5, 10, 20, 50; cosine, no training). The pooling is chosen by R@1 of val queries.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.probe import Probe, check
from benchmarks.probes.knn import neighbours
from benchmarks.strips import strips
from benchmarks.subject import Bench
from benchmarks.task import Answer, Row, Task
from ssvid.errors import UserError, positive
from ssvid.registry import tasks

CHUNK = 1024  # queries at once


@tasks.register("retrieval")
class Retrieval(Task):
    metric = "recall1"

    def __init__(self, probe: Probe | None = None, *, ks: tuple[int, ...] = (1, 5, 10, 20, 50)) -> None:
        if probe is not None:
            raise UserError("retrieval takes no probe: nothing is trained.")
        positive(ks=min(ks, default=0))
        self.ks = tuple(ks)

    def answer(self, bench: Bench, source: str) -> Answer:
        train, val, test = (bench.frozen(source, split) for split in ("train", "val", "test"))
        check(train, val, test)

        def found(split: str, pooling: str) -> Int[Tensor, "S"]:
            asked = {"val": val, "test": test}[split]
            return first_right(asked.feats[pooling], asked.labels, train.feats[pooling], train.labels, max(self.ks))

        on_val = {pooling: (found("val", pooling) < 1).double().mean().item() for pooling in train.feats}
        best = max(on_val, key=lambda pooling: (on_val[pooling], -train.feats[pooling].shape[1]))
        place = found("test", best)
        _, nearest = neighbours(test.feats[best], train.feats[best], 1)
        more = {f"recall{k}": (place < k).double().mean().item() for k in self.ks}
        return Answer(
            (place < 1).double(),
            train.labels[nearest[:, 0]],
            {**more, "val_recall1": on_val[best], "chosen": {"pooling": best}},
        )

    def pictures(self, bench: Bench, answer: Answer) -> Row:
        """Test clips beside their nearest train clips."""
        assert answer.said is not None
        feats = bench.features["encoder"][answer.more["chosen"]["pooling"]]
        feats = feats.float().mean(1) if bench.views > 1 else feats
        return {
            "strips": strips(bench.data, bench.spec, feats, bench.splits["train"], bench.splits["test"], answer.said)
        }

    def chance(self, bench: Bench) -> float:
        """A train clip drawn blindly has the query's class."""
        train, test = (bench.labels[bench.splits[split]] for split in ("train", "test"))
        share = train.bincount(minlength=len(bench.data.classes)).double() / len(train)
        return share[test].mean().item()


def first_right(
    queries: Float[Tensor, "S D"], asked: Int[Tensor, "S"], bank: Float[Tensor, "N D"], labels: Int[Tensor, "N"], k: int
) -> Int[Tensor, "S"]:
    """Place of the nearest row of the query's class among its k nearest, from 0; k where there is none."""
    places = []
    for start in range(0, len(queries), CHUNK):
        _, index = neighbours(queries[start : start + CHUNK], bank, min(k, len(bank)))
        same = labels[index] == asked[start : start + CHUNK, None]  # S k
        places.append(torch.where(same.any(1), same.int().argmax(1), k))
    return torch.cat(places)
