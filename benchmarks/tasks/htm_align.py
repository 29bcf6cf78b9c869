"""Where in a long video is each sentence seen, and which are not seen at all? HTM-Align.

The task reads stored features. It reports Recall@1 of the alignable sentences of all test videos,
and the ROC-AUC of telling which sentences are alignable: see benchmarks.metrics.htm_align.
`aligner` is a run of tan; without one the encoder's own text side is compared with each second.
The data set brings the features, and the command's encoder is the one that made them.
"""

import copy
import math
from types import MethodType
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from benchmarks.alignment.aligner import check_same_features, open_aligner
from benchmarks.features.bench import Bench
from benchmarks.features.sources import SourceName
from benchmarks.features.stored import AlignWindow, make_text_aligner, make_window_model
from benchmarks.features.text_side import shuffle_weights
from benchmarks.metrics.htm_align import Method, Model, evaluate, mark_time_hits
from benchmarks.metrics.moving_windows import HTM_WINDOW
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Task, make_share_measure, number_groups
from ssvid.data.datasets.htm_align import Spoken, annotation_file, load_annotation
from ssvid.data.store import find_card, read_features
from ssvid.errors import UserError
from ssvid.registry import tasks
from ssvid.statistics import Measure

TIMES = "timestamps"  # the row of the narration's own times


class Question(NamedTuple):
    """The test videos whose true times are known, by video id."""

    rows: dict[str, int]  # of the manifest
    sentences: dict[str, list[Spoken]]

    def list_alignable(self) -> list[tuple[str, int, Spoken]]:
        """(video, number of the sentence in it, sentence) of every alignable sentence."""
        alignable = []
        for video, sentences in self.sentences.items():
            for number, sentence in enumerate(sentences):
                if sentence.alignable:
                    alignable.append((video, number, sentence))
        return alignable


@tasks.register("htm_align")
class HTMAlign(Task):
    metric = "recall1"
    kind = "narrations"

    def __init__(
        self,
        probe: Probe | None = None,
        *,
        aligner: str | None = None,  # run or published file of tan; null: the encoder's text side
        words: str | None = None,  # word list of a published aligner
        method: Method = "overlap-seq",  # how the scores of overlapping windows become one
        head: bool | None = None,  # use the aligner's alignability head; null: if it has one
        # true times, in HTM-Align's form; null: htm_align.json beside the data set
        annotation: str | None = None,
        # also score the times that the narrator's sentences have in the data set
        narrated: bool = False,
    ) -> None:
        if probe is not None:
            raise UserError("htm_align takes no probe: nothing is trained.")
        self._aligner = open_aligner(aligner, words=words) if aligner else None
        # The hash and not the path, because a result belongs to these weights.
        self.aligner = self._aligner.hash if self._aligner else None
        self.method, self.head, self.annotation, self.narrated = method, head, annotation, narrated
        self.joint = self._aligner is None
        self.rows = ("encoder", "random", TIMES) if narrated else ("encoder", "random")

    def answer(self, bench: Bench, source: str) -> Answer:
        question = self.read_question(bench)
        self.check_stored_features(bench, question)
        row = source.partition(":")[0]
        if row == TIMES:
            hits = {}
            for video in question.sentences:
                hits[video] = mark_narrated_times(bench, question, video)
            return Answer(None, None, {"auc": 0.5}, make_recall_measure(bench, question, hits))
        align_window = self.get_align_window(bench, row)
        lengths = {video: count_seconds(bench, row) for video, row in question.rows.items()}
        model = make_window_model(align_window, bench.data, question.rows, question.sentences)
        head = self.head if self.head is not None else has_head(model, lengths)
        scored = evaluate(question.sentences, lengths, model, method=self.method, head=head)
        details = {
            "auc": scored["auc"],
            "by_head": head,
            "videos": len(question.sentences),
            "sentences": sum(map(len, question.sentences.values())),
            "alignable": len(question.list_alignable()),
            # Sentences that no window holds. They count as wrong.
            "never_asked": count_sentences_without_window(question, scored["calls"]),
        }
        measure = make_recall_measure(bench, question, scored["found"])
        return Answer(None, None, details, measure)

    def read_question(self, bench: Bench) -> Question:
        """The test videos whose true times are known. Raises a UserError if there is none."""
        file = annotation_file(bench.data.root, self.annotation)
        annotation = load_annotation(file)
        row_of_video = {bench.data.video_id(row): row for row in bench.splits["test"]}
        rows, sentences = {}, {}
        for video, row in row_of_video.items():
            if annotation.get(video):
                rows[video], sentences[video] = row, annotation[video]
        question = Question(rows, sentences)
        if not question.list_alignable():
            raise UserError(
                f"{file} has no alignable sentence of a test video that has features: there is "
                "nothing to find."
            )
        return question

    def check_stored_features(self, bench: Bench, question: Question) -> None:
        """Raise a UserError where the aligner learnt from features of another encoder."""
        if self._aligner is None:
            return
        for row in question.rows.values():
            path = bench.data.root / bench.data.rows[row].features
            check_same_features(self._aligner, (find_card(path) or {}).get("hash"), str(path))

    def get_align_window(self, bench: Bench, row: str) -> AlignWindow:
        """The aligner; for a twin, the same network with nothing learnt.

        The number of the twin is the seed by which its weights are shuffled.
        """
        twin = SourceName.parse(row).twin
        if self._aligner is not None:
            align_window = self._aligner.align_window
            return align_window if twin is None else unlearn_aligner(align_window, twin)
        assert bench.text is not None, "a task that reads :joint"
        return make_text_aligner(bench.text if twin is None else bench.text.unlearn(twin))

    def chance(self, bench: Bench) -> float:
        """The score of a second drawn blindly.

        It is the share of a video that counts as right, averaged over alignable sentences.
        """
        question = self.read_question(bench)
        shares = []
        for video, _, sentence in question.list_alignable():
            length = count_seconds(bench, question.rows[video])
            shares.append(count_right_seconds(sentence, length) / length)
        return sum(shares) / len(shares)


