"""Rows with sentences -> what is said beside what is seen: a clip with its bag of sentences, or a window of features.

The only file that chooses which sentence a sample is about. A row's sentences are in order of start; their times are in
seconds of the video and need not be right.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssvid.data.clips import Clips
from ssvid.data.decode import stamps
from ssvid.data.manifest import Manifest
from ssvid.data.samples import Samples
from ssvid.data.sampling import clip_from, need_part
from ssvid.data.store import origin, read_features
from ssvid.errors import DecodeError, UserError
from ssvid.randomness import uniform
from ssvid.shapes import Bag, ClipSpec, Views, Window

Spoken = tuple[float, float, str]  # start s, end s, text
NOTHING = (
    "[UNK]"  # said in a window without a sentence, from its first second to its last (published)
)


class Bags(Clips):
    """One clip near a sentence drawn from the row, and that sentence with its neighbours as candidates (MIL-NCE)."""

    def __init__(
        self, manifest: Manifest, views: Views, *, seed: int, decoder: str = "pyav"
    ) -> None:
        super().__init__(manifest, views, seed=seed, decoder=decoder)
        assert isinstance(views.text, Bag)
        self.bag = views.text
        need_part(views.clips[0], "Clips near a sentence")
        spoken(manifest)

    def _load(self, epoch: int, row: int) -> dict[str, Any]:
        said, path = self.manifest.rows[row].sentences, self.manifest.path(row)
        which, when = uniform(self.seed, "sentence", epoch, row, 2)[0].tolist()
        at = int(which * len(said))
        table, spec = stamps(path, self.manifest.rows[row].fps), self.views.clips[0]
        start = begin(said[at], self.bag.min_s, seconds_of(spec, table), when)
        frames = self._frames(row, clip_from(spec, table, start), spec.modality)
        padded = int(
            start + seconds_of(spec, table)
            > float(table[-1] - table[0]) + seconds_of(spec, table, 1)
        )
        sample = self._sample(torch.stack(self._cut(frames, epoch, row, 0)), epoch, row, padded)
        return {
            **sample,
            "sentences": [said[i][2] for i in neighbours(said, at, self.bag.sentences)],
        }


def neighbours(said: Sequence[Spoken], at: int, n: int) -> list[int]:
    """The sentence and those around it, taken one by one on the side that keeps the whole shorter; of a video with
    fewer the last is repeated (published: the first, where the run grew to the end before)."""
    first = last = at
    while last - first + 1 < min(n, len(said)):
        before = said[last][1] - said[first - 1][0] if first > 0 else np.inf
        after = said[last + 1][1] - said[first][0] if last + 1 < len(said) else np.inf
        first, last = (first - 1, last) if before < after else (first, last + 1)
    return [min(first + i, len(said) - 1) for i in range(n)]


def begin(sentence: Spoken, min_s: float, clip_s: float, u: float) -> float:
    """A whole second from which the clip lies within the sentence, which is widened to `min_s` about its middle and
    then cut to whole seconds, as in MIL-NCE's loader."""
    start, end = sentence[:2]
    if end - start < min_s:
        start = max(0.0, start - (min_s - (end - start)) / 2)
        end = start + min_s
    low = int(start)
    high = int(max(low, int(end) - clip_s))
    return float(low + int(u * (high - low + 1)))


def seconds_of(spec: ClipSpec, table: np.ndarray, frames: int | None = None) -> float:
    """How long a clip lasts, or so many of its frames, each shown until the next."""
    gap = (
        1 / spec.fps
        if spec.fps
        else (spec.stride or 1) * float(np.median(np.diff(table)))
        if len(table) > 1
        else 0.0
    )
    return (frames or spec.frames) * gap


class Heard(NamedTuple):
    """A window: its first second and what is said in it."""

    start: int
    sentences: list[str]
    spans: list[tuple[int, int]]  # seconds of the window


class FeatureWindows(Samples):
    """Stored features of consecutive seconds from a sentence of the row on, and all that is said there (TAN)."""

    def __init__(self, manifest: Manifest, views: Views, *, seed: int) -> None:
        assert isinstance(views.text, Window)
        self.manifest, self.views, self.seed, self.window = manifest, views, seed, views.text
        self.row = range(len(manifest))
        spoken(manifest)
        if lacking := [row.path for row in manifest.rows if not row.features]:
            raise UserError(
                f"{len(lacking)} of {len(manifest)} videos of {manifest.root} have no stored features, first "
                f"{lacking[0]}: ssvid.extract --per_second --out DIR makes them, --data.features DIR names them."
            )
        self.dim = origin(manifest).width  # another one is a bad file

    def _load(self, epoch: int, row: int) -> dict[str, Any]:
        path, T = self.manifest.root / self.manifest.rows[row].features, self.window.seconds
        try:
            table = read_features(path, self.dim)
        except UserError as error:
            raise DecodeError(path, str(error)) from error
        if not len(table):
            raise DecodeError(path, "no seconds in it")
        heard = hear(
            self.manifest.rows[row].sentences,
            len(table),
            self.window,
            uniform(self.seed, "window", epoch, row, 1),
        )
        seconds = np.arange(heard.start, heard.start + T)
        spans = torch.tensor(heard.spans, dtype=torch.float32)  # K 2
        return self.sample(
            epoch,
            row,
            features=torch.from_numpy(table[seconds.clip(max=len(table) - 1)]),
            video_padding_mask=torch.from_numpy(seconds >= len(table)),
            sentences=heard.sentences,
            spans_s=spans,
            span_fractions=(heard.start + spans) / len(table),
        )


def hear(said: Sequence[Spoken], length: int, window: Window, u: Tensor) -> Heard:
    """Begin at a sentence drawn from those that leave a whole window, and take what follows until one does not fit."""
    said = [one for one in said if one[1] < length]
    last = max((end for _, end, _ in said), default=0.0)
    firsts = [i for i, (start, _, _) in enumerate(said) if start < last - window.seconds]
    if not any(start < last - window.seconds - 1 for start, _, _ in said):
        return silent(0, window)
    at = firsts[int(float(u) * len(firsts))]
    begins = round(said[at][0])
    kept: list[tuple[tuple[int, int], str]] = []
    for start, end, text in said[at:]:
        low, high = round(start) - begins, round(end) - begins
        if (
            low > window.seconds
            or high - low < 1
            or min(high, window.seconds) <= low
            or not window.can_encode(text)
        ):
            break
        kept.append(((low, min(high, window.seconds)), text))
    return (
        Heard(begins, [text for _, text in kept], [span for span, _ in kept])
        if kept
        else silent(begins, window)
    )


def silent(start: int, window: Window) -> Heard:
    return Heard(start, [NOTHING], [(0, window.seconds)])


def spoken(manifest: Manifest) -> None:
    """Refuse rows of which nothing is said."""
    if mute := [row.path for row in manifest.rows if not row.sentences]:
        raise UserError(
            f"{len(mute)} of {len(manifest)} videos of {manifest.root} have no sentences, first {mute[0]}: this "
            "objective learns from narrated videos, such as --data narrated --data.transcripts FILE."
        )
