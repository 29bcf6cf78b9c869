"""k nearest neighbours: cosine, votes weighted by exp(similarity / T); k and pooling from val, test is read once."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.probe import Probe, ProbeResult, Setting, check, result
from ssvid.registry import probes
from ssvid.shapes import Frozen

CHUNK = 1024  # queries at once


@probes.register("knn")
class KNN(Probe):
    def __init__(
        self,
        *,
        ks: tuple[int, ...] = (1, 5, 10, 20, 50, 200),  # of neighbours; more than train has means all of train
        temperature: float = 0.07,  # of Wu et al. 2018 (arXiv:1805.01978), as in DINO and lightly
    ) -> None:
        self.ks, self.temperature = tuple(ks), temperature

    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        """Nothing is drawn: `seed` is not used."""
        classes, grid = check(train, val, test), []
        ks = sorted({min(k, len(train.labels)) for k in self.ks})
        for pooling, bank in train.feats.items():
            votes = self.votes(val.feats[pooling], bank, train.labels, ks, classes)  # k S Q
            for k, scores in zip(ks, votes, strict=True):
                top1 = (scores.argmax(-1) == val.labels).double().mean().item()
                grid.append({"pooling": pooling, "dim": bank.shape[1], "k": k, "val/top1": top1})
        best = max(grid, key=rank)
        pooling = best["pooling"]
        votes = self.votes(test.feats[pooling], train.feats[pooling], train.labels, [best["k"]], classes)
        return result(votes[0], test.labels, best, grid)

    def votes(
        self,
        queries: Float[Tensor, "S D"],
        bank: Float[Tensor, "N D"],
        y: Int[Tensor, "N"],
        ks: list[int],
        classes: int,
    ) -> Float[Tensor, "k S Q"]:
        out = torch.zeros(len(ks), len(queries), classes)
        for start in range(0, len(queries), CHUNK):
            near, index = neighbours(queries[start : start + CHUNK], bank, max(ks))
            weight, label = (near / self.temperature).exp(), y[index]  # S k
            for i, k in enumerate(ks):
                out[i, start : start + CHUNK].scatter_add_(1, label[:, :k], weight[:, :k])
        return out


def neighbours(
    queries: Float[Tensor, "S D"], bank: Float[Tensor, "N D"], k: int
) -> tuple[Float[Tensor, "S k"], Int[Tensor, "S k"]]:
    """Cosines and rows of the k nearest, nearest first."""
    similarity = F.normalize(queries.float(), dim=1) @ F.normalize(bank.float(), dim=1).T
    return similarity.topk(k, dim=1)


def rank(setting: Setting) -> tuple[float | int, ...]:
    """Best on val; among equals the narrower, then the one that asks more neighbours."""
    return setting["val/top1"], -setting["dim"], setting["k"]
