"""What an extraction will cost, from given times; and the flags that bound it."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.features import cost
from benchmarks.features.cost import Estimate, Missing, estimate_cost, name_bounds
from benchmarks.features.options import FeatureOptions
from benchmarks.run import run
from ssvid.engine.train_flags import ClipChange
from ssvid.registry import datasets
from ssvid.shapes import ClipSpec
from tests.helpers import tells

LARGE = ClipSpec(frames=16, size=224, stride=4)


def test_each_kind_of_clip_is_a_pass():
    """100 clips, 0.6 s a pass: the encoder's, a bag of four and shuffled ones; two twins."""
    names = ["encoder", "encoder:tokens", "encoder/bag", "encoder/shuffled", "pixels"]
    names += ["twin0", "twin1", "twin1/shuffled"]
    rows = dict.fromkeys(names, 100) | {"twin0": 0}
    estimate = estimate_cost(Missing(rows, 1), names, 0.6)
    assert estimate.encoder_min == pytest.approx(6.0)
    assert estimate.twins_min == pytest.approx(2.0)
    assert estimate_cost(Missing(rows, 3), names, 0.6).minutes == pytest.approx(3 * 8.0)


def test_the_sizes_of_the_suite_bound_it():
    """Half the frames of a 4.67th of the side: a 43.6th of the pixels."""
    options = FeatureOptions(suite_clip=(("frames", 8), ("size", 48)))
    text = name_bounds(Estimate(20.0, 80.0), LARGE, options, 8)
    assert tells(text, "100 min", "--clip.frames 8", "--clip.size 48", "2.3 min")
    assert tells(text, "--twins 2", "40.0 min") and "--clips" not in text
    small = replace(LARGE, frames=8, size=48)
    text = name_bounds(Estimate(20.0, 0.0), small, replace(options, clips=4), 2)
    assert tells(text, "--clips 1", "5.0 min") and "48, as" not in text and "--twins" not in text


def test_a_suite_on_other_videos_says_what_its_own_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """On the videos of a user an encoder keeps its own clip, and that is said."""
    monkeypatch.setattr(cost, "measure_pass", lambda *_: 9.0)
    monkeypatch.setattr("benchmarks.features.bench.measure_pass", lambda *_: 9.0)
    data = datasets["synthetic"](str(tmp_path), train=16, labelled=16, val=8, test=8)
    suite = tmp_path / "one.yaml"
    suite.write_text(
        "data: {name: synthetic, at_most: {frames: 2, size: 16}}\n"
        "cells: [{task: classify, probe: knn}]\n"
    )
    out = str(tmp_path / "out")
    clip = ClipChange(frames=4, size=32)
    with caplog.at_level("INFO", logger="ssvid"):
        run(["vit_tiny"], out, suite=str(suite), data=data, clip=clip, cache=out, workers=0)
    (warning,) = [row.getMessage() for row in caplog.records if row.levelname == "WARNING"]
    assert tells(warning, "--clip.frames 2", "--clip.size 16")
    assert "cell 1 of 1" in caplog.text
