"""Nearest-neighbour retrieval: test clips are queries, train clips are the bank.

A query counts as right if one of its k nearest bank clips has its class, as MemDPC and CoCLR report
it (R@1, 5, 10, 20, 50; cosine, no training). Features are centred on the mean of train, because
what all clips have in common makes all cosines alike. The pooling is chosen by R@1 of val queries.
Preset `coclr` is CoCLR's own test: unit features of overlapping windows, averaged over each video,
queries and bank each centred on their own mean. An encoder has one pooling there (mean of the last
layer), so val chooses nothing.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe, ProbeResult, check_splits
from benchmarks.probes.knn import find_neighbours
from benchmarks.tasks.base import Answer, Row, Task, mark_correct
from benchmarks.tasks.film_strips import draw_strips
from benchmarks.tasks.frozen import join_splits
from ssvid.errors import UserError, check_positive
from ssvid.registry import tasks
from ssvid.shapes import Frozen

CHUNK = 1024  # queries at once
JOINED = "all"  # the name of the features that are compared, of one encoder or of several
Splits = tuple[str, ...]
TEST: Splits = ("test",)
BANKS: dict[str, Splits] = {
    "house": ("train",),
    # The published train split: val is a part of it, and chooses nothing there.
    "coclr": ("train", "val"),
}


@tasks.register("retrieval")
class Retrieval(Task):
    metric = "recall1"
    fuses_encoders = True

    def __init__(
        self,
        probe: Probe | None = None,
        *,
        # house: the clips that the user chooses, train alone is the bank
        preset: Literal["house", "coclr"] = "house",
        ks: tuple[int, ...] = (1, 5, 10, 20, 50),  # right if one of the k nearest has the class
    ) -> None:
        if probe is not None:
            raise UserError("retrieval takes no probe: nothing is trained.")
        check_positive(ks=min(ks, default=0))
        self.ks, self._bank = tuple(ks), BANKS[preset]
        if preset == "house":
            self.centred = True  # in the hash: results from before are not compared with these
        else:
            self.preset, self.kind = preset, "windows"

    def answer(self, bench: Bench, source: str) -> Answer:
        """Of pixels the floor: the share of test clips that it names rightly, beside R@1."""
        if source.startswith("pixels"):
            return self.answer_floor(bench, source)
        choices = [self.choose_pooling(stream, source) for stream in bench.streams]
        poolings = [choice["chosen"]["pooling"] for choice in choices]
        # On folds val answers too once it has chosen.
        bank_splits = ("train", "val") if bench.refits else self._bank
        bank = self.join_streams(bench, source, bank_splits, poolings)
        test = self.join_streams(bench, source, TEST, poolings)
        rank = self.rank_first_match(test, bank, JOINED)
        _, nearest = find_neighbours(test.feats[JOINED], bank.feats[JOINED], 1)
        details: Row = {f"recall{k}": (rank < k).double().mean().item() for k in self.ks}
        details |= choices[0] if len(choices) == 1 else {"streams": choices}
        return Answer((rank < 1).double(), bank.labels[nearest[:, 0]], details)

    def answer_floor(self, bench: Bench, source: str) -> Answer:
        """Clips are read as other tasks read them, so that the number is the same.

        Of several encoders the probabilities of their floors are averaged.
        """
        scores, described = [], []
        warnings: list[str] = []
        for stream in bench.streams:
            result = self.probe_floor(stream._replace(seed=bench.seed), source)
            scores.append(result.scores.softmax(-1))
            described.append({"val_top1": result.metrics["val/top1"], "chosen": result.chosen})
            warnings += result.warnings
        predictions = torch.stack(scores).mean(0).argmax(-1)
        details: Row = described[0] if len(described) == 1 else {"streams": described}
        correct = mark_correct(predictions, bench.labels[bench.index_videos("test")[0]])
        return Answer(correct, predictions, {**details, "warnings": warnings})

    def probe_floor(self, bench: Bench, source: str) -> ProbeResult:
        train, val, test = bench.get_splits(source)
        if self.kind != "clips":
            train = self.get_video_features(bench, source, ("train",))
            val = self.get_video_features(bench, source, ("val",))
            test = self.get_video_features(bench, source, TEST)
        return self.run_probe(bench, source, train, val, test)

    def choose_pooling(self, bench: Bench, source: str) -> Row:
        """The pooling of one encoder, by R@1 of val queries among train."""
        train = self.get_video_features(bench, source, ("train",))
        val = self.get_video_features(bench, source, ("val",))
        test = self.get_video_features(bench, source, TEST)
        check_splits(train, val, test)
        recall = {}
        for pooling in train.feats:
            rank = self.rank_first_match(val, train, pooling)
            recall[pooling] = (rank < 1).double().mean().item()
        best = max(recall, key=lambda pooling: (recall[pooling], -train.feats[pooling].shape[1]))
        return {"val_recall1": recall[best], "chosen": {"pooling": best}}

    def rank_first_match(self, queries: Frozen, bank: Frozen, pooling: str) -> Int[Tensor, " S"]:
        return rank_first_match(
            queries.feats[pooling], queries.labels, bank.feats[pooling], bank.labels, max(self.ks)
        )

    def join_streams(
        self, bench: Bench, source: str, splits: Splits, poolings: Sequence[str]
    ) -> Frozen:
        """The features of all encoders, under the name JOINED.

        Of several encoders they are unit features side by side: their cosine is the mean of the
        encoders' cosines.
        """
        first = self.get_video_features(bench.streams[0], source, splits)
        if len(bench.streams) == 1:
            return first._replace(feats={JOINED: first.feats[poolings[0]]})
        units = []
        for stream, pooling in zip(bench.streams, poolings, strict=True):
            feats = self.get_video_features(stream, source, splits).feats[pooling]
            units.append(F.normalize(feats.float(), dim=1))
        return first._replace(feats={JOINED: torch.cat(units, dim=1)})

    def get_video_features(self, bench: Bench, source: str, splits: Splits) -> Frozen:
        """One row of features for each video of the splits."""
        frozen = [bench.get_frozen(source, split) for split in splits]
        if self.kind == "clips":
            joined = join_splits(frozen)
            train = bench.get_frozen(source, "train").feats
            centred = {}
            for pooling, table in joined.feats.items():
                centred[pooling] = table.float() - train[pooling].float().mean(0)
            return joined._replace(feats=centred)
        videos = []
        for windows, split in zip(frozen, splits, strict=True):
            videos.append(average_windows(windows, bench.index_videos(split)[1]))
        joined = join_splits(videos)
        for pooling, feats in joined.feats.items():
            joined.feats[pooling] = centre(feats)
        return joined

    def visualize(self, bench: Bench, answer: Answer) -> Row:
        """Test clips beside their nearest train clips."""
        assert answer.predictions is not None
        streams = answer.details.get("streams", [answer.details])
        poolings = [stream["chosen"]["pooling"] for stream in streams]
        rows, tables = {}, {}
        for splits in (self._bank, TEST):
            rows[splits] = [bench.row_of_unit[unit] for unit in list_videos(bench, splits)]
            joined = self.join_streams(bench, "encoder", splits, poolings)
            tables[splits] = joined.feats[JOINED].float()
        feats = tables[TEST].new_zeros(len(bench.data), tables[TEST].shape[1])
        for splits, table in tables.items():
            feats[rows[splits]] = table
        bank_rows, test_rows = rows[self._bank], rows[TEST]
        strips = draw_strips(
            bench.data, bench.spec, feats, bank_rows, test_rows, answer.predictions
        )
        return {"strips": strips}

    def chance(self, bench: Bench) -> float:
        """How often a clip drawn blindly from the bank has the query's class."""
        bank = bench.labels[list_videos(bench, self._bank)]
        test = bench.labels[list_videos(bench, TEST)]
        share = bank.bincount(minlength=len(bench.data.classes)).double() / len(bank)
        return share[test].mean().item()


