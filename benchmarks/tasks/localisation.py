"""Frozen features of each second -> segments of classes, scored as ActivityNet does.

The main number is the mean average precision over classes, averaged over temporal IoU 0.5, 0.55,
..., 0.95. The probe learns single seconds. Segments are made from its scores by fixed rules, of
which only the smoothing is chosen (on val).
"""

from collections import defaultdict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.metrics.ranking import Ranked, draw_lots, mean_over, rank_answers
from benchmarks.metrics.segments import Segment, match_segments, propose_segments
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Row, Task, list_class_precision
from benchmarks.tasks.frozen import join_splits
from ssvid.errors import UserError
from ssvid.registry import tasks
from ssvid.statistics import index_groups

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # of temporal IoU
REPORTED = (0.5, 0.75, 0.95)  # thresholds whose numbers are written too
LOTS = 3  # of random scores, for chance: segments are slow to rank


class Proposals(NamedTuple):
    """The segments that were proposed for one class, in all videos."""

    scores: list[float]
    groups: list[int]
    correct: list[list[bool]]  # of each segment, at each threshold

    def add(self, segment: Segment, group: int, correct: list[bool]) -> None:
        self.scores.append(segment.score)
        self.groups.append(group)
        self.correct.append(correct)


@tasks.register("localisation")
class Localisation(Task):
    metric = "map"
    kind = "seconds"

    def __init__(
        self,
        probe: Probe,
        *,
        smooth: tuple[int, ...] = (1, 3, 5),  # seconds that are averaged, odd; the best on val
        # of a video's highest score: the levels at which segments are cut out
        shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        overlap: float = 0.6,  # temporal IoU above which only the better of two segments stays
        widen: float = 0.25,  # of a segment's length: what counts as its surroundings
        classes: int = 20,  # of a video: those of its highest scores
    ) -> None:
        has_bad_width = any(width < 1 or width % 2 == 0 for width in smooth)
        if not smooth or has_bad_width or classes < 1 or not shares:
            raise UserError(
                "localisation: smooth holds odd numbers, classes and shares are one or more."
            )
        self._probe, self.smooth, self.shares = probe, tuple(smooth), tuple(shares)
        self.overlap, self.widen, self.classes = overlap, widen, classes

    def answer(self, bench: Bench, source: str) -> Answer:
        train, val, test = bench.get_splits(source)
        # The scores of val are needed too, because they choose the smoothing.
        both = join_splits([val, test])
        result = self.get_probe(source).run(train, val, both, bench.seed)
        sizes = len(val.labels), len(test.labels)
        val_scores, test_scores = result.scores.sigmoid().split(sizes)
        val_map = {}
        for width in self.smooth:
            val_map[width] = average_precision(self.rank_segments(bench, "val", val_scores, width))
        width = max(val_map, key=lambda width: (val_map[width], -width))
        lists = self.rank_segments(bench, "test", test_scores, width)
        details: Row = {}
        for threshold, ranked in zip(THRESHOLDS, lists, strict=True):
            if threshold in REPORTED:
                details[f"map_{round(100 * threshold)}"] = average_over_classes(ranked)
        details["val_map"] = val_map[width]
        details["chosen"] = {**result.chosen, "smooth": width}
        details["grid"], details["warnings"] = result.grid, result.warnings
        flat: list[Ranked] = sum(lists, [])
        measure = mean_over(flat, interpolated=True)
        return Answer(None, None, details, measure, average_class_precision(bench, lists))

    def rank_segments(
        self, bench: Bench, split: str, scores: Tensor, smooth: int
    ) -> list[list[Ranked]]:
        """threshold x class -> the ranking of all segments of all videos of a split.

        `scores`: seconds Q. `smooth`: seconds that are averaged.
        """
        videos = list_seconds_of_videos(bench, split)
        numbers = index_groups([bench.data.groups[row] for row in videos])
        group = dict(zip(videos, numbers, strict=True))
        classes = bench.data.classes
        proposals = [Proposals([], [], []) for _ in classes]
        wanted = torch.zeros(len(classes), max(group.values()) + 1, dtype=torch.float64)
        number_of_class = dict(zip(classes, range(len(classes)), strict=True))
        for row, seconds in videos.items():
            true: dict[int, list[tuple[float, float]]] = defaultdict(list)
            for start, end, name in bench.data.rows[row].segments:
                true[number_of_class[name]].append((start, end))
                wanted[number_of_class[name], group[row]] += 1
            table = smooth_scores(scores[seconds], smooth).numpy()  # seconds Q
            for q in (-table.max(0)).argsort(kind="stable")[: self.classes].tolist():
                segments = propose_segments(
                    table[:, q], shares=self.shares, overlap=self.overlap, widen=self.widen
                )
                correct = match_segments(segments, true[q], THRESHOLDS)
                for segment, of_segment in zip(segments, correct.T.tolist(), strict=True):
                    proposals[q].add(segment, group[row], of_segment)
        return [rank_classes(proposals, t, wanted) for t in range(len(THRESHOLDS))]

    def chance(self, bench: Bench) -> float:
        """What seconds with scores by lot get."""

        def score(lots: Tensor) -> float:
            return average_precision(self.rank_segments(bench, "test", lots, self.smooth[0]))

        shape = len(bench.splits["test"]), len(bench.data.classes)
        return draw_lots(score, shape, bench.seed, LOTS)


