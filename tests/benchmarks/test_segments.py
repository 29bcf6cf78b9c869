"""Cells -> segments and segments against true ones, by hand."""

import numpy as np
import pytest

from benchmarks.metrics.segments import (
    Segment,
    compute_iou,
    find_runs,
    match_segments,
    propose_segments,
    suppress_overlaps,
)

SHARES = (0.25, 0.5, 0.75)


def test_runs_of_cells():
    assert find_runs(np.array([0.0, 1, 1, 0, 1]), 0.5) == [(1, 3), (4, 5)]
    assert find_runs(np.zeros(3), 0.0) == [(0, 3)] and find_runs(np.zeros(3), 0.1) == []


def test_a_clear_act_is_one_segment_and_its_score_the_contrast():
    segments = propose_segments(
        np.array([0.1, 0.1, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1]), shares=SHARES, overlap=0.6, widen=0.25
    )
    best = segments[0]
    assert (best.start, best.end) == (2.0, 6.0) and best.score == pytest.approx(0.9 - 0.1)
    whole = propose_segments(np.full(5, 0.4), shares=SHARES, overlap=0.6, widen=0.25)
    assert [(s.start, s.end) for s in whole] == [(0.0, 5.0)] and whole[0].score == pytest.approx(
        0.4
    )


def test_of_two_that_overlap_the_better_stays():
    a, b, c = Segment(0.0, 10.0, 0.5), Segment(1.0, 10.0, 0.9), Segment(20.0, 30.0, 0.1)
    assert suppress_overlaps([a, b, c], 0.6) == [b, c]
    assert suppress_overlaps([a, b, c], 0.95) == [b, a, c]


def test_the_iou():
    assert compute_iou((0.0, 10.0), (5.0, 15.0)) == pytest.approx(1 / 3)
    assert compute_iou((0.0, 1.0), (2.0, 3.0)) == 0 == compute_iou((1.0, 1.0), (1.0, 1.0))


def test_each_true_segment_is_found_once_by_the_surest():
    true = [(0.0, 10.0), (12.0, 20.0)]
    segments = [Segment(0.0, 9.0, 0.2), Segment(0.0, 10.0, 0.8), Segment(12.0, 17.0, 0.5)]
    segments.append(Segment(40.0, 50.0, 0.9))
    right = match_segments(segments, true, (0.5, 0.75))
    assert right.tolist() == [[False, True, True, False], [False, True, False, False]]
    assert match_segments(segments, [], (0.5,)).sum() == 0
    assert match_segments([], true, (0.5,)).shape == (1, 0)


def test_a_taken_one_leaves_the_next_best():
    """As in ActivityNet's code: a segment whose best true one is matched may match the next one."""
    true = [(0.0, 10.0), (1.0, 11.0)]
    right = match_segments([Segment(0.0, 10.0, 0.9), Segment(0.0, 10.5, 0.8)], true, (0.5,))
    assert right.all()
