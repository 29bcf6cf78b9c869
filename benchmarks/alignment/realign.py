"""features of each second, timed sentences, an aligner -> when each sentence is seen; as WebVTT.

The aligner sees moving windows as in HTM-Align, but nothing is known of the true times: each window
gets every sentence that is spoken near it. The similarities (joint and dual) of all windows are
averaged.

A sentence is placed at the second that is most similar to it, together with the seconds around it
that are at least half as likely by the softmax over time, without a gap. A sentence that cannot be
aligned keeps the transcript's own time.
"""

import html
import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.metrics import htm_align
from benchmarks.metrics.moving_windows import WindowSums, list_windows_near_speech
from ssvid.data.narration.sentences import Sentence
from ssvid.errors import UserError, check_range
from ssvid.nn.timeline import Aligned
from ssvid.shapes import Window

HALF = math.log(2)  # below the peak's similarity a second is half as likely
MIN_PROBABILITY = 0.5  # of alignability, by the head


class Aligner(NamedTuple):
    align_window: Callable[[Float[Tensor, "1 T D"], list[str]], Aligned]
    window: Window
    width: int | None  # of the features that it takes, where its run records it
    hash: str
    features: str | None = None  # hash of the encoder whose features it learnt from, if known


class AlignedSentence(NamedTuple):
    """A sentence with its new times. `to_json` knows the keys that files have."""

    start: float
    end: float
    text: str
    spoken: tuple[float, float]  # the transcript's own times
    span: tuple[float, float] | None  # where it is seen; None: the aligner knows none of its words
    score: float | None  # similarity at its peak: cosine over temperature
    alignability: float | None  # probability, of an aligner with a head
    alignable: bool | None  # None: neither a head nor a threshold decides

    @classmethod
    def unaligned(cls, sentence: Sentence) -> "AlignedSentence":
        """A sentence of which the aligner knows no word. It keeps the transcript's times."""
        return cls(*sentence, sentence[:2], None, None, None, False)

    def to_json(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "end": self.end,
            "text": self.text,
            "said": self.spoken,
            "found": self.span,
            "score": self.score,
            "alignability": self.alignability,
            "alignable": self.alignable,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "AlignedSentence":
        """Raises a KeyError or TypeError where the keys are not those of `to_json`."""
        fields = dict(content)
        return cls(spoken=fields.pop("said"), span=fields.pop("found"), **fields)


def realign(
    table: np.ndarray,
    sentences: Sequence[Sentence],
    aligner: Aligner,
    threshold: float | None = None,
) -> tuple[list[AlignedSentence], Float[Tensor, "K T"]]:
    """(sentences with new times, likelihood of each second relative to the sentence's peak).

    `table`: T D, the features of each second. The likelihood is NaN where no window held the
    sentence. Raises a UserError where the aligner knows no word of any sentence.
    """
    encodable = [k for k, (_, _, text) in enumerate(sentences) if aligner.window.can_encode(text)]
    if not encodable:
        raise UserError(
            f"None of its {len(sentences)} sentences has a word that the aligner knows."
        )
    similarity, alignability = average_windows(table, [sentences[k] for k in encodable], aligner)
    if alignability is not None:
        check_range(0, 1, threshold=threshold)  # with a head the threshold is a probability
    relative = (similarity - similarity.amax(1, keepdim=True)).exp()
    likelihood = torch.full((len(sentences), len(table)), torch.nan)
    likelihood[encodable] = relative.where(similarity.isfinite(), torch.nan)
    aligned = [AlignedSentence.unaligned(sentence) for sentence in sentences]
    for n, k in enumerate(encodable):
        probability = None if alignability is None else float(alignability[n])
        aligned[k] = place_sentence(sentences[k], similarity[n], probability, threshold)
    return aligned, likelihood


def place_sentence(
    sentence: Sentence,
    similarity: Float[Tensor, " T"],
    probability: float | None,
    threshold: float | None,
) -> AlignedSentence:
    """One sentence with its new times. `probability`: that it is alignable, by the head."""
    span, score = find_span(similarity), float(similarity.amax())
    is_alignable = None
    if probability is not None:
        is_alignable = probability >= (MIN_PROBABILITY if threshold is None else threshold)
    elif threshold is not None:
        is_alignable = score >= threshold
    start, end, text = sentence
    new_times = (start, end) if is_alignable is False else span
    return AlignedSentence(
        *new_times,
        text,
        spoken=(start, end),
        span=span,
        score=round(score, 4),
        alignability=probability and round(probability, 4),
        alignable=is_alignable,
    )


def average_windows(
    table: np.ndarray, sentences: Sequence[Sentence], aligner: Aligner
) -> tuple[Float[Tensor, "K T"], Float[Tensor, " K"] | None]:
    """(similarity, alignability as a probability), averaged over the windows.

    The similarity is -inf where no window held the sentence and the second. The alignability is
    None without a head. Raises a UserError for NaN or infinity.
    """
    sums, has_head = WindowSums(len(sentences), len(table), torch.zeros(0)), True
    for window in list_windows_near_speech(sentences, len(table), aligner.window.seconds):
        cut = table[window.start : window.start + window.seconds]
        features = torch.from_numpy(np.array(cut, np.float32))[None]
        aligned = aligner.align_window(features, [sentences[k][2] for k in window.rows])
        has_head = aligned.alignable is not None
        logits = None
        if has_head:
            logits = htm_align.read_alignability(aligned, htm_align.STAGE).float().cpu()
        sums.add(window, aligned.joint[-1].float().cpu(), aligned.dual[-1].float().cpu(), logits)
    counts = sums.pair_counts
    similarity = torch.where(counts > 0, sums.similarity.mean(0) / counts, -torch.inf)
    if not similarity[counts > 0].isfinite().all():
        raise UserError(
            "The aligner gives NaN or infinity: its weights or these features are damaged."
        )
    if not has_head:
        return similarity, None
    return similarity, (sums.alignability / sums.sentence_counts).sigmoid()


def find_span(similarity: Float[Tensor, " T"]) -> tuple[float, float]:
    """First second and end of the run around the peak whose seconds are at least half as likely."""
    peak = int(similarity.argmax())
    low = (similarity < similarity[peak] - HALF).nonzero().flatten().tolist()
    before = max((t for t in low if t < peak), default=-1)
    after = min((t for t in low if t > peak), default=len(similarity))
    return float(before + 1), float(after)


def format_web_vtt(sentences: Sequence[AlignedSentence]) -> str:
    """Cues in order of time, and numbered so. The JSON file has the order of the transcript.

    A sentence that cannot be aligned stands at the transcript's time, and a note says so.
    """
    blocks = ["WEBVTT"]
    for k, sentence in enumerate(sorted(sentences, key=attrgetter("start")), 1):
        score = "" if sentence.score is None else f", score {sentence.score:.2f}"
        if sentence.alignable is False:
            blocks.append(f"NOTE {k} is not alignable{score}: the transcript's own time")
        times = f"{_format_time(sentence.start)} --> {_format_time(sentence.end)}"
        blocks.append(f"{k}\n{times}\n{html.escape(sentence.text, quote=False)}")
    return "\n\n".join(blocks) + "\n"


def _format_time(seconds: float) -> str:
    ms = round(1000 * seconds)
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"