def list_seconds_of_videos(bench: Bench, split: str) -> dict[int, list[int]]:
    """Row of each video -> the indices of its seconds among the units of the split, in order."""
    seconds: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for index, unit in enumerate(bench.splits[split]):
        seconds[bench.row_of_unit[unit]].append((bench.position_of_unit[unit][0], index))
    videos = {}
    for row, timed in seconds.items():
        videos[row] = [index for _, index in sorted(timed)]
    return videos


def smooth_scores(scores: Tensor, width: int) -> Tensor:
    """The mean over `width` seconds, over fewer at the ends."""
    return F.avg_pool1d(scores.T, width, stride=1, padding=width // 2, count_include_pad=False).T


def rank_classes(proposals: list[Proposals], threshold: int, wanted: Tensor) -> list[Ranked]:
    """The ranking of each class. `threshold`: its index in THRESHOLDS. `wanted`: Q G."""
    columns = zip(proposals, wanted, strict=True)
    return [rank_proposals(of_class, threshold, row) for of_class, row in columns]


def rank_proposals(proposals: Proposals, threshold: int, wanted: Tensor) -> Ranked:
    hits = [of_segment[threshold] for of_segment in proposals.correct]
    return rank_answers(
        torch.tensor(proposals.scores, dtype=torch.float64),
        torch.tensor(hits, dtype=torch.bool),
        torch.tensor(proposals.groups, dtype=torch.int64),
        wanted,
    )


def average_over_classes(lists: list[Ranked]) -> float:
    """The mean average precision at one threshold."""
    equal_weights = torch.ones(1, len(lists[0].wanted), dtype=torch.float64)
    return mean_over(lists, interpolated=True)(equal_weights).item()


def average_precision(lists: list[list[Ranked]]) -> float:
    """The mean average precision, averaged over thresholds."""
    return sum(map(average_over_classes, lists)) / len(lists)


def average_class_precision(bench: Bench, lists: list[list[Ranked]]) -> dict[str, float | None]:
    """Class -> its average precision, averaged over thresholds; None where test has none of it."""
    values: dict[str, list[float]] = defaultdict(list)
    for ranked in lists:
        for name, value in list_class_precision(bench, ranked, interpolated=True).items():
            if value is not None:
                values[name].append(value)
    average: dict[str, float | None] = dict.fromkeys(bench.data.classes)
    for name, of_class in values.items():
        average[name] = sum(of_class) / len(of_class)
    return average
