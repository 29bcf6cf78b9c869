"""words -> the punctuation mark after each, by a BERT from a local folder.

This is the only file that loads such a model. It fits bert-restore-punctuation, which cut HTM-370K
into sentences: each of its classes is a mark (O: none) and a case.
"""

from pathlib import Path

import numpy as np
import torch

from ssvid.data.narration.sentences import Marked
from ssvid.errors import UserError
from ssvid.trust import LOCAL

CHUNK = 256  # tokens that the model reads at once, about
LOWERED = 0.4  # subtracted from the probability of no mark, as published
# The classes of the published model: mark and case.
PUBLISHED = tuple(
    ["OU", "OO", ".O", "!O", ",O", ".U", "!U", ",U", ":O", ";O", ":U", "'O", "-O", "?O", "?U"]
)
NONE = ("O", "0")  # stands for no mark


class Marks:
    """Calls the model. A UserError is raised if the folder holds no such model."""

    def __init__(self, folder: str | Path) -> None:
        try:
            from transformers import AutoModelForTokenClassification, AutoTokenizer
        except ImportError as error:
            raise UserError(
                f"--punctuation {folder} needs transformers: pip install 'ssvid[text]'."
            ) from error
        path = Path(folder).expanduser()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, **LOCAL)
            self.model = AutoModelForTokenClassification.from_pretrained(path, **LOCAL).eval()
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} is not a folder of a token classifier ({' '.join(str(error).split())})."
            ) from error
        config = self.model.config
        classes = [str(config.id2label[i]) for i in range(config.num_labels)]
        self.marks = _marks_of_classes(path, classes)
        self.no_mark = np.flatnonzero(np.array(self.marks) == "").tolist()

    @torch.no_grad()
    def __call__(self, words: list[str]) -> list[Marked]:
        """The mark after each word, which is the one after its last token."""
        if not words:
            return []
        tokens_of_word = self.tokenizer(words, add_special_tokens=False)["input_ids"]
        tokens: list[int] = []
        for word_tokens in tokens_of_word:
            tokens += word_tokens
        classes: list[int] = []
        for chunk in np.array_split(np.array(tokens, np.int64), len(tokens) // CHUNK + 1):
            if len(chunk):
                classes += self._classes(chunk).tolist()
        marked, end = [], 0
        for word_tokens in tokens_of_word:
            end += len(word_tokens)
            mark = self.marks[classes[end - 1]] if word_tokens else ""
            marked.append(Marked(mark, max(1, len(word_tokens))))
        return marked

    def _classes(self, chunk: np.ndarray) -> torch.Tensor:
        """The class of each token."""
        ids = [self.tokenizer.cls_token_id, *chunk.tolist(), self.tokenizer.sep_token_id]
        logits = self.model(input_ids=torch.tensor([ids])).logits[0, 1:-1]  # N classes
        prob = logits.softmax(-1)
        prob[:, self.no_mark] -= LOWERED
        return prob.argmax(-1)


def _marks_of_classes(path: Path, classes: list[str]) -> list[str]:
    """The mark of each class; empty: none. Nameless classes are taken for the published ones."""
    if len(classes) == len(PUBLISHED) and all(name.startswith("LABEL_") for name in classes):
        classes = list(PUBLISHED)
    marks = ["" if name[0] in NONE else name[0] for name in classes]
    if "" not in marks or "." not in marks:
        raise UserError(
            f"{path} has the classes {', '.join(classes)[:80]}, which are not marks: it needs one "
            "of . and one of O."
        )
    return marks
