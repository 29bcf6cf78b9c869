"""When does what happen? Scores of each second of frozen features -> segments, as ActivityNet scores them.

Mean average precision over classes at temporal IoU 0.5, 0.55, ..., 0.95, and their mean, which is the main number. The
probe learns single seconds; the segments come of its scores by rules, of which only the smoothing is chosen (on val).
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.metrics.ranking import Ranked, mean_over, ranked
from benchmarks.metrics.segments import hits, proposed
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Task, of_classes
from ssvid.errors import UserError
from ssvid.randomness import uniform
from ssvid.registry import tasks
from ssvid.shapes import Frozen
from ssvid.statistics import numbered

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))  # of temporal IoU
DRAWS = 3  # of scores by lot, for chance


@tasks.register("localisation")
class Localisation(Task):
    metric = "map"
    kind = "seconds"

    def __init__(
        self,
        probe: Probe,
        *,
        smooth: tuple[int, ...] = (1, 3, 5),  # seconds that are averaged, odd; the best on val
        shares: tuple[float, ...] = (
            0.1,
            0.2,
            0.3,
            0.4,
            0.5,
            0.6,
            0.7,
            0.8,
            0.9,
        ),  # of a video's highest score
        overlap: float = 0.6,  # temporal IoU above which only the better of two segments stays
        widen: float = 0.25,  # of a segment's length: what is around it
        classes: int = 20,  # of a video: those of its highest scores
    ) -> None:
        if (
            not smooth
            or any(width < 1 or width % 2 == 0 for width in smooth)
            or classes < 1
            or not shares
        ):
            raise UserError(
                "localisation: smooth holds odd numbers, classes and shares are one or more."
            )
        self._probe, self.smooth, self.shares = probe, tuple(smooth), tuple(shares)
        self.overlap, self.widen, self.classes = overlap, widen, classes

    def answer(self, bench: Bench, source: str) -> Answer:
        train, val, test = (bench.frozen(source, split) for split in ("train", "val", "test"))
        got = self.get_probe(source).run(
            train, val, joined(val, test), bench.seed
        )  # scores of val choose the smoothing
        on_val, on_test = got.scores.sigmoid().split((len(val.labels), len(test.labels)))
        widths = {width: average(self.lists(bench, "val", on_val, width)) for width in self.smooth}
        width = max(widths, key=lambda width: (widths[width], -width))
        lists = self.lists(bench, "test", on_test, width)
        more = {
            **{
                f"map_{round(100 * t)}": whole(lists[i])
                for i, t in enumerate(THRESHOLDS)
                if t in (0.5, 0.75, 0.95)
            },
            "val_map": widths[width],
            "chosen": {**got.chosen, "smooth": width},
            "grid": got.grid,
        }
        every = [one for of_threshold in lists for one in of_threshold]
        values = [of_classes(bench, of_threshold, interpolated=True) for of_threshold in lists]
        per_class = {name: mean([of[name] for of in values]) for name in values[0]}
        return Answer(None, None, more, mean_over(every, interpolated=True), per_class)

    def lists(self, bench: Bench, split: str, scores: Tensor, smooth: int) -> list[list[Ranked]]:
        """threshold x class: all segments of all videos of a split."""
        videos = dict(by_video(bench, split))
        group = dict(zip(videos, numbered([bench.data.groups[row] for row in videos]), strict=True))
        found: dict[int, list[tuple[float, int, np.ndarray]]] = defaultdict(
            list
        )  # class -> score, group, hits
        wanted = torch.zeros(len(bench.data.classes), max(group.values()) + 1, dtype=torch.float64)
        ids = {name: q for q, name in enumerate(bench.data.classes)}
        for row, cells in videos.items():
            true: dict[int, list[tuple[float, float]]] = defaultdict(list)
            for start, end, name in bench.data.rows[row].segments:
                true[ids[name]].append((start, end))
                wanted[ids[name], group[row]] += 1
            table = smoothed(scores[cells], smooth).numpy()  # cells Q
            for q in (-table.max(0)).argsort(kind="stable")[: self.classes].tolist():
                made = proposed(
                    table[:, q], shares=self.shares, overlap=self.overlap, widen=self.widen
                )
                right = hits(made, true[q], THRESHOLDS)
                found[q] += [
                    (segment.score, group[row], right[:, i]) for i, segment in enumerate(made)
                ]
        return [
            [as_ranked(found[q], t, wanted[q]) for q in ids.values()]
            for t in range(len(THRESHOLDS))
        ]

    def chance(self, bench: Bench) -> float:
        """What seconds scored by lot get, on average of DRAWS."""
        seconds = torch.arange(len(bench.splits["test"]))
        lots = [
            uniform(bench.seed, "localisation", n, seconds, len(bench.data.classes))
            for n in range(DRAWS)
        ]
        return (
            sum(average(self.lists(bench, "test", scores, self.smooth[0])) for scores in lots)
            / DRAWS
        )


def joined(a: Frozen, b: Frozen) -> Frozen:
    feats = {pooling: torch.cat([a.feats[pooling], b.feats[pooling]]) for pooling in a.feats}
    return Frozen(feats, torch.cat([a.labels, b.labels]), a.groups + b.groups)


def by_video(bench: Bench, split: str) -> Iterator[tuple[int, list[int]]]:
    """Row of each video, and places of its seconds among the units of the split, in order."""
    cells: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for place, unit in enumerate(bench.splits[split]):
        cells[bench.row[unit]].append((bench.at[unit][0], place))
    return ((row, [place for _, place in sorted(own)]) for row, own in cells.items())


def smoothed(scores: Tensor, width: int) -> Tensor:
    """Mean over `width` seconds, fewer at the ends."""
    return F.avg_pool1d(scores.T, width, stride=1, padding=width // 2, count_include_pad=False).T


def as_ranked(found: list[tuple[float, int, np.ndarray]], threshold: int, wanted: Tensor) -> Ranked:
    scores = torch.tensor([score for score, _, _ in found], dtype=torch.float64)
    group = torch.tensor([group for _, group, _ in found], dtype=torch.int64)
    return ranked(
        scores, torch.tensor([bool(hit[threshold]) for _, _, hit in found]), group, wanted
    )


def whole(lists: list[Ranked]) -> float:
    one = torch.ones(1, len(lists[0].wanted), dtype=torch.float64)
    return mean_over(lists, interpolated=True)(one).item()


def average(lists: list[list[Ranked]]) -> float:
    """Over thresholds."""
    return sum(map(whole, lists)) / len(lists)


def mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
