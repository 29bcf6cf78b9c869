"""LiteVL's question answering (Chen et al. 2022, arXiv:2210.11929), which is BLIP's
(arXiv:2201.12086) with an encoder of clips: write the answer to a question about a clip.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from objectives.litevl.pictures import draw_pictures
from ssvid.encoder import Encoder
from ssvid.errors import UserError, check_range
from ssvid.nn.text_pooling import TextPooling, Variant
from ssvid.objective import SMALL_BATCH, Objective
from ssvid.registry import objectives
from ssvid.shapes import Batch, Features, Loss, Question, Questions, Views
from ssvid.text import create_tower
from ssvid.text.answering import AnswerSpace, save_answers
from ssvid.text.blip import AnswerDecoder, BlipText
from ssvid.text.grad_cam import Explanation, explain_answer
from ssvid.text.matching import join_frame_tokens
from ssvid.text.question_start import start_from

SMALL = {"width": 96, "layers": 2, "heads": 3, "length": 24}


@objectives.register("litevl_qa")
class LiteVLQuestions(Objective):
    """A clip encoder, a text encoder that looks at its tokens, and a decoder of answers.

    A question may have several answers, each with a weight.
    """

    tiny_kwargs = {
        "text_pooling": "original",
        "options": {"width": 16, "layers": 1, "heads": 2, "length": 8, "dropout": 0.0},
    }
    default_flags = {
        "encoder": {"name": "litevl_tiny", "frames": 8, "size": 32},
        "clip": {},
        **SMALL_BATCH,
    }
    small_settings = {"options": SMALL}

    def __init__(
        self,
        encoder: Encoder,
        *,
        words: str | None = None,  # a vocab.txt of BERT; null: the small one of this project
        text: str | None = None,  # a run or a file of BLIP whose text side to begin with
        options: dict[str, Any] | None = None,  # of a new text side: width, layers, heads, length
        # what the question sees beside the clip's tokens: see ssvid.nn.text_pooling
        text_pooling: Variant = "both",
        pooling_temperature: float = 1.0,  # inferred
        pooling_weights: Literal["sum", "mean"] = "sum",  # inferred
        smoothing: float = 0.1,  # of the labels of the answer's words
        questions: int = 1,  # of each clip
        augment: str = "resized_flip",  # a recipe of ssvid.data.augment; not stated
    ) -> None:
        super().__init__()
        check_range(0, 1, smoothing=smoothing)
        self.encoder, self.augment = encoder, augment
        self.per_clip = Questions(questions=questions)
        self.pooling = TextPooling(
            variant=text_pooling, temperature=pooling_temperature, weights=pooling_weights
        )
        if text is None:
            kwargs = {"dim": None, "context_dim": encoder.dim, **(options or {})}
            tower = create_tower("blip_text", vocabulary=words, **kwargs)
            assert isinstance(tower, BlipText)
            self.tower, self.decoder = tower, AnswerDecoder(tower, smoothing=smoothing)
        else:
            if options:
                raise UserError(
                    f"--objective.text {text} says what its tower is: leave out "
                    "--objective.options."
                )
            self.tower, self.decoder = start_from(text, words, encoder, smoothing)
        self.answer_space()  # refuses what does not fit together

    @property
    def views(self) -> Views:
        return self.encoder.make_views(self.augment, text=self.per_clip)

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def save_assets(self, folder: Path) -> None:
        save_answers(self.answer_space(), folder)

    def answer_space(self) -> AnswerSpace:
        return AnswerSpace(
            self.tower, self.decoder, pooling=self.pooling, has_cls=self.encoder.has_cls
        )

    def forward(self, batch: Batch) -> Loss:
        space, clips = self.answer_space(), batch["clips"][:, 0]
        questions = list_questions(batch["questions"])
        tokens = join_frame_tokens(self.encoder(clips))
        if self.per_clip.questions > 1:
            tokens = tokens.repeat_interleave(self.per_clip.questions, 0)
        states, mask = space.read_questions([question.text for question in questions], tokens)
        answers, weights, question_of_answer = [], [], []
        for number, question in enumerate(questions):
            for answer, weight in question.answers:
                answers.append(answer)
                weights.append(weight)
                question_of_answer.append(number)
        numbers = torch.tensor(question_of_answer, device=clips.device)
        losses = space.sum_losses(states, mask, answers, numbers)
        loss = weigh_losses(losses, weights, len(questions))
        return Loss(loss, {"answer": loss.detach()})

    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """grad_cam: the frames of the first clip, and below them what makes the right answer to
        its first question likely, red most (Grad-CAM of the text encoder that looks at the clip,
        two thirds of the way up). scales: how strongly each block of the encoder attends over
        time, the mean over the last batch; 1 is where training begins.
        """
        question, space = batch["questions"][0][0], self.answer_space()
        answer, _ = max(question.answers, key=lambda pair: pair[1])

        def explain(features: Features) -> Explanation:
            return explain_answer(space, features, question.text, answer)

        return draw_pictures(self.encoder, batch["clips"][:1, 0], explain)


def list_questions(of_clips: list[list[Question]]) -> list[Question]:
    questions = []
    for of_clip in of_clips:
        questions += of_clip
    return questions


def weigh_losses(
    losses: Float[Tensor, " A"], weights: list[float], questions: int
) -> Float[Tensor, ""]:
    """The weighted sum over answers, divided by the number of questions, as published."""
    return (losses * torch.tensor(weights).to(losses)).sum() / questions
