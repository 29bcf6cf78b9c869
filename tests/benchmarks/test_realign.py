"""The method of benchmarks.align, with an aligner that knows where each sentence is seen."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.alignment.realign import (
    AlignedSentence,
    Aligner,
    find_span,
    format_web_vtt,
    realign,
)
from benchmarks.metrics.moving_windows import list_windows_near_speech
from ssvid.data.narration import readers
from ssvid.errors import UserError
from ssvid.nn.timeline import Aligned
from ssvid.shapes import Window
from tests.helpers import facts, tells

WORDS = ["whisk eggs", "add sugar", "fold flour", "melt butter", "bake it"]


def make_aligner(
    truth: dict[str, tuple[int, int]], calls: list | None = None, head: bool = True
) -> Aligner:
    """An aligner that is sure of the true seconds. Row t of its features is t.

    A sentence that is not in `truth` is not alignable. `calls` collects what it is called with.
    """

    def align_window(features: torch.Tensor, texts: list[str]) -> Aligned:
        seconds = features[0, :, 0]
        spans = torch.tensor([truth.get(text, (-9, -9)) for text in texts])
        right = (seconds >= spans[:, :1]) & (seconds < spans[:, 1:])
        (calls if calls is not None else []).append((int(seconds[0]), len(seconds), list(texts)))
        logits = torch.where(spans[:, 0] >= 0, 5.0, -5.0).expand(3, -1)
        return Aligned(14.0 * right[None], 10.0 * right.expand(2, -1, -1), logits if head else None)

    return Aligner(
        align_window, Window(seconds=64, can_encode=lambda text: text != "zzz"), 4, "hash"
    )


def make_clock_features(seconds: int) -> np.ndarray:
    return np.repeat(np.arange(seconds, dtype=np.float32)[:, None], 4, 1)


def test_sentences_are_found_where_they_are_seen():
    sentences = [(float(20 * k), 20.0 * k + 4, text) for k, text in enumerate(WORDS)]
    # The last sentence is never seen.
    truth = {}
    for k, text in enumerate(WORDS[:4]):
        truth[text] = (20 * k + 7, 20 * k + 7 + k + 1)
    aligned, likelihood = realign(make_clock_features(150), sentences, make_aligner(truth))
    for k, sentence in enumerate(aligned[:4]):
        times = (sentence.start, sentence.end)
        assert times == truth[sentence.text] == sentence.span
        assert sentence.spoken == sentences[k][:2] and sentence.score == 12.0
        assert sentence.alignable and sentence.alignability is not None
    last = aligned[4]
    assert last.alignable is False and last.span is not None
    assert (last.start, last.end) == last.spoken
    assert (
        likelihood.shape == (5, 150)
        and likelihood[1].nan_to_num(0).argmax() == 27
        and likelihood[1, 27] == 1
    )


def test_a_word_that_nobody_knows_keeps_its_time_and_is_not_asked():
    calls: list = []
    sentences = [(1.0, 3.0, "zzz"), (2.0, 5.0, "add sugar")]
    aligned, likelihood = realign(
        make_clock_features(30), sentences, make_aligner({"add sugar": (9, 12)}, calls)
    )
    assert aligned[0] == AlignedSentence(1.0, 3.0, "zzz", (1.0, 3.0), None, None, None, False)
    assert (aligned[1].start, aligned[1].end) == (9.0, 12.0) and likelihood[0].isnan().all()
    assert calls == [(0, 30, ["add sugar"])]
    with pytest.raises(UserError, match=facts("1")):
        realign(make_clock_features(30), sentences[:1], make_aligner({}))


def test_windows_ask_what_is_said_near_and_cover_every_second():
    sentences = [(float(t), t + 4.0, "x") for t in range(0, 400, 10)]
    windows = list(list_windows_near_speech(sentences, 400, 64))
    assert [start for start, _, _ in windows] == list(range(0, 368, 16))
    assert windows[-1][:2] == (352, 48)
    assert [windows[7].rows[0], windows[7].rows[-1]] == [5, 24]  # from 48 to 240 s
    for k in range(len(sentences)):
        seconds = set()
        for start, n, rows in windows:
            if k in rows:
                seconds.update(range(start, start + n))
        assert set(range(max(0, 10 * k - 40), min(400, 10 * k + 40))) <= seconds
    assert list(list_windows_near_speech(sentences[:1], 5, 64)) == [(0, 5, [0])]
    # A sentence of a plain list may be anywhere.
    for window in list_windows_near_speech([(0.0, 400.0, "x")], 400, 64):
        assert window.rows == [0]


def test_a_box_is_what_is_half_as_likely_without_a_gap():
    half = math.log(2)
    row = torch.tensor(
        [-math.inf, 4.7, 4.0, 4.4, 5.0, 4.9, 5.0 - half + 1e-3, 5.0 - half - 1e-3, 5.0]
    )
    assert find_span(row) == (4.0 - 1, 7.0)
    assert find_span(torch.zeros(3)) == (0.0, 3.0) and find_span(torch.tensor([0.0, 9.0])) == (
        1.0,
        2.0,
    )


def test_thresholds_are_of_the_head_or_of_the_score():
    sentences = [(1.0, 3.0, "add sugar"), (2.0, 5.0, "melt butter")]
    truth = {"add sugar": (9, 12)}
    expected = {None: [True, False], 0.001: [True, True], 0.999: [False, False]}
    without_head = {None: [None, None], 12.0: [True, False], 12.5: [False, False]}
    for head, answers in ((True, expected), (False, without_head)):
        for threshold, alignable in answers.items():
            aligned, _ = realign(
                make_clock_features(30), sentences, make_aligner(truth, head=head), threshold
            )
            first, second = aligned
            assert [first.alignable, second.alignable] == alignable
    with pytest.raises(UserError, match=facts("--threshold")):
        realign(make_clock_features(30), sentences, make_aligner(truth), 7.0)


def test_features_that_make_no_sense():
    aligner = make_aligner({})

    def align_to_nan(*args):
        return Aligned(*[tensor * torch.nan for tensor in aligner.align_window(*args)])

    broken = aligner._replace(align_window=align_to_nan)
    with pytest.raises(UserError, match=facts("NaN")):
        realign(make_clock_features(9), [(1.0, 2.0, "x")], broken)


def test_web_vtt_is_read_again(tmp_path: Path):
    aligned = [
        AlignedSentence(
            3725.5, 3730.0, "a < b & c --> d", (1.0, 2.0), (3725.5, 3730.0), 3.0, 0.9, True
        ),
        AlignedSentence(7.25, 8.0, "said, not seen", (7.25, 8.0), (1.0, 2.0), 1.0, 0.1, False),
    ]
    (tmp_path / "v.vtt").write_text(format_web_vtt(aligned))
    assert tells(format_web_vtt(aligned), "01:02:05.500 --> 01:02:10.000", "1.00")
    cues = [line for line in format_web_vtt(aligned).splitlines() if line.isdigit()]
    assert cues == ["1", "2"]  # though the transcript has them the other way round
    sentences = [(7.25, 8.0, "said, not seen"), (3725.5, 3730.0, "a < b & c --> d")]
    assert readers.read(tmp_path / "v.vtt") == {"v": sentences}
