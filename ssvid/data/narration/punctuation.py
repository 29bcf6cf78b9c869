"""words -> the marks behind them, by a BERT that lies in a local folder: the only file that loads one for this.

Made for bert-restore-punctuation, which cut HTM-370K into sentences: each class is a mark (O: none) and a case.
"""

from pathlib import Path

import numpy as np
import torch

from ssvid.data.narration.sentences import Marked
from ssvid.errors import UserError

CHUNK = 256  # tokens that the model sees at once, about
LOWERED = 0.4  # taken off the probability of no mark, as published
PUBLISHED = (
    "OU",
    "OO",
    ".O",
    "!O",
    ",O",
    ".U",
    "!U",
    ",U",
    ":O",
    ";O",
    ":U",
    "'O",
    "-O",
    "?O",
    "?U",
)  # of the classes
NONE = ("O", "0")  # the mark of no mark


class Marks:
    def __init__(self, folder: str | Path) -> None:
        try:
            from transformers import AutoModelForTokenClassification, AutoTokenizer
        except ImportError as error:
            raise UserError(
                f"--punctuation {folder} is read by transformers: pip install 'ssvid[text]'."
            ) from error
        path = Path(folder).expanduser()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            self.model = AutoModelForTokenClassification.from_pretrained(
                path, local_files_only=True
            ).eval()
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} is no folder of a token classifier ({' '.join(str(error).split())})."
            ) from error
        names = [str(self.model.config.id2label[i]) for i in range(self.model.config.num_labels)]
        if all(name.startswith("LABEL_") for name in names) and len(names) == len(PUBLISHED):
            names = list(PUBLISHED)
        if not any(name[0] in NONE for name in names) or not any(name[0] == "." for name in names):
            raise UserError(
                f"{path} tells {', '.join(names)[:80]} and no marks: one of . and one of O are wanted."
            )
        self.marks = ["" if name[0] in NONE else name[0] for name in names]

    @torch.no_grad()
    def __call__(self, words: list[str]) -> list[Marked]:
        if not words:
            return []
        pieces = self.tokenizer(words, add_special_tokens=False)["input_ids"]
        flat = [piece for own in pieces for piece in own]
        chunks = np.array_split(np.array(flat, np.int64), len(flat) // CHUNK + 1)
        told = (
            torch.cat([self._classes(chunk) for chunk in chunks if len(chunk)])
            if flat
            else torch.zeros(0)
        )
        found, at = [], 0
        for own in pieces:
            at += len(own)
            found.append(Marked(self.marks[int(told[at - 1])] if own else "", max(1, len(own))))
        return found

    def _classes(self, chunk: np.ndarray) -> torch.Tensor:
        """The class of each token."""
        ids = [self.tokenizer.cls_token_id, *chunk.tolist(), self.tokenizer.sep_token_id]
        odds = self.model(input_ids=torch.tensor([ids])).logits[0, 1:-1].softmax(-1)  # N classes
        odds[:, [i for i, mark in enumerate(self.marks) if not mark]] -= LOWERED
        return odds.argmax(-1)
