"""features of each second, timed sentences, an aligner -> when each sentence is seen; and that as WebVTT.

The aligner is asked in moving windows as HTM-Align has them, but without anything known of the truth: of each window
every sentence that is said near it. The similarities (joint and dual) of all windows are averaged.

A sentence is found at the second that is most like it and those around it, without a gap, that are at least half as
likely by the softmax over time. One that cannot be aligned keeps the transcript's own time.
"""

import html
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.metrics import htm_align
from benchmarks.metrics.moving_windows import WindowSums, windows_near_speech
from ssvid.data.narration.sentences import Sentence
from ssvid.errors import UserError, within
from ssvid.nn.timeline import Aligned
from ssvid.shapes import Window

HALF = math.log(2)  # below the peak's similarity: half as likely
LIKELY = 0.5  # probability, by the head


class Aligner(NamedTuple):
    ask: Callable[[Float[Tensor, "1 T D"], list[str]], Aligned]
    window: Window
    width: int | None  # of the features that it takes, where its run says so
    hash: str
    features: str | None = (
        None  # hash of the encoder whose features it learnt from, where it is known
    )


class Found(NamedTuple):
    start: float
    end: float
    text: str
    said: tuple[float, float]
    found: tuple[float, float] | None  # None: the aligner knows none of its words
    score: float | None  # similarity at its peak: cosine over temperature
    alignability: float | None  # probability, of an aligner with a head
    alignable: bool | None  # None: neither a head nor a threshold tells


def realign(
    table: np.ndarray, said: Sequence[Sentence], by: Aligner, threshold: float | None = None
) -> tuple[list[Found], Float[Tensor, "K T"]]:
    """Each sentence found; and of each second its likelihood over that of the sentence's peak, nan where not asked."""
    known = [k for k, (_, _, text) in enumerate(said) if by.window.can_encode(text)]
    if not known:
        raise UserError(f"None of its {len(said)} sentences has a word that the aligner knows.")
    alike, can = stitch(table, [said[k] for k in known], by)
    if can is not None:
        within(0, 1, threshold=threshold)  # of an aligner with a head it is a probability
    shares = torch.full((len(said), len(table)), torch.nan)
    shares[known] = (alike - alike.amax(1, keepdim=True)).exp().where(alike.isfinite(), torch.nan)
    found = [Found(*one, one[:2], None, None, None, False) for one in said]
    for n, k in enumerate(known):
        span, score = box(alike[n]), float(alike[n].amax())
        chance = None if can is None else float(can[n])
        least = LIKELY if threshold is None else threshold
        able = (
            chance >= least
            if chance is not None
            else None
            if threshold is None
            else score >= threshold
        )
        start, end, text = said[k]
        new = (start, end) if able is False else span
        found[k] = Found(
            *new, text, (start, end), span, round(score, 4), chance and round(chance, 4), able
        )
    return found, shares


def stitch(
    table: np.ndarray, said: Sequence[Sentence], by: Aligner
) -> tuple[Float[Tensor, "K T"], Float[Tensor, " K"] | None]:
    """Similarity, -inf where no window asked, and the head's probability: each the average over the windows."""
    sums, head = WindowSums(len(said), len(table), torch.zeros(0)), True
    for window in windows_near_speech(said, len(table), by.window.seconds):
        cut = table[window.start : window.start + window.seconds]
        got = by.ask(
            torch.from_numpy(np.array(cut, np.float32))[None], [said[k][2] for k in window.rows]
        )
        head = got.alignable is not None
        logit = htm_align.alignable(got, htm_align.STAGE).float().cpu() if head else None
        sums.add(window, got.joint[-1].float().cpu(), got.dual[-1].float().cpu(), logit)
    alike = torch.where(sums.times > 0, sums.similarity.mean(0) / sums.times, -torch.inf)
    if not alike[sums.times > 0].isfinite().all():
        raise UserError(
            "The aligner gives NaN or infinity: its weights or these features are damaged."
        )
    return alike, (sums.alignability / sums.asked).sigmoid() if head else None


def box(alike: Float[Tensor, " T"]) -> tuple[float, float]:
    """First second and end of the run around the highest in which each is at least half as likely."""
    peak = int(alike.argmax())
    low = (alike < alike[peak] - HALF).nonzero().flatten().tolist()
    before = max((t for t in low if t < peak), default=-1)
    after = min((t for t in low if t > peak), default=len(alike))
    return float(before + 1), float(after)


def web_vtt(found: Sequence[Found]) -> str:
    """Cues in order of time; those that cannot be aligned stand at the transcript's time, and a note says so."""
    blocks = ["WEBVTT"]
    for k, one in sorted(enumerate(found, 1), key=lambda item: item[1].start):
        score = "" if one.score is None else f", score {one.score:.2f}"
        if one.alignable is False:
            blocks.append(f"NOTE {k} is not alignable{score}: the transcript's own time")
        blocks.append(
            f"{k}\n{_clock(one.start)} --> {_clock(one.end)}\n{html.escape(one.text, quote=False)}"
        )
    return "\n\n".join(blocks) + "\n"


def _clock(seconds: float) -> str:
    ms = round(1000 * seconds)
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"
