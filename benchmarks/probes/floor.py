"""The floor: what plain descriptors of pixels reach by the best of several probes.

A score above a weak floor says little. Therefore linear, nearest neighbours and a small perceptron
are run on every descriptor, and val takes the best. It is the same number in all cells of the same
clips, whatever their own probe is.
"""

from typing import Any

from benchmarks.probes.base import Probe, ProbeResult, Setting, read_val_score
from ssvid import registry
from ssvid.registry import probes
from ssvid.shapes import Frozen

MEMBERS = ("linear", "knn", "perceptron")  # among equals on val the first is taken


@probes.register("floor")
class Floor(Probe):
    multi_label = True

    def __init__(self) -> None:
        self.members = MEMBERS

    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        """The answers of the probe that is best on val; those of the others are thrown away."""
        best: tuple[str, ProbeResult] | None = None
        grid: list[Setting] = []
        val_scores: dict[str, float] = {}
        for name in self.members:
            probe = create_member(name)
            if train.labels.ndim == 2 and not probe.multi_label:
                continue
            result = probe.run(train, val, test, seed)
            grid += [{"probe": name, **setting} for setting in result.grid]
            val_scores[name] = read_val_score(result.chosen)
            if best is None or val_scores[name] > val_scores[best[0]]:
                best = name, result
        assert best is not None, "linear takes every kind of labels"
        name, result = best
        chosen = {"probe": name, **result.chosen, "val_scores": val_scores}
        return result._replace(chosen=chosen, grid=grid)

    def refit(self, train: Frozen, test: Frozen, chosen: Setting, seed: int) -> ProbeResult:
        return create_member(chosen["probe"]).refit(train, test, chosen, seed)


def create_member(name: str) -> Probe:
    entry: Any = registry.probes[name]
    probe: Probe = entry()
    return probe
