"""Rows with sentences -> samples of video and text.

A sample is a clip with a bag of sentences, or a window of stored features with its sentences. This
is the only file that chooses which sentence a sample is about. The sentences of a row are in order
of start; their times are in seconds of the video and may be wrong.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssvid.data.clips import Clips
from ssvid.data.decode import read_span, read_timestamps
from ssvid.data.manifest import Manifest
from ssvid.data.samples import Samples
from ssvid.data.sampling import clip_from, need_part
from ssvid.data.scan import NEAR
from ssvid.data.store import find_origin, read_features
from ssvid.errors import DecodeError, UserError
from ssvid.randomness import uniform
from ssvid.shapes import Bag, ClipSpec, Views, Window

Spoken = tuple[float, float, str]  # start s, end s, text
# The sentence of a window without sentences; it lasts for the whole window (published).
NOTHING = "[UNK]"


class Bags(Clips):
    """A clip near a random sentence of the row, with this sentence and its neighbours (MIL-NCE)."""

    def __init__(
        self, manifest: Manifest, views: Views, *, seed: int, decoder: str = "pyav"
    ) -> None:
        super().__init__(manifest, views, seed=seed, decoder=decoder)
        assert isinstance(views.text, Bag)
        self.bag = views.text
        need_part(views.clips[0], "Clips near a sentence")
        need_sentences(manifest)

    def _load(self, epoch: int, row: int) -> dict[str, Any]:
        spoken, path = self.manifest.rows[row].sentences, self.manifest.path(row)
        u_sentence, u_start = uniform(self.seed, "sentence", epoch, row, 2)[0].tolist()
        chosen = int(u_sentence * len(spoken))
        fps, spec = self.manifest.rows[row].fps, self.views.clips[0]
        table, span = read_timestamps(path, fps), read_span(path, fps)
        clip_s = seconds_of(spec, table)
        start = choose_start(spoken[chosen], self.bag.min_s, clip_s, u_start)
        frames = self._read_frames(row, clip_from(spec, table, span.start + start), spec.modality)
        last = span.start + start + clip_s - seconds_of(spec, table, 1)  # when its last frame is
        padded = int(last > span.end - NEAR)
        sample = self._make_sample(
            torch.stack(self._cut(frames, epoch, row, 0)), epoch, row, padded
        )
        candidates = choose_neighbours(spoken, chosen, self.bag.sentences)
        return {**sample, "sentences": [spoken[i][2] for i in candidates]}


def choose_neighbours(spoken: Sequence[Spoken], chosen: int, n: int) -> list[int]:
    """Indices of n sentences: the chosen one and those around it.

    Neighbours are added one at a time, on the side that keeps the whole run shorter. If the video
    has fewer than n sentences, the last one is repeated (in the published code the first one,
    where the run reached the end before).
    """
    first = last = chosen
    while last - first + 1 < min(n, len(spoken)):
        before = spoken[last][1] - spoken[first - 1][0] if first > 0 else np.inf
        after = spoken[last + 1][1] - spoken[first][0] if last + 1 < len(spoken) else np.inf
        first, last = (first - 1, last) if before < after else (first, last + 1)
    return [min(first + i, len(spoken) - 1) for i in range(n)]


def choose_start(sentence: Spoken, min_s: float, clip_s: float, u: float) -> float:
    """A whole second at which a clip within the sentence begins, chosen by the uniform `u`.

    The sentence is first widened to `min_s` about its middle and then cut to whole seconds, as in
    MIL-NCE's loader.
    """
    start, end = sentence[:2]
    if end - start < min_s:
        start = max(0.0, start - (min_s - (end - start)) / 2)
        end = start + min_s
    low = int(start)
    high = int(max(low, int(end) - clip_s))
    return float(low + int(u * (high - low + 1)))


def seconds_of(spec: ClipSpec, table: np.ndarray, frames: int | None = None) -> float:
    """How long a clip lasts, or this number of its frames, each shown until the next.

    `table`: the times of all frames of the video.
    """
    if spec.fps:
        gap = 1 / spec.fps
    elif len(table) > 1:
        gap = (spec.stride or 1) * float(np.median(np.diff(table)))
    else:
        gap = 0.0
    return (frames or spec.frames) * gap


class Heard(NamedTuple):
    """A window: its first second, and what is said in it."""

    start: int
    sentences: list[str]
    spans: list[tuple[int, int]]  # seconds of the window


class FeatureWindows(Samples):
    """Stored features of consecutive seconds and the sentences spoken in them (TAN).

    A window begins at a random sentence of the row. Raises a UserError if a row has no sentences or
    no features.
    """

    def __init__(self, manifest: Manifest, views: Views, *, seed: int) -> None:
        assert isinstance(views.text, Window)
        self.manifest, self.views, self.seed, self.window = manifest, views, seed, views.text
        self.row = range(len(manifest))
        need_sentences(manifest)
        if lacking := [row.path for row in manifest.rows if not row.features]:
            raise UserError(
                f"{len(lacking)} of {len(manifest)} videos of {manifest.title} have no stored "
                f"features, first {lacking[0]}: ssvid.extract --per_second --out DIR makes them, "
                "--data.features DIR names them."
            )
        self.dim = find_origin(manifest).width  # features of another width are a bad file

    def _load(self, epoch: int, row: int) -> dict[str, Any]:
        path, T = self.manifest.root / self.manifest.rows[row].features, self.window.seconds
        try:
            table = read_features(path, self.dim)
        except UserError as error:
            raise DecodeError(path, str(error)) from error
        if not len(table):
            raise DecodeError(path, "no seconds in it")
        spoken, u = self.manifest.rows[row].sentences, uniform(self.seed, "window", epoch, row, 1)
        heard = choose_window(spoken, len(table), self.window, u)
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


def choose_window(spoken: Sequence[Spoken], length: int, window: Window, u: Tensor) -> Heard:
    """A window from a random sentence on, with the sentences up to the first that does not fit.

    Only sentences that leave a whole window before the last end are drawn. `length`: seconds of the
    video. `u`: the uniform that chooses the sentence. A video that is too short is a window of
    `NOTHING`.
    """
    spoken = [sentence for sentence in spoken if sentence[1] < length]
    last = max(spoken, key=itemgetter(1))[1] if spoken else 0.0
    firsts = [i for i, (start, _, _) in enumerate(spoken) if start < last - window.seconds]
    if not any(start < last - window.seconds - 1 for start, _, _ in spoken):
        return silent_window(0, window)
    first = firsts[int(float(u) * len(firsts))]
    begin = round(spoken[first][0])
    heard = Heard(begin, [], [])
    for start, end, text in spoken[first:]:
        low, high = round(start) - begin, round(end) - begin
        inside = min(high, window.seconds)
        is_outside = low > window.seconds or high - low < 1 or inside <= low
        if is_outside or not window.can_encode(text):
            break
        heard.sentences.append(text)
        heard.spans.append((low, inside))
    return heard if heard.sentences else silent_window(begin, window)


def silent_window(start: int, window: Window) -> Heard:
    return Heard(start, [NOTHING], [(0, window.seconds)])


def need_sentences(manifest: Manifest) -> None:
    """Raise a UserError if a row has no sentences."""
    if mute := [row.path for row in manifest.rows if not row.sentences]:
        raise UserError(
            f"{len(mute)} of {len(manifest)} videos of {manifest.title} have no sentences, first "
            f"{mute[0]}: this objective learns from narrated videos, such as --data narrated "
            "--data.transcripts FILE."
        )