def unlearn_aligner(align_window: AlignWindow, seed: int) -> AlignWindow:
    """The same method of a copy of its network, whose weights are shuffled."""
    unlearnt = copy.deepcopy(align_window)
    shuffle_weights(cast(nn.Module, cast(MethodType, unlearnt).__self__), seed)
    return unlearnt


def count_seconds(bench: Bench, row: int) -> int:
    return len(read_features(bench.data.root / bench.data.rows[row].features))


def has_head(model: Model, lengths: dict[str, int]) -> bool:
    """Whether the model tells alignability, tried on a window of the first video."""
    video, length = next(iter(lengths.items()))
    return model(video, 0, min(HTM_WINDOW, length), [0]).alignable is not None


def count_sentences_without_window(question: Question, calls: dict[str, Any]) -> int:
    count = 0
    for video, sentences in question.sentences.items():
        has_window = torch.zeros(len(sentences), dtype=torch.bool)
        for _, _, first, last in calls.get(video, ()):
            has_window[first : last + 1] = True
        count += int((~has_window).sum())
    return count


def mark_narrated_times(bench: Bench, question: Question, video: str) -> Bool[Tensor, " K"]:
    """Which sentences of a video are seen at the narrator's own times.

    Raises a UserError where the data set and the annotation have different sentences.
    """
    row = bench.data.rows[question.rows[video]]
    true = question.sentences[video]
    if [text for *_, text in row.sentences] != [sentence.text for sentence in true]:
        raise UserError(
            f"The sentences of {row.path} are not those of its true times, in the same order: "
            "leave out `narrated`, which scores the times of the data set."
        )
    return mark_time_hits(true, [span[:2] for span in row.sentences])


def make_recall_measure(
    bench: Bench, question: Question, hits: dict[str, Bool[Tensor, " _"]]
) -> Measure:
    """Recall over the alignable sentences of all videos, as a function of the group weights."""
    group_of_row = dict(zip(bench.splits["test"], number_groups(bench).tolist(), strict=True))
    correct, group = [], []
    for video, number, _ in question.list_alignable():
        correct.append(float(hits[video][number]))
        group.append(group_of_row[question.rows[video]])
    return make_share_measure(
        torch.tensor(correct, dtype=torch.float64),
        torch.tensor(group),
        max(group_of_row.values()) + 1,
    )


def count_right_seconds(sentence: Spoken, length: int) -> int:
    """The seconds of a video that count as right for a sentence."""
    first, last = math.floor(sentence.start), min(math.ceil(sentence.end), length - 1)
    return max(0, last - first + 1)
