"""Average precision against scikit-learn and against a plain reading of its definition.

Ties and weights are covered.
"""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from benchmarks.metrics.ranking import (
    average_precision,
    mean_average_precision,
    mean_over,
    rank_answers,
    rank_table,
)
from tests.helpers import for_each

ONE = torch.ones(1, 1, dtype=torch.float64)


def draw_answers(seed: int, n: int = 60, classes: int = 5):
    draw = torch.Generator().manual_seed(seed)
    scores = (torch.randn(n, classes, generator=draw) * 3).round() / 3  # ties
    return scores, torch.rand(n, classes, generator=draw) < 0.3, torch.arange(n) % 7


@for_each("seed", range(4))
def test_as_scikit_learn_has_it(seed: int):
    scores, labels, _ = draw_answers(seed)
    labels[:, 4] = False  # a class that is not there counts for nothing
    by_class = [average_precision_score(labels[:, q], scores[:, q]) for q in range(4)]
    assert mean_average_precision(scores, labels) == pytest.approx(np.mean(by_class), abs=1e-12)


@for_each("interpolated", [False, True])
def test_a_weight_of_two_is_two_of_each(interpolated: bool):
    scores, labels, group = draw_answers(9)
    times = torch.tensor([2, 0, 1, 3, 1, 1, 0])
    rows = torch.arange(len(scores)).repeat_interleave(times[group])
    ours = mean_over(rank_table(scores, labels, group), interpolated)(times[None].double())
    plain = mean_over(
        rank_table(scores[rows], labels[rows], torch.zeros(len(rows), dtype=torch.int64)),
        interpolated,
    )(ONE)
    torch.testing.assert_close(ours, plain)


def plain_interpolated(scores, hit, positives: int) -> float:
    """PASCAL VOC's area: at each recall that is reached, the best precision from there on."""
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(hit[order])
    precision, recall = right / np.arange(1, len(order) + 1), right / positives
    total, before = 0.0, 0.0
    for i in range(len(order)):
        total += (recall[i] - before) * precision[i:].max()
        before = recall[i]
    return total


@for_each("seed", range(4))
def test_interpolated_as_pascal_voc(seed: int):
    draw = torch.Generator().manual_seed(seed)
    scores, hit = torch.randn(50, generator=draw), torch.rand(50, generator=draw) < 0.4
    positives = int(hit.sum()) + 7  # seven were never found
    answers = rank_answers(
        scores, hit, torch.zeros(50, dtype=torch.int64), torch.tensor([float(positives)])
    )
    ours = average_precision(answers, ONE, interpolated=True).item()
    assert ours == pytest.approx(
        plain_interpolated(scores.numpy(), hit.numpy(), positives), abs=1e-12
    )


def test_equal_scores_have_no_order():
    """All scores alike: the share of right ones, wherever they stand in the list."""
    for first in (True, False):
        hit = torch.tensor([first] * 3 + [not first] * 3)
        answers = rank_answers(
            torch.zeros(6), hit, torch.zeros(6, dtype=torch.int64), torch.tensor([3.0])
        )
        assert (
            average_precision(answers, ONE).item()
            == average_precision(answers, ONE, True).item()
            == 0.5
        )


def test_nothing_found_and_nothing_wanted():
    none = torch.zeros(0, dtype=torch.int64)
    missed = rank_answers(torch.zeros(0), none.bool(), none, torch.tensor([2.0]))
    absent = rank_answers(torch.zeros(0), none.bool(), none, torch.tensor([0.0]))
    assert (
        average_precision(missed, ONE).item() == 0 and average_precision(absent, ONE).isnan().item()
    )
    assert mean_over([missed, absent])(ONE).item() == 0
