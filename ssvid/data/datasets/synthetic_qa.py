"""The films of synthetic_captioned that do two things, with questions about them -> Manifest.

What is asked, and what a reader of the words alone or of a bag of frames can tell:
`ssvid.data.film_questions`. The words of the questions are frozen by its QA_VERSION.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from ssvid.data import film_questions
from ssvid.data import synthetic as drawing
from ssvid.data.datasets.synthetic_captioned import ALL, synthetic_captioned
from ssvid.data.film_questions import KINDS, QA_VERSION, ROUNDS, Film
from ssvid.data.manifest import SPLITS, Manifest
from ssvid.errors import UserError
from ssvid.log import log_once
from ssvid.randomness import uniform
from ssvid.registry import datasets
from ssvid.shapes import Question, Row

ORDERS = len(ALL) * (len(ALL) - 1)  # of two motions: as many films balance each other


@datasets.register("synthetic_qa")
def synthetic_qa(
    # folder that holds one folder for each set; default: $SSVID_CACHE or .cache/ssvid
    root: str | None = None,
    *,
    train: int = 27 * ORDERS,  # films; questions are best balanced in multiples of the orders, 90
    val: int = 3 * ORDERS,  # films
    test: int = 6 * ORDERS,  # films
    questions: int = 4,  # of a film, up to 8: what, where, when, order, and again in other words
    motions: tuple[str, ...] = ALL,  # of which the films are made
    captions: Literal["full", "still"] = "full",  # still: of the first frame, without any motion
    sentences: int = 1,  # captions of a film, in different words
    frames: int = 16,  # of a film
    size: int = 64,  # pixels
    fps: int = 8,  # frames per second
    seed: int = 0,  # of everything that is drawn
) -> Manifest:
    """Write the films if they do not exist: they are those of synthetic_captioned of two acts.

    The rows have captions too. A film has fewer questions where no other film balances it.
    """
    if not 1 <= questions <= ROUNDS * len(KINDS):
        raise UserError(
            f"synthetic_qa: a film has 1 to {ROUNDS * len(KINDS)} questions, not {questions}."
        )
    data = synthetic_captioned(
        root,
        train=train,
        val=val,
        test=test,
        acts=2,
        motions=motions,
        captions=captions,
        sentences=sentences,
        frames=frames,
        size=size,
        fps=fps,
        seed=seed,
    )
    rows: list[Row] = []
    for split in SPLITS:
        rows += ask_split(data.split(split).rows, split, questions, motions, seed)
    absent = questions * len(rows) - sum(len(row.questions) for row in rows)
    if absent:
        log_once(
            f"synthetic_qa: {absent} of {questions * len(rows)} questions are left out, because no "
            "film balances theirs."
        )
    return replace(data, rows=tuple(rows))


def ask_split(
    rows: tuple[Row, ...], split: str, questions: int, motions: tuple[str, ...], seed: int
) -> list[Row]:
    """The rows of a split with their questions. A UserError if a film has none."""
    films = list(map(_read_film, rows))
    questions_of: list[list[Question]] = [[] for _ in rows]
    for number in range(questions):
        turn, kind_number = divmod(number, len(KINDS))
        kind = KINDS[kind_number]
        numbers = torch.arange(len(rows)) + drawing.SPLITS[split]
        u = uniform(seed, f"film question {number}", 0, numbers, 1)[:, 0].numpy()
        drawn = {int(n): films[n] for n in np.argsort(u, kind="stable")}
        for reply in film_questions.ask_films(kind, drawn, turn, motions):
            id = f"qa{QA_VERSION}/{split}/{reply.film}/{number}"
            answers = ((reply.answer, 1.0),)
            question = Question(reply.text, answers, kind=kind, id=id)
            questions_of[reply.film].append(question)
    if not all(questions_of):
        raise UserError(
            f"synthetic_qa: no question about {rows[questions_of.index([])].path} is balanced by "
            f"another of the {len(rows)} films of {split}: take more, best a multiple of "
            f"{len(motions) * (len(motions) - 1)}."
        )
    return [
        replace(row, questions=tuple(about)) for row, about in zip(rows, questions_of, strict=True)
    ]


def _read_film(row: Row) -> Film:
    shown = dict(row.columns)
    first, last = shown["motion"].split(" then ")
    return Film(shown["colour"], shown["shape"], shown["place"], (first, last))
