"""Nearest neighbours: every k of our grid against one k by lightly's `knn_predict`."""

import torch.nn.functional as F
from lightly.utils.benchmarking import knn_predict
from torch import Tensor

from benchmarks.probes.knn import KNN
from benchmarks.profiling.speed.linear import CLASSES, TRAIN, VAL, split
from benchmarks.profiling.speed.pairs import Case


def knn(bank: int = TRAIN, queries: int = VAL) -> Case:
    """Both sides start from stored features and end with the class of each query."""
    train, val = split(bank, 1), split(queries, 2)
    x, q = train.feats["mean@last"], val.feats["mean@last"]
    ks = [min(k, bank) for k in KNN().ks]

    def ours() -> Tensor:
        return KNN().count_votes(q, x, train.labels, ks, CLASSES).argmax(-1)

    def theirs() -> Tensor:
        bank_vectors = F.normalize(x, dim=1).T
        return knn_predict(
            F.normalize(q, dim=1), bank_vectors, train.labels, CLASSES, knn_k=max(ks), knn_t=0.07
        )[:, 0]

    return Case(
        ours=ours,
        theirs=theirs,
        unit=f"CPU-seconds of {queries} queries; ours answers k = {ks}, theirs {max(ks)}",
    )
