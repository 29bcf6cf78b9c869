"""CoCLR's nearest-neighbour retrieval: features of both splits -> similarities and R@k."""

import pytest
import torch

from benchmarks.probes.knn import find_neighbours
from benchmarks.tasks.retrieval import Retrieval, centre
from ssvid.shapes import Frozen
from tests.reference.cases import Case, assert_close

ARRAYS = {"test_feature", "test_label", "train_feature", "train_label", "sim"}


def recognises(case: Case) -> bool:
    return case.arrays.keys() == ARRAYS


def check(case: Case) -> None:
    """Each split is centred on its own mean; cosines; the k nearest."""
    test, train = (
        Frozen(
            {"mean@last": centre(case.arrays[f"{split}_feature"])},
            case.arrays[f"{split}_label"],
            [],
        )
        for split in ("test", "train")
    )
    near, index = find_neighbours(
        test.feats["mean@last"], train.feats["mean@last"], len(train.labels)
    )
    assert_close("sim", torch.zeros_like(near).scatter_(1, index, near), case.arrays["sim"], "unit")
    task = Retrieval(preset="coclr")
    place = task.rank_first_match(test, train, "mean@last")
    found = {f"R@{k}": (place < k).double().mean().item() for k in task.ks}
    assert found == pytest.approx(case.meta["recall"], abs=1e-6)
