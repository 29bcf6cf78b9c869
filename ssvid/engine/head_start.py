"""A published classifier -> the pooler and the head that fine-tuning begins with.

VideoPrism's files are the only ones whose head is read: other heads sit on the mean of the tokens.
"""

from pathlib import Path
from typing import Any

from torch import nn

from ssvid.errors import UserError
from ssvid.hub import split_untrained
from ssvid.nn.prism import choose_heads
from ssvid.weights.files import read_weights
from ssvid.weights.published import PublishedFile, identify_file, select_under
from ssvid.weights.state_dict import load_state, read_card
from ssvid.weights.videoprism_sizes import describe_pooler


def read_classifier(encoder: str) -> PublishedFile | None:
    """The classifier of VideoPrism that `--encoder` names; None where it names something else.

    `FILE@random` names the classifier of the file too, whose sizes a twin has.
    """
    path = Path(split_untrained(encoder)[0])
    if not path.is_file() or path.suffix == ".json" or read_card(path.with_suffix(".json")):
        return None
    published = identify_file(read_weights(path))
    if published is None or not {"pooler.queries", "head.weight"} <= published.ours.keys():
        return None
    published.require_complete()
    n_queries = len(published.ours["pooler.queries"])
    if n_queries != 1:
        raise UserError(
            f"{path} is a classifier whose pooler has {n_queries} queries, and --head attention "
            "has one: take --head linear."
        )
    return published


def choose_pooler(dim: int, published: PublishedFile | None) -> dict[str, Any]:
    """The arguments of the pooler of fine-tuning: those of the file, or as wide as the tokens."""
    if published is not None:
        return describe_pooler(published.ours)
    return {"dim": dim, "heads": choose_heads(dim), "hidden": dim}


def start_head(
    pooler: nn.Module, head: nn.Linear, published: PublishedFile, classes: tuple[str, ...]
) -> str:
    """Load the file's pooler, and its head if it has as many classes. Return what was done."""
    path, ours = published.file.path, published.ours
    load_state(pooler, select_under(ours, "pooler."), path)
    n_classes = len(ours["head.bias"])
    if n_classes != len(classes):
        return (
            f"Fine-tuning begins with the pooler of {path}. Its head has {n_classes} classes and "
            f"these clips have {len(classes)}, so the head is new."
        )
    load_state(head, select_under(ours, "head."), path)
    first = ", ".join(classes[:2])
    return (
        f"Fine-tuning begins with the pooler and the head of {path}. The file does not name its "
        f"{n_classes} classes: they are taken to be yours in their order (first {first})."
    )
