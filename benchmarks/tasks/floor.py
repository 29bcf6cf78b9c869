"""Bench -> what the floor of pixels answers, computed once for all tasks that ask the same."""

from benchmarks.features.bench import Bench
from benchmarks.probes.base import ProbeResult
from benchmarks.probes.floor import Floor
from ssvid.shapes import Frozen


def run_floor(bench: Bench, train: Frozen, val: Frozen, test: Frozen) -> ProbeResult:
    """The floor's answers to test; `train`, `val`, `test`: descriptors of pixels from this Bench.

    Tasks that ask for other answers (the order of frames) have other labels, and so a floor of
    their own. Folds have other clips, though their labels may be the same.
    """
    if bench.floors is None:
        return Floor().run(train, val, test, bench.seed)
    labels = [str(split.labels.tolist()) for split in (train, val, test)]
    key = bench.seed, str(bench.splits), *labels
    if key not in bench.floors:
        bench.floors[key] = Floor().run(train, val, test, bench.seed)
    result: ProbeResult = bench.floors[key]
    return result
