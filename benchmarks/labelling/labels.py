"""--labels -> the user's labels, the sentences that stand for them, and a vector for each.

A label is taken as the user wrote it. `ssvid.text.wording` is for the class names of data sets.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.features.text_side import Text
from ssvid.data.files import need_file, read_text
from ssvid.errors import UserError
from ssvid.text.tower import Tower
from ssvid.text.wording import SLOT

AT_ONCE = 256  # labels that are embedded at once, in all their wordings
NAMED = 5  # labels that an error names


def read_labels(text: str) -> tuple[str, ...]:
    """The labels of a text with commas, or of a .txt file with one label a line.

    Blanks around and inside of labels are made single. Raises a UserError where there are fewer
    than two labels, where one is empty, and where two differ in nothing but capitals and blanks.
    """
    is_file = text.strip().lower().endswith(".txt") or "," not in text and is_path(text)
    if is_file:
        lines = read_text(need_file(text.strip(), "--labels")).splitlines()
        pieces = list(filter(None, map(str.strip, lines)))
        source = f"--labels {text.strip()}"
    else:
        pieces, source = text.split(",") if text.strip() else [], "--labels"
    labels = tuple(" ".join(piece.split()) for piece in pieces)
    check_labels(labels, source)
    return labels


def is_path(text: str) -> bool:
    """Whether there is a file of this name. A sentence may be too long to be one."""
    try:
        return Path(text).expanduser().is_file()
    except OSError:
        return False


def check_labels(labels: Sequence[str], source: str) -> None:
    """Raise a UserError for labels that cannot be compared. `source`: where they come from."""
    if not labels:
        raise UserError(
            f"{source} has no labels: write two or more with commas between them, or name a .txt "
            "file with one label a line."
        )
    if "" in labels:
        raise UserError(
            f"{source} has an empty label, number {labels.index('') + 1} of {len(labels)}: take "
            "out the comma that has no label beside it."
        )
    if len(labels) == 1:
        raise UserError(
            f"{source} has one label, {labels[0]!r}, and nothing to compare it with: give two or "
            "more, for instance what else could be seen."
        )
    earlier: dict[str, str] = {}
    for label in labels:
        if label.lower() in earlier:
            raise UserError(
                f"{source} has a label twice, {earlier[label.lower()]!r} and {label!r}: they would "
                "share one probability between them, so give it once."
            )
        earlier[label.lower()] = label


def check_known_words(labels: Sequence[str], tower: Tower, noun: str = "label") -> None:
    """Raise a UserError for labels of which the text tower knows no word.

    All of them would have the same vector, which says nothing. `noun`: what the user calls them.
    """
    unknown = [label for label in labels if not tower.can_encode(label)]
    if unknown:
        names = ", ".join(map(repr, unknown[:NAMED]))
        uncounted = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        raise UserError(
            f"The text side of this encoder knows no word of {names}{uncounted}: word the "
            f"{noun} otherwise, or leave it out."
        )


def embed_labels(
    labels: Sequence[str], templates: Sequence[str], text: Text
) -> Float[Tensor, "S E"]:
    """A vector of each label, on the CPU: of its wordings, as the text side averages them."""
    vectors = []
    for start in range(0, len(labels), AT_ONCE):
        some = labels[start : start + AT_ONCE]
        wordings = []
        for template in templates:
            wordings.append(text.embed([template.replace(SLOT, label) for label in some]))
        vectors.append(text.average(torch.stack(wordings)))
    return torch.cat(vectors)
