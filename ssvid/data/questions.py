"""Rows with questions about the whole video -> clips with some of these questions.

This is the only file that chooses which question goes with a clip.
"""

from itertools import filterfalse
from operator import attrgetter
from typing import Any

from ssvid.data.clips import Clips
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.randomness import uniform
from ssvid.shapes import Questions, Views


class QuestionedClips(Clips):
    """The clips of a video as any objective takes them, with questions about the video.

    Raises a UserError if a row has no question.
    """

    def __init__(
        self,
        manifest: Manifest,
        views: Views,
        *,
        seed: int,
        short: str = "pad",
        decoder: str = "pyav",
    ) -> None:
        super().__init__(manifest, views, seed=seed, short=short, decoder=decoder)
        assert isinstance(views.text, Questions)
        self.per_clip = views.text.questions
        need_questions(manifest)

    def _load(self, epoch: int, row: int) -> dict[str, Any]:
        questions = self.manifest.rows[row].questions
        chosen = choose_turn(len(questions), self.per_clip, self.seed, epoch, row)
        return {**super()._load(epoch, row), "questions": [questions[i] for i in chosen]}


def choose_turn(n: int, per_clip: int, seed: int, epoch: int, row: int) -> list[int]:
    """Which of a row's n questions its clip comes with in an epoch.

    The row's questions are put in an order that is drawn, and the epochs take them in turn: no
    question comes again before the order is used up. What remains of an order is left out if it is
    too short for an epoch. A row with fewer questions than a clip takes has them again in turn.
    """
    epochs_of_order = max(1, n // per_clip)
    draw, turn = divmod(epoch, epochs_of_order)
    order = uniform(seed, "question", draw, row, n)[0].argsort(stable=True).tolist()
    return [order[(turn * per_clip + i) % n] for i in range(per_clip)]


def need_questions(manifest: Manifest) -> None:
    """Raise a UserError if a row has no question."""
    mute = list(filterfalse(attrgetter("questions"), manifest.rows))
    if mute:
        raise UserError(
            f"{len(mute)} of {len(manifest)} clips of {manifest.root} have no question, first "
            f"{mute[0].path}: this objective learns from questions and answers, such as --data csv "
            "with columns question and answer. Leave rows without one out of the list."
        )
