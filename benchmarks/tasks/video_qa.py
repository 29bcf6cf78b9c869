"""Answer questions about test videos, by what the encoder's run learnt beside it (litevl_qa).

An answer is right if it is the official one, word for word, in lower case. The controls say what
the video adds: the same net with grey frames (the question without the video), with one frame, and
with shuffled frames; and readers of questions alone, which count the answers of train.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Row, Task, make_share_measure, number_groups
from ssvid.errors import UserError, check_positive
from ssvid.registry import tasks
from ssvid.shapes import Question


class Targets(NamedTuple):
    """The questions of the test videos that could be read."""

    questions: list[Question]
    clip: list[int]  # of each question, the row of its clip's features


@tasks.register("video_qa")
class VideoQA(Task):
    metric = "accuracy"
    kind = "questioned"
    answers = True
    names_classes = False
    rows = ("encoder", "random", "single_frame", "shuffled", "blank")

    def __init__(
        self,
        probe: Probe | None = None,
        *,
        # how an open question is answered: the best of a vocabulary, or word by word. A question
        # with choices is answered by the best of these.
        answering: Literal["ranked", "generated"] = "ranked",
        vocabulary: int = 1000,  # answers: the most frequent ones of train
        candidates: int = 128,  # that are read whole: those whose first word is the likeliest
    ) -> None:
        if probe is not None:
            raise UserError("video_qa takes no probe: the run of the encoder answers by itself.")
        check_positive(vocabulary=vocabulary, candidates=candidates)
        self.answering, self.vocabulary, self.candidates = answering, vocabulary, candidates

    def answer(self, bench: Bench, source: str) -> Answer:
        if bench.views > 1:
            raise UserError("video_qa asks about one clip of each video: leave out --clips.")
        targets, counts = list_targets(bench), count_answers(bench)
        replies = self.reply(bench, bench.get_frozen(source, "test").feats, targets, counts)
        correct = mark_replies(targets.questions, replies)
        details: Row = {"questions": len(correct), "by_kind": average_by_kind(targets, correct)}
        if source.startswith("encoder:"):
            details |= self.describe_controls(targets, counts)
        group = number_groups(bench)[torch.tensor(targets.clip)]
        groups = int(number_groups(bench).max()) + 1
        return Answer(None, None, details, make_share_measure(correct, group, groups))

    def chance(self, bench: Bench) -> float:
        """The share of right answers of one who always gives train's most frequent answer."""
        targets, counts = list_targets(bench), count_answers(bench)
        replies = [choose_frequent(question, counts[""]) for question in targets.questions]
        return float(mark_replies(targets.questions, replies).mean())

    def list_vocabulary(self, counts: Mapping[str, "Counter[str]"]) -> list[str]:
        return [answer for answer, _ in counts[""].most_common(self.vocabulary)]

    def reply(
        self,
        bench: Bench,
        clips: Mapping[str, Tensor],
        targets: Targets,
        counts: Mapping[str, "Counter[str]"],
    ) -> list[str]:
        """The answer to each question."""
        assert bench.answerer is not None, "a task that reads :answers"
        replies = [""] * len(targets.questions)
        for choices, numbers in group_by_choices(targets.questions).items():
            texts = [targets.questions[number].text for number in numbers]
            rows = [targets.clip[number] for number in numbers]
            if not choices and self.answering == "generated":
                answers = bench.answerer.generate(clips, rows, texts)
            else:
                among = list(choices) or self.list_vocabulary(counts)
                # Choices are few, and each is read whole.
                candidates = len(among) if choices else self.candidates
                ranking = bench.answerer.rank(clips, rows, texts, among, candidates)
                answers = [among[best] for best in ranking.answers[:, 0].tolist()]
            for number, answer in zip(numbers, answers, strict=True):
                replies[number] = answer
        return replies

    def describe_controls(self, targets: Targets, counts: Mapping[str, "Counter[str]"]) -> Row:
        """What needs no video: the most frequent answer, and the most frequent to the question."""
        questions = targets.questions
        frequent = [choose_frequent(question, counts[""]) for question in questions]
        by_text = []
        for question in questions:
            of_text = counts.get(normalise_text(question.text)) or counts[""]
            by_text.append(choose_frequent(question, of_text))
        vocabulary = set(self.list_vocabulary(counts))
        outside = 0
        for question in questions:
            is_open = not question.choices
            outside += is_open and normalise_text(question.answers[0][0]) not in vocabulary
        return {
            "most_frequent_answer": float(mark_replies(questions, frequent).mean()),
            "most_frequent_answer_by_kind": average_by_kind(
                targets, mark_replies(questions, frequent)
            ),
            "most_frequent_answer_to_the_question": float(mark_replies(questions, by_text).mean()),
            "answers_outside_the_vocabulary": outside,
        }


def normalise_text(text: str) -> str:
    return " ".join(text.lower().split())


def list_targets(bench: Bench) -> Targets:
    """The questions of the readable test videos, in order."""
    questions: list[Question] = []
    clip: list[int] = []
    for number, unit in enumerate(bench.splits["test"]):
        for question in bench.data.rows[bench.row_of_unit[unit]].questions:
            questions.append(question)
            clip.append(number)
    if not questions:
        raise UserError("No test video with a question could be read.")
    return Targets(questions, clip)


def count_answers(bench: Bench) -> dict[str, "Counter[str]"]:
    """How often train has each official answer: in all ("") and to each question.

    Raises a UserError where train has no question.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in bench.data.rows:
        if row.split != "train":
            continue
        for question in row.questions:
            answer = normalise_text(question.answers[0][0])
            counts[""][answer] += 1
            counts[normalise_text(question.text)][answer] += 1
    if not counts[""]:
        raise UserError(
            "The train split has no question, so there is no vocabulary of answers: give its list "
            "as well. Its videos are not read."
        )
    return dict(counts)


def group_by_choices(questions: Sequence[Question]) -> dict[tuple[str, ...], list[int]]:
    """The choices -> the numbers of the questions that have them; (): open questions."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, question in enumerate(questions):
        groups[question.choices].append(number)
    return dict(groups)


def choose_frequent(question: Question, counts: "Counter[str]") -> str:
    """The answer that train has most often, among the choices where there are any."""
    if not question.choices:
        return counts.most_common(1)[0][0]
    return max(question.choices, key=lambda choice: counts[normalise_text(choice)])


def mark_replies(questions: Sequence[Question], replies: Sequence[str]) -> Float[Tensor, " Q"]:
    """1 where the reply is the official answer."""
    right = []
    for question, reply in zip(questions, replies, strict=True):
        right.append(normalise_text(reply) == normalise_text(question.answers[0][0]))
    return torch.tensor(right, dtype=torch.float64)


def average_by_kind(targets: Targets, correct: Float[Tensor, " Q"]) -> dict[str, float]:
    """The share of right answers of each type of question."""
    of_kind: dict[str, list[float]] = defaultdict(list)
    for question, right in zip(targets.questions, correct.tolist(), strict=True):
        of_kind[question.kind or "all"].append(right)
    return {kind: sum(right) / len(right) for kind, right in sorted(of_kind.items())}
