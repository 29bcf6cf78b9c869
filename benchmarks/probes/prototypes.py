"""Nearest class mean: the cosine to the mean of each class's unit features.

It has no setting but the pooling, which is chosen on val. Few-shot work compares with it (Snell et
al. 2017, arXiv:1703.05175, with the encoder frozen).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.probes.base import Probe, ProbeResult, Setting, check_splits, make_result
from ssvid.registry import probes
from ssvid.shapes import Frozen


@probes.register("prototypes")
class Prototypes(Probe):
    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        """This probe draws nothing, so it does not use `seed`."""
        classes = check_splits(train, val, test)
        grid: list[Setting] = []
        for pooling, feats in train.feats.items():
            scores = self.score_classes(feats, train.labels, val.feats[pooling], classes)
            top1 = (scores.argmax(1) == val.labels).double().mean().item()
            grid.append({"pooling": pooling, "dim": feats.shape[1], "val/top1": top1})
        best = max(grid, key=lambda setting: (setting["val/top1"], -setting["dim"]))
        return self.refit(train, test, best, seed)._replace(grid=grid)

    def refit(self, train: Frozen, test: Frozen, chosen: Setting, seed: int) -> ProbeResult:
        classes = check_splits(train, None, test)
        feats, test_feats = train.feats[chosen["pooling"]], test.feats[chosen["pooling"]]
        scores = self.score_classes(feats, train.labels, test_feats, classes)
        return make_result(scores, test.labels, chosen, [chosen])

    def score_classes(
        self,
        bank: Float[Tensor, "N D"],
        y: Int[Tensor, " N"],
        queries: Float[Tensor, "S D"],
        classes: int,
    ) -> Float[Tensor, "S Q"]:
        """Cosine to each class's mean. A class without a train clip scores below every cosine."""
        centre = bank.float().mean(0)  # of the train clips; without it all cosines are near 1
        unit = F.normalize(bank.float() - centre, dim=1)
        sums = torch.zeros(classes, bank.shape[1]).index_add_(0, y, unit)
        scores = F.normalize(queries.float() - centre, dim=1) @ F.normalize(sums, dim=1).T
        return scores.masked_fill(y.bincount(minlength=classes) == 0, -2.0)
