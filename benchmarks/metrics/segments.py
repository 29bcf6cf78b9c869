"""scores of a video's seconds -> segments of a class, and segments against true ones: temporal action localisation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Segment(NamedTuple):
    start: float  # s
    end: float
    score: float


def proposed(
    scores: np.ndarray, *, shares: Sequence[float], overlap: float, widen: float
) -> list[Segment]:
    """Runs of cells above each share of the highest score; of those that overlap more, the best.

    A run's score is its mean less the mean of the cells around it, `widen` of its length on either side (the
    outer-inner contrast of AutoLoc, Shou et al. 2018); where there are none around it, nothing is taken off.
    """
    runs = {run for share in shares for run in above(scores, share * float(scores.max()))}
    total = np.concatenate([[0.0], scores.cumsum()])
    found = []
    for start, end in runs:
        margin = max(1, round(widen * (end - start)))
        low, high = max(0, start - margin), min(len(scores), end + margin)
        inside, around = total[end] - total[start], total[high] - total[low]
        outside = (around - inside) / max(1, high - low - (end - start))
        found.append(Segment(float(start), float(end), inside / (end - start) - outside))
    return apart(found, overlap)


def above(scores: np.ndarray, floor: float) -> list[tuple[int, int]]:
    """First cell and the one after the last, of each run of cells that reach the floor."""
    inside = np.concatenate([[0], (scores >= floor).astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(inside))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def apart(segments: Sequence[Segment], overlap: float) -> list[Segment]:
    """Best first, without those that overlap a better one more than that (non-maximum suppression)."""
    kept: list[Segment] = []
    for segment in sorted(segments, key=lambda s: (-s.score, s.start, s.end)):
        if all(iou(segment, other) <= overlap for other in kept):
            kept.append(segment)
    return kept


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Of two times: what they share over what they cover."""
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    covered = (a[1] - a[0]) + (b[1] - b[0]) - shared
    return shared / covered if covered > 0 else 0.0


def hits(
    found: Sequence[Segment], true: Sequence[tuple[float, float]], thresholds: Sequence[float]
) -> np.ndarray:
    """thresholds x found: right or not. The surest first takes the true one that it covers best and nobody has."""
    right = np.zeros((len(thresholds), len(found)), dtype=bool)
    order = sorted(range(len(found)), key=lambda i: -found[i].score)
    shared = np.array([[iou(segment, other) for other in true] for segment in found]).reshape(
        len(found), len(true)
    )
    for t, threshold in enumerate(thresholds):
        taken: set[int] = set()
        for i in order:
            for j in sorted(range(len(true)), key=lambda j: -shared[i, j]):
                if shared[i, j] >= threshold and j not in taken:
                    taken.add(j)
                    right[t, i] = True
                    break
    return right
