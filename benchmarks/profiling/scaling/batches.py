"""An objective -> the batch that the engine gives to one process."""

from typing import Any

import torch

from ssvid.objective import Objective
from ssvid.shapes import Bag, Batch, Caption, Question, Questions, Window

SENTENCES = 12  # of a window
CLASSES = ("cut an onion", "fry an egg")


def build_batch(objective: Objective, clips: int) -> Batch:
    """The batch that the engine gives to one process.

    All clips are views of a single zero, which takes no memory.
    """
    views = objective.views
    rows = torch.arange(clips)
    batch: dict[str, Any] = {"index": rows, "epoch": rows, "label": rows % len(CLASSES), "seed": 0}
    batch["video_id"] = list(map(str, range(clips)))
    if views.clips:
        spec = views.clips[0]
        shape = (clips, len(views.clips), 3, spec.frames, spec.size, spec.size)
        batch["clips"] = torch.zeros((1,) * 6).expand(shape)
    if isinstance(views.text, Bag | Caption):
        batch["sentences"] = list_sentences(
            "cut onion {i} into {k} rings", clips, views.text.sentences
        )
    if isinstance(views.text, Questions):
        question = Question("what cuts the onion?", (("a knife", 1.0),))
        batch["questions"] = [[question] * views.text.questions] * clips
    if isinstance(views.text, Window):
        batch |= build_window(objective, clips, views.text.seconds)
    return batch  # type: ignore[return-value]


def list_sentences(template: str, clips: int, sentences: int) -> list[list[str]]:
    """Different sentences for each clip: `{i}` is the clip's number, `{k}` the sentence's."""
    lists = []
    for i in range(clips):
        lists.append([template.format(i=i, k=k) for k in range(sentences)])
    return lists


def build_window(objective: Objective, clips: int, seconds: int) -> dict[str, Any]:
    """SENTENCES sentences, one after the other, in the middle of a video."""
    starts = torch.arange(SENTENCES).float() * seconds / SENTENCES
    spans = torch.stack([starts, starts + seconds / SENTENCES], 1).expand(clips, SENTENCES, 2)
    return {
        "features": torch.zeros(clips, seconds, objective.aligner.video_in.in_features),  # type: ignore[union-attr, arg-type]
        "video_padding_mask": torch.zeros(clips, seconds, dtype=torch.bool),
        "text_padding_mask": torch.zeros(clips, SENTENCES, dtype=torch.bool),
        "spans_s": spans,
        "span_fractions": (spans + seconds) / (3 * seconds),
        "sentences": list_sentences("sentence {k} of window {i}", clips, SENTENCES),
    }
