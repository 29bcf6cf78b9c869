"""vectors of a video, a question -> words: a frozen causal language model of `transformers`.

The vectors stand before the words, in the place of embedded tokens. The model comes from a local
folder and never learns.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ssvid.encoder import evaluating
from ssvid.errors import UserError, check_positive
from ssvid.text.transformers import import_library, read_folder

CAPTION = "caption:"  # what stands before a description
PAIR = re.compile(r"question:\s*(?P<question>.+?)\s*answer:\s*(?P<answer>.+)", re.I | re.S)
Prefix = Float[Tensor, "B K D"]


class Words(NamedTuple):
    """Token ids of prompts and answers, padded at their ends."""

    ids: Int[Tensor, "B W"]
    is_text: Bool[Tensor, "B W"]  # no padding
    is_answer: Bool[Tensor, "B W"]  # the tokens that are learnt


def split_sentence(sentence: str) -> tuple[str, str]:
    """(prompt, answer). A sentence `question: ... answer: ...` is a pair, any other a caption."""
    pair = PAIR.fullmatch(sentence.strip())
    if pair is None:
        return CAPTION, sentence.strip()
    return phrase_prompt(pair["question"]), pair["answer"].strip()


def phrase_prompt(question: str | None) -> str:
    """What stands before the answer to a question, or before a caption."""
    return CAPTION if question is None else f"question: {question.strip()} answer:"


class Language(nn.Module):
    """A causal language model and its tokeniser. No weight has a gradient; nothing drops out."""

    def __init__(self, folder: str) -> None:
        """A UserError if the folder holds no causal model, or a tokeniser without an end."""
        super().__init__()
        self.folder = str(Path(folder).expanduser())
        self.tokenizer, self.net, missing = read_folder("AutoModelForCausalLM", folder)
        if missing:
            raise UserError(
                f"{self.folder} lacks weights of a causal language model, such as {missing[0]!r}: "
                "is it the folder of another model?"
            )
        self.end = self.tokenizer.eos_token_id
        if self.end is None:
            raise UserError(
                f"The tokeniser of {self.folder} has no token that ends a sentence (eos_token), so "
                "an answer would never end."
            )
        self.net.requires_grad_(False)
        table = self.net.get_input_embeddings().weight
        self.dim = table.shape[1]
        self.scale = float(table.std())  # of embedded tokens
        self.longest = getattr(self.net.config, "max_position_embeddings", None)

    def check_room(self, vectors: int, tokens: int) -> None:
        """Raise a UserError if the model cannot read so many vectors and tokens after them."""
        check_positive(queries=vectors, length=tokens)
        if self.longest is not None and vectors + tokens > self.longest:
            raise UserError(
                f"{vectors} queries and {tokens} tokens are more than the {self.longest} positions "
                f"of the language model {self.folder}: take fewer queries, or a shorter length."
            )

    def read_prompt(self, prompt: str) -> list[int]:
        first = self.tokenizer.bos_token_id
        ids: list[int] = self.tokenizer(prompt, add_special_tokens=False).input_ids
        return ids if first is None else [first, *ids]

    def read_sentences(self, sentences: Sequence[str], length: int) -> Words:
        """The words of captions and of pairs of question and answer.

        A prompt and an answer have `length` tokens at most each; the end of an answer is one.
        """
        rows: list[list[int]] = []
        starts = []
        for sentence in sentences:
            prompt, answer = split_sentence(sentence)
            head = self.read_prompt(prompt)[:length]
            ids = self.tokenizer(f" {answer}", add_special_tokens=False).input_ids
            rows.append([*head, *[*ids, self.end][:length]])
            starts.append(len(head))
        width = max(map(len, rows))
        lengths = torch.tensor(list(map(len, rows)))[:, None]
        is_text = torch.arange(width) < lengths  # B W
        is_answer = is_text & (torch.arange(width) >= torch.tensor(starts)[:, None])
        ids = torch.full((len(rows), width), self.end)
        ids[is_text] = torch.tensor(sum(rows, []))
        return Words(ids, is_text, is_answer)

    def score_answers(self, prefix: Prefix, words: Words) -> Float[Tensor, " B"]:
        """The mean cross-entropy of the tokens of each answer, after the prefix and the prompt."""
        device = prefix.device
        ids, is_answer = words.ids.to(device), words.is_answer.to(device)
        embedded = self.net.get_input_embeddings()(ids).to(prefix.dtype)
        inputs = torch.cat([prefix, embedded], 1)  # B K+W D
        attended = F.pad(words.is_text.to(device), (prefix.shape[1], 0), value=True)
        with evaluating(self.net):
            logits = self.net(
                inputs_embeds=inputs, attention_mask=attended.long(), use_cache=False
            ).logits
        # The vector before a token predicts it.
        predicted = logits[:, prefix.shape[1] - 1 : -1].float()  # B W V
        losses = F.cross_entropy(predicted.transpose(1, 2), ids, reduction="none")  # B W
        return (losses * is_answer).sum(1) / is_answer.sum(1)

    @torch.no_grad()
    def continue_prefix(self, prefix: Prefix, prompt: str, tokens: int) -> list[str]:
        """The likeliest next words after each prefix and the prompt, one at a time (greedy)."""
        ids = torch.tensor(self.read_prompt(prompt), device=prefix.device)
        embedded = self.net.get_input_embeddings()(ids).expand(len(prefix), -1, -1)
        inputs = torch.cat([prefix, embedded.to(prefix.dtype)], 1)
        with evaluating(self.net):
            chosen = self.net.generate(
                inputs_embeds=inputs,
                attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long, device=ids.device),
                generation_config=self.make_settings(tokens),
            )
        texts = self.tokenizer.batch_decode(chosen, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def make_settings(self, tokens: int) -> Any:
        """Greedy decoding, whatever the folder says."""
        return import_library().GenerationConfig(
            max_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=self.end,
            pad_token_id=self.end,
        )
