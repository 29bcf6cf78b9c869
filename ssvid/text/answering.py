"""Tokens of a clip, a question -> answers: BLIP's question answering (arXiv:2201.12086), LiteVL's.

The question is read while the text encoder looks at the clip; a decoder then writes the answer, or
says how likely given answers are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ssvid.errors import TOO_LARGE, UserError
from ssvid.nn.bert import PAD, Context
from ssvid.nn.text_pooling import TextPooling
from ssvid.shapes import Features
from ssvid.text import create_tower
from ssvid.text.blip import AnswerDecoder, BlipText
from ssvid.text.joint import TOKENS, ClipVectors
from ssvid.text.matching import check_guide_space, join_frame_tokens
from ssvid.weights.files import read_weights
from ssvid.weights.state_dict import load_state, read_card, save_with_card

States = Float[Tensor, "C W d"]  # of the words of C questions
STEM = "answers"


class Ranking(NamedTuple):
    """Of each question its candidates, the best first, as numbers of answers, with scores."""

    answers: Int[Tensor, "B k"]
    scores: Float[Tensor, "B k"]


class AnswerSpace(nn.Module):
    """What answers questions about clips. `has_cls`: as in MatchingSpace.

    `read_clips` is done once for each clip, and may be stored.
    """

    def __init__(
        self, tower: BlipText, decoder: AnswerDecoder, *, pooling: TextPooling, has_cls: bool
    ) -> None:
        super().__init__()
        check_guide_space("hidden", pooling, tower)
        self.tower, self.decoder = tower, decoder
        self.pooling, self.has_cls = pooling, has_cls

    def read_clips(self, features: Features) -> ClipVectors:
        """What is kept of each clip."""
        return {TOKENS: join_frame_tokens(features)}

    def read_questions(
        self, questions: Sequence[str], tokens: Float[Tensor, "C T N D"]
    ) -> tuple[States, Bool[Tensor, "C W"]]:
        """The hidden states of a question about each clip, and which of them are no padding."""
        ids = self.tower.tokens(questions).to(tokens.device)
        return self.tower.ground(ids, self.make_context(ids, tokens)), ids != PAD

    def make_context(self, ids: Int[Tensor, "C W"], tokens: Float[Tensor, "C T N D"]) -> Context:
        """What each question looks at."""
        further = None
        if self.pooling.variant != "original":
            guides = F.normalize(self.tower.bert(ids)[:, 0], dim=1)
            patches = tokens[:, :, int(self.has_cls) :]
            further = self.pooling.weigh_means(patches, guides, None, nn.Identity())
        return Context(tokens.flatten(1, 2), further=further)

    def sum_losses(
        self,
        states: States,
        mask: Bool[Tensor, "C W"],
        answers: Sequence[str],
        question_of_answer: Int[Tensor, " A"],
    ) -> Float[Tensor, " A"]:
        """The loss of each answer to its question, summed over its words."""
        ids = self.decoder.tokens(answers).to(states.device)
        of_answer = states[question_of_answer], mask[question_of_answer]
        return self.decoder.sum_losses(ids, *of_answer)

    @torch.no_grad()
    def rank(
        self,
        clips: Mapping[str, Tensor],
        questions: Sequence[str],
        answers: Sequence[str],
        candidates: int = 128,
    ) -> Ranking:
        """The likeliest answers of a vocabulary to a question about each clip.

        The first word of an answer makes it a candidate; the candidates are then read whole.
        """
        states, mask = self.read_questions(questions, clips[TOKENS])
        ids = self.decoder.tokens(answers).to(states.device)
        chosen, scores = self.decoder.rank(ids, states, mask, candidates)
        order = scores.argsort(dim=1, descending=True, stable=True)
        return Ranking(chosen.gather(1, order), scores.gather(1, order))

    @torch.no_grad()
    def generate(
        self, clips: Mapping[str, Tensor], questions: Sequence[str], longest: int = 10
    ) -> list[str]:
        """An answer to a question about each clip, of at most so many tokens."""
        states, mask = self.read_questions(questions, clips[TOKENS])
        ids = self.decoder.generate(states, mask, longest)
        return [self.decoder.pieces.decode(row) for row in ids.cpu()]


def save_answers(space: AnswerSpace, folder: Path, stem: str = STEM) -> Path:
    """Write `stem.safetensors`, `stem.json` and the vocabulary; return the first."""
    folder.mkdir(parents=True, exist_ok=True)
    card: dict[str, Any] = {"tower": space.tower.name}
    card["arguments"] = space.tower.write(folder, stem)
    card |= {"pooling": asdict(space.pooling), "has_cls": space.has_cls}
    card["smoothing"] = space.decoder.smoothing
    path = folder / f"{stem}.safetensors"
    save_with_card(space.state_dict(), path, card)
    return path


def load_answers(path: str | Path) -> AnswerSpace:
    """What answers questions, from a run's folder, in eval mode.

    Raises a UserError if there is none.
    """
    folder = Path(path).expanduser()
    folder = folder if folder.is_dir() else folder.parent
    card_file = folder / f"{STEM}.json"
    card = read_card(card_file)
    if card is None:
        raise UserError(
            f"{path} answers no questions ({STEM}.json): take the run of an objective that learns "
            "from questions, such as litevl_qa."
        )
    try:
        arguments = dict(card["arguments"])
        name = arguments["vocabulary"]
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"vocabulary {name!r} leaves the folder of the run")
        arguments["vocabulary"] = str(folder / name)
        tower = create_tower("blip_text", **arguments)
        assert isinstance(tower, BlipText)
        decoder = AnswerDecoder(tower, smoothing=float(card["smoothing"]))
        pooling = TextPooling(**card["pooling"])
        space = AnswerSpace(tower, decoder, pooling=pooling, has_cls=bool(card["has_cls"]))
    except (KeyError, TypeError, ValueError, AttributeError, *TOO_LARGE) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{card_file} describes nothing that answers: {type(error).__name__} {reason}."
        ) from error
    file = card_file.with_suffix(".safetensors")
    load_state(space, read_weights(file).tensors, file)
    return space.eval()
