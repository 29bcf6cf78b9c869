"""Sentences -> one vector each, or hidden states grounded in a clip: BLIP's text side.

BLIP (arXiv:2201.12086) uses BERT in three ways: it reads a sentence alone, it reads a sentence
while it looks at a clip, and it writes an answer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ssvid.errors import UserError, check_positive
from ssvid.nn.bert import PAD, Bert, Context, WordHead
from ssvid.shapes import Tokens
from ssvid.text.tower import Length, Tower
from ssvid.text.wordpiece import WordPieces, copy_vocabulary, find_vocabulary

BASE_POSITIONS = 512


class BlipText(Tower):
    """BERT whose layers can attend to the tokens of a clip. The defaults are those of BLIP-base."""

    def __init__(
        self,
        *,
        # a vocab.txt of BERT (published: bert-base-uncased); null: a small one of this project,
        # which has the words of the synthetic sets whole and other words in letters
        vocabulary: str | None = None,
        width: int = 768,  # of a token in the layers
        layers: int = 12,
        heads: int = 12,  # of attention; they divide width
        # of the space that sentences share with clips; null: no map leads there, as in BLIP's
        # question encoder
        dim: int | None = 256,
        context_dim: int = 768,  # width of the clip's tokens
        length: int = 35,  # tokens of a sentence that are read, start and end included
        positions: int = BASE_POSITIONS,  # rows of the table of positions
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_positive(dim=dim, length=length)
        if not 3 <= length <= positions:
            raise UserError(f"A sentence of {length} tokens: take 3 to {positions} of them.")
        self.source = find_vocabulary(vocabulary)
        self.pieces, self.length = WordPieces(self.source), length
        self.words = self.pieces.words
        self.bert = Bert(
            self.pieces.size,
            dim=width,
            layers=layers,
            heads=heads,
            context_dim=context_dim,
            positions=positions,
            dropout=dropout,
        )
        self.dim, self.width = dim or width, width
        self.project = nn.Identity() if dim is None else nn.Linear(width, dim)

    def tokens(self, sentences: Sequence[str]) -> Int[Tensor, "S W"]:
        return self.pieces.encode(sentences, self.length)

    def embed(self, tokens: Int[Tensor, "S W"]) -> Float[Tensor, "S D"]:
        return self.project(self.bert(tokens)[:, 0])

    def ground(self, tokens: Int[Tensor, "S W"], context: Context) -> Tokens:
        """The hidden states of sentences that look at the tokens of a clip each.

        The first token of a sentence is replaced by BLIP's own, as published.
        """
        return self.bert(self.mark_grounded(tokens), context)

    def mark_grounded(self, tokens: Int[Tensor, "S W"]) -> Int[Tensor, "S W"]:
        first = torch.full_like(tokens[:, :1], self.pieces.ground_first)
        return torch.cat([first, tokens[:, 1:]], 1)

    def measure(self, sentence: str) -> Length:
        (row,) = self.pieces.split([sentence])
        return Length(len(row), self.length - 2, "tokens")  # start and end are two more

    def can_encode(self, sentence: str) -> bool:
        return self.pieces.can_read(sentence)

    def write(self, folder: Path, stem: str) -> dict[str, Any]:
        return {**self.kwargs, "vocabulary": copy_vocabulary(self.source, folder, stem)}


class AnswerDecoder(nn.Module):
    """Hidden states of a grounded question -> an answer, word by word.

    `sum_losses` and `rank` take the ids of answers that begin with BLIP's [DEC] and end with [SEP].
    """

    def __init__(self, text: BlipText, *, smoothing: float = 0.1) -> None:
        super().__init__()
        self.pieces, self.length, self.smoothing = text.pieces, text.length, smoothing
        reader = text.bert
        self.bert = Bert(
            text.pieces.size,
            dim=reader.dim,
            layers=len(reader.layers),
            heads=reader.heads,
            context_dim=reader.dim,
            positions=len(reader.positions),
            dropout=reader.dropout.p,
        )
        self.head = WordHead(reader.dim, text.pieces.size)

    def tokens(self, answers: Sequence[str]) -> Int[Tensor, "A W"]:
        return self.pieces.encode(answers, self.length, first="decode")

    def compute_logits(
        self, ids: Int[Tensor, "A W"], states: Tokens, mask: Bool[Tensor, "A Q"]
    ) -> Float[Tensor, "A W V"]:
        """Of the word after each token. `states`: of the question of each answer."""
        hidden = self.bert(ids, Context(states, mask=mask), causal=True)
        return self.head(hidden, self.bert.table.weight)

    def sum_losses(
        self, ids: Int[Tensor, "A W"], states: Tokens, mask: Bool[Tensor, "A Q"]
    ) -> Float[Tensor, " A"]:
        """The smoothed cross entropy of each answer, summed over its words, as published."""
        logits = self.compute_logits(ids[:, :-1], states, mask)
        targets = ids[:, 1:].masked_fill(ids[:, 1:] == PAD, -100)
        losses = F.cross_entropy(
            logits.transpose(1, 2), targets, reduction="none", label_smoothing=self.smoothing
        )
        return losses.sum(1)

    def compute_log_probabilities(
        self, ids: Int[Tensor, "A W"], states: Tokens, mask: Bool[Tensor, "A Q"]
    ) -> Float[Tensor, " A"]:
        """Of each answer: the sum over its words, the end among them, without smoothing."""
        logits = self.compute_logits(ids[:, :-1], states, mask)
        of_words = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        return of_words.masked_fill(ids[:, 1:] == PAD, 0.0).sum(1)

    def compute_first_words(
        self, states: Tokens, mask: Bool[Tensor, "B Q"]
    ) -> Float[Tensor, "B V"]:
        """The probability of each word as the first of the answer."""
        first = torch.full((len(states), 1), self.pieces.decode_first, device=states.device)
        return self.compute_logits(first, states, mask)[:, 0].softmax(-1)

    def rank(
        self,
        ids: Int[Tensor, "A W"],
        states: Tokens,
        mask: Bool[Tensor, "B Q"],
        candidates: int,
    ) -> tuple[Int[Tensor, "B k"], Float[Tensor, "B k"]]:
        """The candidates of each question among A answers, and their scores.

        The first word of an answer decides which answers are candidates; each of these is then read
        whole. A score is the negative sum of the smoothed losses, as published: it is not divided
        by the length of the answer.
        """
        probabilities = self.compute_first_words(states, mask)[:, ids[:, 1]]  # B A
        count = min(candidates, len(ids))
        chosen = probabilities.topk(count, dim=1).indices
        scores = []
        for row, numbers in enumerate(chosen):
            of_question = states[row : row + 1].expand(count, -1, -1)
            losses = self.sum_losses(
                ids[numbers], of_question, mask[row : row + 1].expand(count, -1)
            )
            scores.append(-losses)
        return chosen, torch.stack(scores)

    def generate(
        self, states: Tokens, mask: Bool[Tensor, "B Q"], longest: int = 10
    ) -> Int[Tensor, "B W"]:
        """The likeliest word, one after the other, until every answer has ended."""
        ids = torch.full((len(states), 1), self.pieces.decode_first, device=states.device)
        has_ended = torch.zeros(len(states), dtype=torch.bool, device=states.device)
        for _ in range(longest):
            word = self.compute_logits(ids, states, mask)[:, -1].argmax(-1)
            word = word.masked_fill(has_ended, PAD)
            ids = torch.cat([ids, word[:, None]], 1)
            has_ended |= word == self.pieces.end
            if bool(has_ended.all()):
                break
        return ids
