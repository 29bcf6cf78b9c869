"""Nearest class mean: cosine to the mean of each class's unit features. No setting but the pooling, chosen on val.

What few-shot work compares with (Snell et al. 2017, arXiv:1703.05175, with the encoder frozen).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.probes.base import Probe, ProbeResult, Setting, check, result
from ssvid.registry import probes
from ssvid.shapes import Frozen


@probes.register("prototypes")
class Prototypes(Probe):
    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        """Nothing is drawn: `seed` is not used."""
        classes = check(train, val, test)
        grid: list[Setting] = []
        for pooling, feats in train.feats.items():
            said = self.scores(feats, train.labels, val.feats[pooling], classes).argmax(1)
            top1 = (said == val.labels).double().mean().item()
            grid.append({"pooling": pooling, "dim": feats.shape[1], "val/top1": top1})
        best = max(grid, key=lambda setting: (setting["val/top1"], -setting["dim"]))
        feats = train.feats[best["pooling"]]
        return result(
            self.scores(feats, train.labels, test.feats[best["pooling"]], classes),
            test.labels,
            best,
            grid,
        )

    def scores(
        self,
        bank: Float[Tensor, "N D"],
        y: Int[Tensor, " N"],
        queries: Float[Tensor, "S D"],
        classes: int,
    ) -> Float[Tensor, "S Q"]:
        """Cosine to each class's mean; below every cosine where a class has no train clip."""
        centre = bank.float().mean(0)  # of the train clips, else all cosines are near 1
        unit = F.normalize(bank.float() - centre, dim=1)
        sums = torch.zeros(classes, bank.shape[1]).index_add_(0, y, unit)
        scores = F.normalize(queries.float() - centre, dim=1) @ F.normalize(sums, dim=1).T
        return scores.masked_fill(y.bincount(minlength=classes) == 0, -2.0)
