"""What is answered of a video: margins, thresholds, windows and the user's labels, without nets."""

import pytest
import torch

from benchmarks.labelling.answers import (
    Measured,
    choose_threshold,
    decide,
    join_seconds,
    measure_video,
)
from benchmarks.labelling.labels import read_labels
from benchmarks.labelling.reading import choose_window
from ssvid.errors import UserError
from ssvid.shapes import ClipSpec
from tests.helpers import facts, for_each, tells


def test_none_goes_before_unsure():
    for threshold, verdict in ((0.2, "none"), (0.1, "sure"), (None, "sure")):
        assert decide(Measured([], 1.0, 0.2), 1.0, threshold) == verdict
    assert decide(Measured([], 0.9, 0.2), 1.0, 0.1) == "unsure"
    assert decide(Measured([], 0.9, 0.2), 1.0, 0.2) == "none"


def test_equal_labels_of_a_video_keep_their_order_and_lead_by_nothing():
    measured = measure_video(torch.tensor([[1.0, 3.0, 3.0]]), ("x", "y", "z"), 2.0)
    assert [line.label for line in measured.top] == ["y", "z", "x"]
    assert measured.margin == 0 and measured.best_similarity == 1.5


def test_windows_and_segments():
    spec, shift = choose_window(ClipSpec(frames=4, whole=True, size=16), 2.0)
    assert (spec.fps, spec.whole, shift) == (2.0, False, -0.25)
    part = ClipSpec(frames=4, fps=5.0, size=16)
    assert choose_window(part, None) == (part, 0.0)
    with pytest.raises(UserError, match=facts("--window", "spacing")):
        choose_window(part, 1.0)
    parts = [tuple(segment) for segment in join_seconds(["x", "x", "y", "x"])]
    assert parts == [(0, 2, "x"), (2, 3, "y"), (3, 4, "x")]


@for_each(
    "n, share, value, above",
    [(20, 0.05, 18, 1), (20, 0.0, 19, 0), (40, 0.1, 35, 4), (25, 0.05, 23, 1), (20, 1.0, 0, 19)],
)
def test_a_threshold_is_a_quantile_of_the_best_similarities(n, share, value, above):
    values = torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()
    threshold = choose_threshold(values, share, "empty")
    assert threshold.value == value and above <= share * n
    per_cent = f"{100 * above / n:.3g} %"
    assert tells(threshold.sentence, "empty", str(above), str(n)) and per_cent in threshold.sentence


@for_each(
    "text, labels",
    [
        (" a dog sled ,  a   slam dunk", ("a dog sled", "a slam dunk")),
        ("No, yes", ("No", "yes")),
    ],
)
def test_labels_are_taken_as_they_are_written(text, labels, tmp_path):
    assert read_labels(text) == labels
    (tmp_path / "l.txt").write_text("one, two\n\n Three \n")
    assert read_labels(str(tmp_path / "l.txt")) == ("one, two", "Three")
