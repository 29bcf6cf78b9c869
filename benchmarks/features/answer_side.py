"""encoder -> what its run learnt beside it, which answers questions about stored tokens."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from ssvid.hub import split_modality
from ssvid.text.answering import AnswerSpace, Ranking, load_answers
from ssvid.weights.state_dict import hash_weights

QUESTIONS_AT_ONCE = 16


class Answerer:
    """What a task may use of an AnswerSpace. It gives arrays and hides the network."""

    def __init__(self, space: AnswerSpace) -> None:
        self._space = space

    @property
    def device(self) -> torch.device:
        return next(self._space.parameters()).device

    @property
    def hash(self) -> str:
        """Of all that determines an answer to stored tokens."""
        return hash_weights(self._space, (self._space.pooling, self._space.tower.words))

    def rank(
        self,
        clips: Mapping[str, Tensor],
        clip_of_question: Sequence[int],
        questions: Sequence[str],
        answers: Sequence[str],
        candidates: int,
    ) -> Ranking:
        """The likeliest answers to each question, on the CPU. See AnswerSpace."""
        numbers, scores = [], []
        for rows in split_rows(len(questions)):
            some = self.take(clips, clip_of_question[rows])
            ranking = self._space.rank(some, questions[rows], answers, candidates)
            numbers.append(ranking.answers.cpu())
            scores.append(ranking.scores.cpu())
        return Ranking(torch.cat(numbers), torch.cat(scores))

    def generate(
        self,
        clips: Mapping[str, Tensor],
        clip_of_question: Sequence[int],
        questions: Sequence[str],
    ) -> list[str]:
        """The likeliest words as the answer to each question."""
        answers = []
        for rows in split_rows(len(questions)):
            some = self.take(clips, clip_of_question[rows])
            answers += self._space.generate(some, questions[rows])
        return answers

    def take(self, clips: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
        index: Int[Tensor, " Q"] = torch.tensor(rows)
        return {name: x[index].float().to(self.device) for name, x in clips.items()}


def split_rows(count: int) -> list[slice]:
    starts = range(0, count, QUESTIONS_AT_ONCE)
    return [slice(start, start + QUESTIONS_AT_ONCE) for start in starts]


def open_answers(encoder: str) -> AnswerSpace:
    """What answers questions, of the run that the user named as the encoder."""
    return load_answers(split_modality(encoder)[0])
