"""scores of a video's seconds -> segments of a class, and their match with true segments.

This is temporal action localisation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Segment(NamedTuple):
    start: float  # s
    end: float
    score: float


def propose_segments(
    scores: np.ndarray, *, shares: Sequence[float], overlap: float, widen: float
) -> list[Segment]:
    """Runs of seconds above each share of the highest score, best first.

    A run's score is its mean less the mean of the seconds around it, `widen` of its length on
    either side (the outer-inner contrast of AutoLoc, Shou et al. 2018). Where nothing is around
    it, nothing is subtracted. Of two runs whose IoU is above `overlap` only the better stays.
    """
    runs = set()
    for share in shares:
        runs.update(find_runs(scores, share * float(scores.max())))
    total = np.concatenate([[0.0], scores.cumsum()])
    segments = []
    for start, end in runs:
        margin = max(1, round(widen * (end - start)))
        low, high = max(0, start - margin), min(len(scores), end + margin)
        inside, around = total[end] - total[start], total[high] - total[low]
        outside = (around - inside) / max(1, high - low - (end - start))
        segments.append(Segment(float(start), float(end), inside / (end - start) - outside))
    return suppress_overlaps(segments, overlap)


def find_runs(scores: np.ndarray, floor: float) -> list[tuple[int, int]]:
    """(first, one after the last) of each run of seconds whose scores reach the floor."""
    inside = np.concatenate([[0], (scores >= floor).astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(inside)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def suppress_overlaps(segments: Sequence[Segment], overlap: float) -> list[Segment]:
    """Non-maximum suppression: best first, without those that overlap a better one by more."""
    selected: list[Segment] = []
    for segment in sorted(segments, key=lambda s: (-s.score, s.start, s.end)):
        if all(compute_iou(segment, better) <= overlap for better in selected):
            selected.append(segment)
    return selected


def compute_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two spans of time (start, end)."""
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    covered = (a[1] - a[0]) + (b[1] - b[0]) - shared
    return shared / covered if covered > 0 else 0.0


def match_segments(
    segments: Sequence[Segment],
    true: Sequence[tuple[float, float]],
    thresholds: Sequence[float],
) -> np.ndarray:
    """Which segments are right, as a table thresholds x segments.

    Segments are matched in order of score, each to the true segment with the highest IoU that has
    no match yet.
    """
    correct = np.zeros((len(thresholds), len(segments)), dtype=bool)
    order = sorted(range(len(segments)), key=lambda i: -segments[i].score)
    iou = np.zeros((len(segments), len(true)))
    for i, segment in enumerate(segments):
        for j, span in enumerate(true):
            iou[i, j] = compute_iou(segment, span)
    for t, threshold in enumerate(thresholds):
        matched: set[int] = set()
        for i in order:
            for j in sorted(range(len(true)), key=lambda j: -iou[i, j]):
                if iou[i, j] >= threshold and j not in matched:
                    matched.add(j)
                    correct[t, i] = True
                    break
    return correct
