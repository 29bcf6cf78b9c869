"""HTM-Align's two numbers equal those of the published code on its reference case.

What that case does not cover is computed by hand.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.metrics.htm_align import Aligned, compute_auc, evaluate, mark_hits, mark_time_hits
from benchmarks.metrics.moving_windows import list_htm_align_windows
from ssvid.data.datasets.htm_align import Spoken, load_annotation
from ssvid.errors import UserError
from tests.helpers import facts


@pytest.fixture(scope="module")
def case(shared: Path):
    folder = shared / "reference" / "tan"
    if not folder.is_dir():
        pytest.skip(f"no reference at {folder}")
    annotation = load_annotation(folder / "htm_align_annotation.json")
    return annotation, np.load(folder / "align_inputs.npz"), np.load(folder / "align_outputs.npz")


def stub(inputs):
    """The model of the case: tables, and what a window adds to them."""

    def model(video: str, start: int, seconds: int, rows: list[int]) -> Aligned:
        keys = ("base", "dual", "pert", "al")
        base, dual, pert, al = (torch.from_numpy(inputs[f"{video}.{key}"]) for key in keys)
        shift = torch.zeros(len(base), seconds)
        shift[:, : pert.shape[1]] = pert[:, :seconds]
        window = slice(start, start + seconds)
        joint, two = base[:, window] + 0.3 * shift, dual[:, window] - 0.2 * shift
        return Aligned(
            joint[rows][None], two[rows][None], al[:, rows] * (1 + 0.1 * math.cos(start / 16))
        )

    return model


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("method", ["overlap-seq", "global"])
def test_equal_to_the_published_evaluation(case, head: bool, method):
    annotation, inputs, outputs = case
    lengths = {video: inputs[f"{video}.base"].shape[1] for video in annotation}
    scored = evaluate(annotation, lengths, stub(inputs), method=method, head=head)
    name = f"{'head' if head else 'nohead'}.{method}"
    assert scored["recall"] == pytest.approx(float(outputs[f"{name}.Recall"]), abs=1e-12)
    assert scored["auc"] == pytest.approx(float(outputs[f"{name}.AUC"]), abs=1e-12)
    if name == "head.overlap-seq":
        for video in annotation:
            similarity, alignability = scored["similarity"][video], scored["alignability"][video]
            assert np.abs(similarity.numpy() - outputs[f"{name}.sim.{video}"]).max() < 1e-6
            theirs = outputs[f"{name}.alignability.{video}"]
            assert np.abs(alignability.numpy() - theirs).max() < 1e-6
        calls = []
        for n, video in enumerate(sorted(annotation)):
            calls += [[n, *call] for call in scored["calls"][video]]
        assert calls == outputs["overlap-seq.calls_video_start_len_firstsent_lastsent"].tolist()


def test_which_sentences_a_window_asks():
    """22 windows of 384 s. The first and last windows reach to the ends of the list.

    A window without a sentence near it that cannot be aligned is left out.
    """
    times = [(10.0, 12.0), (20.0, 22.0), (100.0, 102.0), (330.0, 332.0), (380.0, 384.0)]
    sentences = [Spoken(n % 2 == 1, *time, "") for n, time in enumerate([*times, (381.0, 383.0)])]
    windows = {}
    for start, seconds, rows in list_htm_align_windows(sentences, 384):
        windows[start] = seconds, rows[0], rows[-1]
    assert (
        windows[0] == (64, 0, 2) and windows[48] == (64, 0, 2) and windows[64] == (64, 0, 2)
    )  # up to 11 - 64 .. 11 + 64
    assert windows[80] == (64, 2, 2) and 176 not in windows and windows[256] == (64, 4, 4)
    assert (
        windows[288] == (64, 4, 5) and windows[336] == (48, 4, 5) and max(windows) == 336
    )  # the last four, to the end
    assert list(list_htm_align_windows([Spoken(True, 5.0, 6.0, "")], 384)) == []
    short = [
        Spoken(False, 5.0, 6.0, ""),
        Spoken(True, 20.0, 22.0, ""),
    ]  # the first four are never the last four
    assert {window.rows for window in list_htm_align_windows(short, 90)} == {range(1)}
    assert list(list_htm_align_windows([Spoken(False, 5.0, 6.0, "")], 20)) == [
        (0, 20, range(1))
    ]  # too short for any: one


def test_both_ends_count_and_what_was_not_computed_does_not():
    sentences = [Spoken(True, 2.5, 3.5, name) for name in "abc"] + [Spoken(True, 0.0, 0.5, "d")]
    table = torch.full((4, 8), -5.0)
    table[0, 2] = table[1, 4] = table[2, 5] = -1.0
    table[:, 7] = 0.0  # the highest, but in no window
    table[3, 1] = -1.0
    assert mark_hits(sentences, table).tolist() == [True, True, False, True]


def test_the_narrations_own_times():
    sentences = [
        Spoken(True, 2.5, 3.5, "a"),
        Spoken(True, 2.5, 3.5, "b"),
        Spoken(True, 2.5, 3.5, "c"),
    ]
    assert mark_time_hits(sentences, [(0.0, 4.0), (1.0, 2.8), (4.0, 6.0)]).tolist() == [
        True,
        False,
        False,
    ]  # 2, 1.9, 5


def test_averages_of_windows_and_pooling_over_videos():
    """Two windows hold second 20 of one video and disagree; the other video has three sentences."""
    sentences = {
        "a": [
            Spoken(True, 20.0, 20.0, ""),
            Spoken(False, 0.0, 2.0, ""),
        ],  # its window goes up to the last that is not alignable
        "b": [Spoken(True, 5.0, 6.0, ""), Spoken(True, 5.0, 6.0, ""), Spoken(False, 5.0, 6.0, "")],
    }

    def model(video: str, start: int, seconds: int, rows: list[int]) -> Aligned:
        sim = torch.full((1, len(rows), seconds), 0.1)
        if video == "a":
            sim[0, :, 20 - start] = 1.0 + start
        return Aligned(sim, 3 * sim, torch.arange(1.0, 4.0)[:, None].expand(3, len(rows)) + start)

    scored = evaluate(sentences, {"a": 49, "b": 40}, model, head=True)
    first, second = scored["calls"]["a"]
    assert (first[:2], second[:2]) == ((0, 49), (16, 33))
    assert scored["similarity"]["a"][0, 20].item() == pytest.approx(2 * (1 + 17) / 2)
    assert scored["alignability"]["a"].tolist() == [3 + 8, 3 + 8]  # stage 3, averaged over windows
    assert scored["recall"] == pytest.approx(1 / 3)  # of all sentences, not of videos (1 and 0)
    whole = evaluate(sentences, {"a": 49, "b": 40}, model, method="global", head=True)
    assert whole["similarity"]["a"][0, 20].item() == 1.0 and whole["alignability"][
        "a"
    ].tolist() == [
        3.0,
        3.0,
    ]


def test_auc_with_ties_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (200,), generator=generator).float()
    labels = torch.rand(200, generator=generator) < 0.3
    assert compute_auc(scores, labels) == pytest.approx(
        roc_auc_score(labels.numpy(), scores.numpy()), abs=1e-12
    )
    assert compute_auc(torch.ones(4), torch.tensor([True, False, True, False])) == 0.5
    assert compute_auc(torch.ones(2), torch.tensor([True, True])) is None


def test_what_cannot_be_scored_is_reported():
    def model(video: str, start: int, seconds: int, rows: list[int]) -> Aligned:
        return Aligned(torch.ones(1, len(rows), seconds), torch.ones(1, len(rows), seconds), heads)

    sentences = {"a": [Spoken(False, 1.0, 2.0, "")]}
    heads: torch.Tensor | None = None
    for table, lengths, fact in (
        (None, {"a": 64}, "head"),
        (torch.ones(2, 1), {"a": 64}, "3"),
        (torch.ones(3, 1), {}, "a"),
    ):
        heads = table
        with pytest.raises(UserError, match=facts(fact)):
            evaluate(sentences, lengths, model, head=True)
    assert evaluate({"a": []}, {"a": 64}, model, head=False)["recall"] is None
