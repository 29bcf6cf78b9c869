"""Two encoders that are fused: the command as a user starts it, and how they are described."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.features import late_fusion
from benchmarks.features.late_fusion import describe_streams, find_leak, open_evaluated_encoder
from ssvid.data.manifest import Manifest
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.errors import UserError
from ssvid.results import Leak
from tests.benchmarks.test_run import ask
from tests.helpers import facts, tells

NET = "tests.benchmarks.test_run:tiny_vit"
SUITE = """
cells:
  - {task: retrieval, preset: coclr, ks: [1, 5]}
  - task: classify
    kind: ten_crops
    probe: coclr
    with: {rates: [0.3], weight_decays: [0.001], epochs: 5}
  - {task: order, probe: prototypes}
"""


@pytest.mark.slow
def test_two_streams_and_each_alone(tmp_path: Path):
    """Three windows of 6 frames in the 11 of a video. A task that cannot fuse encoders says so."""
    nets = ["--encoder", NET, "--encoder", f"{NET}+{NET}", "--twins", "2"]
    sizes = ["--data.train", "24", "--data.val", "12", "--data.test", "12"]
    data = ["--data", "synthetic", "--data.root", str(tmp_path / "c"), *sizes]
    cache = ["--cache", str(tmp_path / "c")]
    result, last = ask(tmp_path, SUITE, *nets, *data, *cache)
    assert [row["cell"] for row in last["failed"]] == ["order.prototypes"]
    results = [json.loads(file.read_text()) for file in (tmp_path / "o").glob("*.json")]
    assert len(results) == 5
    scores = defaultdict(set)
    for content in results:
        cell, protocol = content["cell"], content["protocol"]
        scores[cell].add(content[content["metric"]])
        assert ("strips" in content) == (cell == "retrieval")
        if cell == "order.prototypes":
            continue
        assert protocol["layers"] == [] and protocol["poolings"] == ["mean"], cell
        assert len(content["test"]["labels"]) == 12 == content["data"]["clips"]["test"]
        assert content["metric"] in content
        assert {"random", "floor", "shuffled"} <= content["controls"].keys()
        assert content["gains"]["random"]["interval"]
        both = len(content["encoder"].get("streams", ()))
        assert ("others" in protocol) == (both == 2) == ("+" in content["encoder"]["argument"])
    assert len(scores["retrieval"]) == 1  # an encoder fused with itself scores as it does alone
    (tmp_path / "p").mkdir()
    result, _ = ask(tmp_path / "p", SUITE, *nets[:2], *data, *cache, "--clips", "2")
    assert tells(result.stderr, "--clips")


def test_a_pair_is_described_by_both():
    encoder = open_evaluated_encoder(f"{NET}+{NET}", "two", UNCHANGED, "auto")
    single_info = encoder.streams[0].info
    assert (
        encoder.info.parameters == 2 * single_info.parameters
        and encoder.info.hash != single_info.hash
    )
    assert (
        encoder.info.weights.startswith("random")
        and [e.argument for e in encoder.info.streams] == [NET] * 2
    )
    trained = [
        part._replace(info=replace(single_info, weights="trained", licence="X"))
        for part in encoder.fused
    ]
    assert (
        describe_streams(trained, "a+b", "ab").weights == "trained"
        and describe_streams(trained, "", "").licence == "X"
    )
    assert open_evaluated_encoder(NET, "one", UNCHANGED, "auto").streams[0].argument == NET


def test_mistakes_are_one_sentence(tmp_path: Path):
    with pytest.raises(UserError, match=facts(f"{NET}+")):
        open_evaluated_encoder(f"{NET}+", "a", UNCHANGED, "auto")
    with pytest.raises(UserError, match=facts("--clip.modality")):
        open_evaluated_encoder(f"{NET}+{NET}", "a", ClipChange(modality="flow"), "auto")
    (tmp_path / "a+b").mkdir()
    with pytest.raises(UserError, match=r"a\+b"):  # a folder of that name, without a run
        open_evaluated_encoder(str(tmp_path / "a+b"), "a", UNCHANGED, "auto")


def test_a_leak_of_one_is_a_leak_of_both(monkeypatch):
    encoder = open_evaluated_encoder(f"{NET}+{NET}", "two", UNCHANGED, "auto")
    checked, bad, unchecked = (
        Leak(checked=True, clips=0),
        Leak(checked=True, clips=3),
        Leak(checked=False),
    )
    for leaks, expected in (
        ([checked, bad], bad),
        ([unchecked, bad], bad),
        ([checked, unchecked], unchecked),
        ([checked] * 2, checked),
    ):
        iterator = iter(leaks)
        monkeypatch.setattr(late_fusion, "check_leak", lambda *_, iterator=iterator: next(iterator))
        assert find_leak(encoder, Manifest((), Path("nowhere"))) == expected
