"""CoCLR's linear probe: unit features, batch norm and one layer. Each setting is trained alone.

It follows arXiv:2010.09709 and eval/feature_linear_probe.py of its code: SGD with momentum, a tenth
of the rate from 60 % and from 80 % of the epochs, weight decay on everything. The published code
reports the best score on test; here val chooses and test is read once. Features may be float16 and
memory-mapped: each batch is turned into unit vectors when it is read.
"""

import math
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmarks.probes.base import (
    Probe,
    ProbeResult,
    Setting,
    check_splits,
    make_result,
    read_val_score,
)
from ssvid.errors import UserError, check_positive
from ssvid.randomness import permutation
from ssvid.registry import probes
from ssvid.shapes import Frozen

CHUNK = 4096  # rows scored at once
RATE_DROPS = (0.6, 0.8)  # of the epochs


@probes.register("coclr")
class CoCLR(Probe):
    def __init__(
        self,
        *,
        rates: tuple[float, ...] = (0.1, 0.3, 1.0),  # published: 0.1 to 1, by data set
        weight_decays: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1),  # published: by data set
        epochs: int = 100,  # passes over the train clips
        batch: int = 1024,  # clips, at most
        momentum: float = 0.9,  # of SGD
        # train the chosen setting again on train and val, if val is a part of the published train
        refit: bool = False,
    ) -> None:
        # A batch of one clip has no batch statistics.
        check_positive(epochs=epochs, batch=batch - 1, rates=min(rates, default=0.0))
        self.grid = list(product(rates, weight_decays))
        self.epochs, self.batch, self.momentum = epochs, batch, momentum
        self.joins_val = refit

    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        classes = check_splits(train, val, test)
        grid: list[Setting] = []
        if len(train.labels) < 2:
            raise UserError(
                "The coclr probe normalises each batch by its own statistics: it needs two train "
                "clips or more."
            )
        best: tuple[Setting, nn.Module] | None = None
        for pooling, feats in train.feats.items():
            for rate, decay in self.grid:
                head = self.fit(feats, train.labels, classes, rate, decay, seed)
                correct = score_clips(head, val.feats[pooling]).argmax(-1) == val.labels
                setting: Setting = {
                    "pooling": pooling,
                    "dim": feats.shape[1],
                    "rate": rate,
                    "weight_decay": decay,
                    "val/top1": correct.double().mean().item(),
                }
                grid.append(setting)
                if best is None or rank_setting(setting) > rank_setting(best[0]):
                    best = setting, head
        assert best is not None, "there are no features to probe"
        chosen, head = best
        pooling = chosen["pooling"]
        if self.joins_val:
            in_train = val.labels < classes  # train may lack a class of val
            feats = torch.cat([train.feats[pooling], val.feats[pooling][in_train]])
            labels = torch.cat([train.labels, val.labels[in_train]])
            head = self.fit(feats, labels, classes, chosen["rate"], chosen["weight_decay"], seed)
        return make_result(score_clips(head, test.feats[pooling]), test.labels, chosen, grid)

    def refit(self, train: Frozen, test: Frozen, chosen: Setting, seed: int) -> ProbeResult:
        classes = check_splits(train, None, test)
        feats, rate, decay = train.feats[chosen["pooling"]], chosen["rate"], chosen["weight_decay"]
        head = self.fit(feats, train.labels, classes, rate, decay, seed)
        scores = score_clips(head, test.feats[chosen["pooling"]])
        return make_result(scores, test.labels, chosen, [chosen])

    def fit(
        self,
        x: Float[Tensor, "S D"],
        y: Int[Tensor, " S"],
        classes: int,
        rate: float,
        decay: float,
        seed: int,
    ) -> nn.Module:
        head = create_head(x.shape[1], classes, seed)
        optimizer = torch.optim.SGD(
            head.parameters(), lr=rate, momentum=self.momentum, weight_decay=decay
        )
        milestones = [round(share * self.epochs) for share in RATE_DROPS]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
        batches = math.ceil(len(x) / self.batch)
        for epoch in range(self.epochs):
            order = permutation(seed, epoch, len(x))
            # Batches of nearly the same size, because a last batch of one clip has no statistics.
            for rows in order.tensor_split(batches):
                loss = F.cross_entropy(head(normalise(x[rows])), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
        return head.eval()


def create_head(dim: int, classes: int, seed: int) -> nn.Sequential:
    """Batch norm with torch's own eps and momentum, and a layer.

    The weights of the layer start normal, with std 0.01.
    """
    layer = nn.utils.skip_init(nn.Linear, dim, classes)
    nn.init.normal_(layer.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.BatchNorm1d(dim), layer)


def normalise(x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    return F.normalize(x.float(), dim=1)


@torch.no_grad()
def score_clips(head: nn.Module, x: Float[Tensor, "S D"]) -> Float[Tensor, "S Q"]:
    """The logits of a trained head, computed in chunks."""
    return torch.cat([head(normalise(chunk)) for chunk in x.split(CHUNK)])


def rank_setting(setting: Setting) -> tuple[float | int, ...]:
    """Best on val. Among equals the narrower feature, then more decay, then the smaller rate."""
    return read_val_score(setting), -setting["dim"], setting["weight_decay"], -setting["rate"]
