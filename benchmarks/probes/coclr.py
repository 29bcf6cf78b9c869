"""CoCLR's linear probe: unit features, batch norm, one layer; every setting is trained by itself, val picks.

arXiv:2010.09709 and eval/feature_linear_probe.py of its code: SGD with momentum, a tenth of the rate from 60 % and from
80 % of the epochs, weight decay on everything. There the best score on test is told; here val chooses and test is read
once. Features may be float16 and memory-mapped: they are made unit vectors a batch at a time.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmarks.probes.base import Probe, ProbeResult, Setting, check, on_val, result
from ssvid.errors import UserError, positive
from ssvid.randomness import permutation
from ssvid.registry import probes
from ssvid.shapes import Frozen

CHUNK = 4096  # rows scored at once
DROPS = (0.6, 0.8)  # of the epochs


@probes.register("coclr")
class CoCLR(Probe):
    def __init__(
        self,
        *,
        rates: tuple[float, ...] = (0.1, 0.3, 1.0),  # published: 0.1 to 1, for each set its own
        weight_decays: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1),  # likewise
        epochs: int = 100,  # passes over the train clips
        batch: int = 1024,  # clips, at most
        momentum: float = 0.9,  # of SGD
        refit: bool = False,  # the chosen setting on train and val: where val was carved out of the published train
    ) -> None:
        positive(
            epochs=epochs, batch=batch - 1, rates=min(rates, default=0.0)
        )  # one clip has no batch statistics
        self.grid = [(rate, decay) for rate in rates for decay in weight_decays]
        self.epochs, self.batch, self.momentum, self.refit = epochs, batch, momentum, refit

    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        classes, grid = check(train, val, test), []
        if len(train.labels) < 2:
            raise UserError(
                "The coclr probe normalises a batch by itself: it wants two train clips or more."
            )
        best: tuple[Setting, nn.Module] | None = None
        for pooling, feats in train.feats.items():
            for rate, decay in self.grid:
                head = self.fit(feats, train.labels, classes, rate, decay, seed)
                right = scored(head, val.feats[pooling]).argmax(-1) == val.labels
                setting: Setting = {
                    "pooling": pooling,
                    "dim": feats.shape[1],
                    "rate": rate,
                    "weight_decay": decay,
                }
                grid.append(setting | {"val/top1": right.double().mean().item()})
                if best is None or rank(grid[-1]) > rank(best[0]):
                    best = grid[-1], head
        assert best is not None, "there are no features to probe"
        chosen, head = best
        if self.refit:
            known = val.labels < classes  # of train
            feats = torch.cat([train.feats[chosen["pooling"]], val.feats[chosen["pooling"]][known]])
            labels = torch.cat([train.labels, val.labels[known]])
            head = self.fit(feats, labels, classes, chosen["rate"], chosen["weight_decay"], seed)
        return result(scored(head, test.feats[chosen["pooling"]]), test.labels, chosen, grid)

    def fit(
        self,
        x: Float[Tensor, "S D"],
        y: Int[Tensor, " S"],
        classes: int,
        rate: float,
        decay: float,
        seed: int,
    ) -> nn.Module:
        head = make(x.shape[1], classes, seed)
        optimizer = torch.optim.SGD(
            head.parameters(), lr=rate, momentum=self.momentum, weight_decay=decay
        )
        drops = [round(share * self.epochs) for share in DROPS]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops)
        batches = math.ceil(len(x) / self.batch)
        for epoch in range(self.epochs):
            order = permutation(seed, epoch, len(x))
            for rows in order.tensor_split(
                batches
            ):  # alike in size: a rest of one clip has no statistics
                loss = F.cross_entropy(head(unit(x[rows])), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
        return head.eval()


def make(dim: int, classes: int, seed: int) -> nn.Sequential:
    """Batch norm (eps and momentum as torch has them) and a layer that begins with normals of 0.01."""
    layer = nn.utils.skip_init(nn.Linear, dim, classes)
    nn.init.normal_(layer.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.BatchNorm1d(dim), layer)


def unit(x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    return F.normalize(x.float(), dim=1)


@torch.no_grad()
def scored(head: nn.Module, x: Float[Tensor, "S D"]) -> Float[Tensor, "S Q"]:
    return torch.cat([head(unit(part)) for part in x.split(CHUNK)])


def rank(setting: Setting) -> tuple[float | int, ...]:
    """Best on val; among equals the narrower, then more decay, then the smaller rate."""
    return on_val(setting), -setting["dim"], setting["weight_decay"], -setting["rate"]
