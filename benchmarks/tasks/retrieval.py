"""Nearest-neighbour retrieval: test clips ask, train clips answer; right if one of the k nearest has the query's class.

As MemDPC and CoCLR report it (R@1, 5, 10, 20, 50; cosine, no training). The pooling is chosen by R@1 of val queries.
Preset `coclr` is CoCLR's own test: unit features of overlapping windows, averaged over each video, each side centred
on its own mean. An encoder has one pooling there (mean of the last layer), so val chooses nothing.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe, check
from benchmarks.probes.knn import neighbours
from benchmarks.tasks.base import Answer, Row, Task
from benchmarks.tasks.film_strips import strips
from ssvid.errors import UserError, positive
from ssvid.registry import tasks
from ssvid.shapes import Frozen

CHUNK = 1024  # queries at once
WHOLE = "all"  # what is compared, of one encoder or of several
Splits = tuple[str, ...]
TEST: Splits = ("test",)
BANKS: dict[str, Splits] = {  # who answers
    "house": ("train",),
    "coclr": (
        "train",
        "val",
    ),  # the published train split: val is carved out of it, and chooses nothing there
}


@tasks.register("retrieval")
class Retrieval(Task):
    metric = "recall1"
    fuses_encoders = True

    def __init__(
        self,
        probe: Probe | None = None,
        *,
        preset: Literal[
            "house", "coclr"
        ] = "house",  # house: the clips that the user asks for, train alone answers
        ks: tuple[int, ...] = (1, 5, 10, 20, 50),  # is one of the k nearest of the class?
    ) -> None:
        if probe is not None:
            raise UserError("retrieval takes no probe: nothing is trained.")
        positive(ks=min(ks, default=0))
        self.ks, self._bank = tuple(ks), BANKS[preset]
        if preset != "house":  # which keeps the hash that it had before there were others
            self.preset, self.kind = preset, "windows"

    def answer(self, bench: Bench, source: str) -> Answer:
        chosen = [self.chosen(one, source) for one in bench.streams]
        poolings = [one["chosen"]["pooling"] for one in chosen]
        bank, test = (
            self.together(bench, source, self._bank, poolings),
            self.together(bench, source, TEST, poolings),
        )
        place = self.places(test, bank, WHOLE)
        _, nearest = neighbours(test.feats[WHOLE], bank.feats[WHOLE], 1)
        more: Row = {f"recall{k}": (place < k).double().mean().item() for k in self.ks}
        more |= chosen[0] if len(chosen) == 1 else {"streams": chosen}
        return Answer((place < 1).double(), bank.labels[nearest[:, 0]], more)

    def chosen(self, bench: Bench, source: str) -> Row:
        """The pooling of one encoder, by R@1 of val queries among train."""
        train, val, test = (
            self.frozen(bench, source, (split,)) for split in ("train", "val", "test")
        )
        check(train, val, test)
        on_val = {
            pooling: (self.places(val, train, pooling) < 1).double().mean().item()
            for pooling in train.feats
        }
        best = max(on_val, key=lambda pooling: (on_val[pooling], -train.feats[pooling].shape[1]))
        return {"val_recall1": on_val[best], "chosen": {"pooling": best}}

    def places(self, asked: Frozen, bank: Frozen, pooling: str) -> Int[Tensor, " S"]:
        return first_right(
            asked.feats[pooling], asked.labels, bank.feats[pooling], bank.labels, max(self.ks)
        )

    def together(
        self, bench: Bench, source: str, splits: Splits, poolings: Sequence[str]
    ) -> Frozen:
        """Of several encoders: unit features side by side, whose cosine is the mean of the single ones."""
        streams = [self.frozen(one, source, splits) for one in bench.streams]
        parts = [of.feats[pooling] for of, pooling in zip(streams, poolings, strict=True)]
        whole = (
            parts[0]
            if len(parts) == 1
            else torch.cat([F.normalize(part.float(), dim=1) for part in parts], dim=1)
        )
        return streams[0]._replace(feats={WHOLE: whole})

    def frozen(self, bench: Bench, source: str, splits: Splits) -> Frozen:
        """One row of features for each video."""
        parts = [bench.frozen(source, split) for split in splits]
        if self.kind == "clips":
            return joined(parts)
        whole = joined(
            [
                of_videos(part, bench.videos(split)[1])
                for part, split in zip(parts, splits, strict=True)
            ]
        )
        return whole._replace(
            feats={pooling: centred(feats) for pooling, feats in whole.feats.items()}
        )

    def visualize(self, bench: Bench, answer: Answer) -> Row:
        """Test clips beside their nearest train clips."""
        assert answer.predictions is not None
        streams = answer.more.get("streams", [answer.more])
        poolings = [one["chosen"]["pooling"] for one in streams]
        rows, tables = {}, {}
        for splits in (self._bank, TEST):
            rows[splits] = [bench.row[unit] for split in splits for unit in bench.videos(split)[0]]
            tables[splits] = self.together(bench, "encoder", splits, poolings).feats[WHOLE].float()
        feats = tables[TEST].new_zeros(len(bench.data), tables[TEST].shape[1])
        for splits, table in tables.items():
            feats[rows[splits]] = table
        return {
            "strips": strips(
                bench.data, bench.spec, feats, rows[self._bank], rows[TEST], answer.predictions
            )
        }

    def chance(self, bench: Bench) -> float:
        """A clip of the bank drawn blindly has the query's class."""
        bank, test = (
            bench.labels[[unit for split in splits for unit in bench.videos(split)[0]]]
            for splits in (self._bank, TEST)
        )
        share = bank.bincount(minlength=len(bench.data.classes)).double() / len(bank)
        return share[test].mean().item()


def joined(parts: Sequence[Frozen]) -> Frozen:
    if len(parts) == 1:
        return parts[0]
    feats = {
        pooling: torch.cat([part.feats[pooling] for part in parts]) for pooling in parts[0].feats
    }
    return Frozen(
        feats,
        torch.cat([part.labels for part in parts]),
        [group for part in parts for group in part.groups],
    )


def of_videos(windows: Frozen, which: Int[Tensor, " W"]) -> Frozen:
    """Unit features of each video's windows, averaged; the means are not of length 1 again."""
    count = which.bincount()
    means = {}
    for pooling, feats in windows.feats.items():
        total = torch.zeros(len(count), feats.shape[1]).index_add_(
            0, which, F.normalize(feats.float(), dim=1)
        )
        means[pooling] = total / count[:, None]
    labels = windows.labels.new_zeros(len(count)).scatter_(0, which, windows.labels)
    groups = dict(zip(which.tolist(), windows.groups, strict=True))
    return Frozen(means, labels, [groups[place] for place in range(len(count))])


def centred(feats: Float[Tensor, "S D"]) -> Float[Tensor, "S D"]:
    return feats - feats.mean(0)


def first_right(
    queries: Float[Tensor, "S D"],
    asked: Int[Tensor, " S"],
    bank: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    k: int,
) -> Int[Tensor, " S"]:
    """Place of the nearest row of the query's class among its k nearest, from 0; k where there is none."""
    places = []
    for start in range(0, len(queries), CHUNK):
        _, index = neighbours(queries[start : start + CHUNK], bank, min(k, len(bank)))
        same = labels[index] == asked[start : start + CHUNK, None]  # S k
        places.append(torch.where(same.any(1), same.int().argmax(1), k))
    return torch.cat(places)