def list_videos(bench: Bench, splits: Splits) -> list[int]:
    """The first unit of each video of the splits."""
    units: list[int] = []
    for split in splits:
        units += bench.index_videos(split)[0]
    return units


def average_windows(windows: Frozen, video_of_window: Int[Tensor, " W"]) -> Frozen:
    """Unit features of windows, averaged over each video. The averages are shorter than 1."""
    count = video_of_window.bincount()
    averages = {}
    for pooling, feats in windows.feats.items():
        total = torch.zeros(len(count), feats.shape[1])
        total = total.index_add_(0, video_of_window, F.normalize(feats.float(), dim=1))
        averages[pooling] = total / count[:, None]
    labels = windows.labels.new_zeros(len(count)).scatter_(0, video_of_window, windows.labels)
    groups = dict(zip(video_of_window.tolist(), windows.groups, strict=True))
    return Frozen(averages, labels, [groups[video] for video in range(len(count))])


def centre(feats: Float[Tensor, "S D"]) -> Float[Tensor, "S D"]:
    return feats - feats.mean(0)


def rank_first_match(
    queries: Float[Tensor, "S D"],
    query_labels: Int[Tensor, " S"],
    bank: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    k: int,
) -> Int[Tensor, " S"]:
    """The rank, from 0, of the nearest bank row that has the query's class.

    It is k where none of the k nearest has it.
    """
    ranks = []
    for start in range(0, len(queries), CHUNK):
        _, index = find_neighbours(queries[start : start + CHUNK], bank, min(k, len(bank)))
        matches = labels[index] == query_labels[start : start + CHUNK, None]  # S k
        ranks.append(torch.where(matches.any(1), matches.int().argmax(1), k))
    return torch.cat(ranks)
