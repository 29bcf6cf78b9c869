"""Where in a long video is each sentence seen, and which are not seen at all? HTM-Align, on stored features.

Recall@1 of those that are, over the sentences of all test videos, and ROC-AUC of which they are: see
benchmarks.metrics.htm_align. `aligner`: a run of tan; without one the encoder's own text side is asked,
second by second. The data set brings the features, and the command's encoder is the one that made them.
"""

import copy
import math
from collections.abc import Sequence
from types import MethodType
from typing import cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from benchmarks.alignment.aligner import open_aligner, same_features
from benchmarks.features.bench import Bench
from benchmarks.features.stored import Asked, by_text, model_of
from benchmarks.features.text_side import unlearnt
from benchmarks.metrics.htm_align import Method, Model, evaluate, given_times
from benchmarks.metrics.moving_windows import HTM_WINDOW
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Task, group_numbers, share
from ssvid.data.datasets.htm_align import Spoken, annotation_file, load_annotation
from ssvid.data.store import find_card, read_features
from ssvid.errors import UserError
from ssvid.registry import tasks
from ssvid.statistics import Measure

TIMES = "timestamps"  # the row of the narration's own times


@tasks.register("htm_align")
class HTMAlign(Task):
    metric = "recall1"
    kind = "narrations"

    def __init__(
        self,
        probe: Probe | None = None,
        *,
        aligner: str
        | None = None,  # run or published file of tan; null: the encoder's own text side
        words: str | None = None,  # the list of words of a published aligner, beside its file
        method: Method = "overlap-seq",  # how the scores of overlapping windows become one
        head: bool | None = None,  # alignability by the aligner's head; null: where it has one
        annotation: str
        | None = None,  # true times, in HTM-Align's form; null: htm_align.json by the data set
        narrated: bool = False,  # the data set's sentences have the narrator's times: how right are those?
    ) -> None:
        if probe is not None:
            raise UserError("htm_align takes no probe: nothing is trained.")
        by = open_aligner(aligner, words=words) if aligner else None
        self._by, self._ask = by, by.ask if by else None
        self.aligner = by.hash if by else None  # not its path: a result is of these weights
        self.method, self.head, self.annotation, self.narrated = method, head, annotation, narrated
        self.joint = by is None
        self.rows = ("encoder", "random", TIMES) if narrated else ("encoder", "random")

    def answer(self, bench: Bench, source: str) -> Answer:
        rows, said = self.asked(bench)
        if self._by is not None:
            for at in rows.values():
                path = bench.data.root / bench.data.rows[at].features
                same_features(self._by, (find_card(path) or {}).get("hash"), str(path))
        row = source.partition(":")[0]
        if row == TIMES:
            found = {video: given(bench, rows[video], said[video]) for video in said}
            return Answer(None, None, {"auc": 0.5}, measured(bench, rows, said, found))
        ask = self.aligned_by(bench, row)
        lengths = {video: seconds_of(bench, at) for video, at in rows.items()}
        model = model_of(ask, bench.data, rows, said)
        head = self.head if self.head is not None else has_head(model, lengths)
        got = evaluate(said, lengths, model, method=self.method, head=head)
        reached = {video: torch.zeros(len(of), dtype=torch.bool) for video, of in said.items()}
        for video, calls in got["calls"].items():
            for _, _, first, last in calls:
                reached[video][first : last + 1] = True
        more = {
            "auc": got["auc"],
            "by_head": head,
            "videos": len(said),
            "sentences": sum(map(len, said.values())),
            "alignable": sum(one.alignable for of in said.values() for one in of),
            "never_asked": sum(
                int((~of).sum()) for of in reached.values()
            ),  # no window of theirs: counted as wrong
        }
        return Answer(None, None, more, measured(bench, rows, said, got["found"]))

    def asked(self, bench: Bench) -> tuple[dict[str, int], dict[str, list[Spoken]]]:
        """Test videos of which the true times are known: row and sentences of each."""
        file = annotation_file(bench.data.root, self.annotation)
        known = load_annotation(file)
        rows = {bench.data.video_id(row): row for row in bench.splits["test"]}
        said = {video: known[video] for video in rows if known.get(video)}
        if not any(one.alignable for of in said.values() for one in of):
            raise UserError(
                f"{file} has no alignable sentence of a test video that has features: there is nothing to find."
            )
        return {video: rows[video] for video in said}, said

    def aligned_by(self, bench: Bench, row: str) -> Asked:
        """The aligner, or the same with nothing learnt."""
        ask = self._ask
        if ask is None:
            assert bench.text is not None, "a task that reads :joint"
            return by_text(bench.text if row == "encoder" else bench.text.unlearnt(bench.seed))
        return ask if row == "encoder" else nothing_learnt(ask, bench.seed)

    def chance(self, bench: Bench) -> float:
        """A second drawn blindly: the share of its video that counts as right, on average over alignable sentences."""
        rows, said = self.asked(bench)
        shares = []
        for video, of in said.items():
            length = seconds_of(bench, rows[video])
            shares += [seconds_right(one, length) / length for one in of if one.alignable]
        return sum(shares) / len(shares)


def nothing_learnt(ask: Asked, seed: int) -> Asked:
    """A copy of the net whose method this is, with its weights in disorder."""
    other = copy.deepcopy(ask)
    unlearnt(cast(nn.Module, cast(MethodType, other).__self__), seed)
    return other


def seconds_of(bench: Bench, row: int) -> int:
    return len(read_features(bench.data.root / bench.data.rows[row].features))


def has_head(model: Model, lengths: dict[str, int]) -> bool:
    video, length = next(iter(lengths.items()))
    return model(video, 0, min(HTM_WINDOW, length), [0]).alignable is not None


def given(bench: Bench, row: int, said: Sequence[Spoken]) -> Bool[Tensor, " K"]:
    heard = bench.data.rows[row].sentences
    if [text for *_, text in heard] != [one.text for one in said]:
        raise UserError(
            f"The sentences of {bench.data.rows[row].path} are not those of its true times, in their order: leave out "
            "`narrated`, which asks how right the times of the data set are."
        )
    return given_times(said, [span[:2] for span in heard])


def measured(
    bench: Bench,
    rows: dict[str, int],
    said: dict[str, list[Spoken]],
    found: dict[str, Bool[Tensor, " _"]],
) -> Measure:
    """Recall over the alignable sentences of all videos, as a function of how much each group of videos counts."""
    number = dict(zip(bench.splits["test"], group_numbers(bench).tolist(), strict=True))
    right, group = [], []
    for video, of in said.items():
        for one, hit in zip(of, found[video].tolist(), strict=True):
            if one.alignable:
                right.append(float(hit))
                group.append(number[rows[video]])
    return share(
        torch.tensor(right, dtype=torch.float64), torch.tensor(group), max(number.values()) + 1
    )


def seconds_right(one: Spoken, length: int) -> int:
    return max(0, min(math.ceil(one.end), length - 1) - math.floor(one.start) + 1)
