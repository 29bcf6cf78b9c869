"""k nearest neighbours by cosine, with votes weighted by exp(similarity / T).

k and the pooling are chosen on val; test is read once. Preset `house` centres features on the mean
of train, and val also chooses how many dominant directions are taken away: without that one
direction of large variance makes all cosines alike. Published presets do neither.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.probes.base import Probe, ProbeResult, Setting, check_splits, make_result
from benchmarks.probes.directions import Centring, limit_directions
from benchmarks.probes.grids import GROWTHS, describe_edge, find_next_value
from ssvid.errors import UserError, check_positive
from ssvid.registry import probes
from ssvid.shapes import Frozen

CHUNK = 1024  # queries at once
# Rows of train at once. A large train split may therefore be float16 and memory-mapped.
BANK = 2**14
Change = Callable[[Tensor], Tensor]  # of features, before they are compared


PRESETS: dict[str, tuple[int, ...]] = {
    "house": (1, 5, 10, 20, 50, 200),
    "wu2018": (200,),  # arXiv:1805.01978
    # arXiv:2104.14294, which reports the best of them on its test; here val chooses.
    "dino": (10, 20, 100, 200),
}
DIRECTIONS = (0, 1, 2, 4, 8)  # dominant ones that preset house takes away; val chooses


def keep_features(feats: Tensor) -> Tensor:
    return feats.float()


@probes.register("knn")
class KNN(Probe):
    def __init__(
        self,
        *,
        preset: str = "house",  # house | wu2018 | dino
        # numbers of neighbours, instead of the preset's; above the size of train it means all
        ks: tuple[int, ...] | None = None,
        temperature: float = 0.07,  # the same in all three presets
    ) -> None:
        if preset not in PRESETS:
            raise UserError(
                f"There is no preset {preset!r} of the knn probe; there are {', '.join(PRESETS)}."
            )
        self.preset, self.temperature = preset, temperature
        self.ks = PRESETS[preset] if ks is None else tuple(ks)
        if preset == "house":  # published presets keep the hash that they had before
            self.directions = DIRECTIONS
        check_positive(ks=min(self.ks, default=0))

    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        """This probe draws nothing, so it does not use `seed`."""
        classes = check_splits(train, val, test)
        grid: list[Setting] = []
        ks = sorted({min(k, len(train.labels)) for k in self.ks})
        for pooling in train.feats:
            grid += self.try_ks(train, val, pooling, ks, classes)
        best = max(grid, key=rank_setting)
        for _ in range(GROWTHS if self.preset == "house" else 0):
            k = find_larger_k(grid, best, len(train.labels))
            if k is None:
                break
            grid += self.try_ks(train, val, best["pooling"], [k], classes)
            best = max(grid, key=rank_setting)
        at_end = find_larger_k(grid, best, len(train.labels)) is not None
        warnings = describe_edge(grid, best, "k") if at_end else []
        return self.refit(train, test, best, seed)._replace(grid=grid, warnings=warnings)

    def refit(self, train: Frozen, test: Frozen, chosen: Setting, seed: int) -> ProbeResult:
        classes = check_splits(train, None, test)
        bank, k = train.feats[chosen["pooling"]], min(chosen["k"], len(train.labels))
        change = self.list_changes(bank)[chosen["directions"]]
        queries = test.feats[chosen["pooling"]]
        votes = self.count_votes(queries, bank, train.labels, [k], classes, change)
        share = votes[0] / votes[0].sum(1, keepdim=True)
        return make_result(share.clamp_min(1e-12).log(), test.labels, chosen, [chosen])

    def try_ks(
        self, train: Frozen, val: Frozen, pooling: str, ks: list[int], classes: int
    ) -> list[Setting]:
        """The settings of some k and every number of directions, with their scores on val."""
        grid: list[Setting] = []
        bank, queries = train.feats[pooling], val.feats[pooling]
        for count, change in self.list_changes(bank).items():
            votes = self.count_votes(queries, bank, train.labels, ks, classes, change)  # k S Q
            for k, scores in zip(ks, votes, strict=True):
                top1 = (scores.argmax(-1) == val.labels).double().mean().item()
                setting = {"pooling": pooling, "dim": bank.shape[1], "directions": count, "k": k}
                grid.append({**setting, "val/top1": top1})
        return grid

    def list_changes(self, bank: Float[Tensor, "N D"]) -> dict[int, Change]:
        """Number of directions -> the function that takes them away."""
        if self.preset != "house":
            return {0: keep_features}
        centring = Centring(bank)
        changes: dict[int, Change] = {}
        for count in self.directions:
            if count <= limit_directions(bank):
                changes[count] = partial(centring.take_away, count)
        return changes

    def count_votes(
        self,
        queries: Float[Tensor, "S D"],
        bank: Float[Tensor, "N D"],
        y: Int[Tensor, " N"],
        ks: list[int],
        classes: int,
        change: Change = keep_features,
    ) -> Float[Tensor, "k S Q"]:
        """For each k the weighted votes of the k nearest rows of `bank`, whose classes are `y`."""
        votes = torch.zeros(len(ks), len(queries), classes)
        similarity, index = find_neighbours(queries, bank, max(ks), change)
        weight, label = (similarity / self.temperature).exp(), y[index]  # S k
        for i, k in enumerate(ks):
            votes[i].scatter_add_(1, label[:, :k], weight[:, :k])
        return votes


def find_larger_k(grid: list[Setting], chosen: Setting, rows: int) -> int | None:
    """The next k, where the choice is the largest and train has more rows, else None."""
    value = find_next_value(grid, chosen, "k")
    if value is None or value < chosen["k"] or chosen["k"] == rows:
        return None
    return min(round(value), rows)


def find_neighbours(
    queries: Float[Tensor, "S D"],
    bank: Float[Tensor, "N D"],
    k: int,
    change: Change = keep_features,
) -> tuple[Float[Tensor, "S k"], Int[Tensor, "S k"]]:
    """Cosines and rows of the k nearest rows of `bank`, nearest first, after a change of both."""
    starts = range(0, max(1, len(queries)), CHUNK)
    empty = queries.new_empty(0, dtype=torch.float32), torch.empty(0, dtype=torch.int64)
    nearest = [empty] * len(starts)
    for first in range(0, len(bank), BANK):
        unit = F.normalize(change(bank[first : first + BANK]), dim=1)
        for i, start in enumerate(starts):
            cosine = F.normalize(change(queries[start : start + CHUNK]), dim=1) @ unit.T
            similarity, index = cosine.topk(min(k, len(unit)), dim=1)
            if first:
                nearest[i] = merge_neighbours(*nearest[i], similarity, index + first, k)
            else:
                nearest[i] = similarity, index
    similarity, index = (torch.cat(column) for column in zip(*nearest, strict=True))
    return similarity, index


def merge_neighbours(
    similarity: Tensor, index: Tensor, new_similarity: Tensor, new_index: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k nearest of two lists of neighbours."""
    similarity = torch.cat([similarity, new_similarity], 1)
    index = torch.cat([index, new_index], 1)
    similarity, selected = similarity.topk(min(k, similarity.shape[1]), dim=1)
    return similarity, index.gather(1, selected)


def rank_setting(setting: Setting) -> tuple[float | int, ...]:
    """Best on val. Among equals the narrower feature, then fewer directions, then the larger k."""
    return setting["val/top1"], -setting["dim"], -setting["directions"], setting["k"]
