"""Two encoders asked together: as a user starts it, and what is said of them."""

import json
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
  - {task: classify, kind: ten_crops, probe: coclr, with: {rates: [0.3], weight_decays: [0.001], epochs: 5}}
  - {task: order, probe: prototypes}
"""


def test_two_streams_and_each_alone(tmp_path: Path):
    """Three windows of 6 frames in the 11 of a video; a task that asks one encoder alone says so."""
    nets = ["--encoder", NET, "--encoder", f"{NET}+{NET}", "--layers", "auto"]
    data = f"--data synthetic --data.root {tmp_path}/c --data.train 24 --data.val 12 --data.test 12".split()
    cache = ["--cache", str(tmp_path / "c")]
    result, last = ask(tmp_path, SUITE, *nets, *data, *cache)
    assert [row["cell"] for row in last["failed"]] == ["order.prototypes"]
    found = {file.name: json.loads(file.read_text()) for file in (tmp_path / "o").glob("*.json")}
    assert len(found) == 5
    for one in found.values():
        if one["cell"] == "order.prototypes":
            continue
        assert one["protocol"]["layers"] == [] and one["protocol"]["poolings"] == ["mean"], one[
            "cell"
        ]
        assert (
            len(one["test"]["labels"]) == 12 == one["data"]["clips"]["test"]
            and one["metric"] in one
        )
        assert {"random", "pixels", "shuffled"} <= one["controls"].keys() and one["gains"][
            "random"
        ]["interval"]
        both = len(one["encoder"].get("streams", ()))
        assert ("others" in one["protocol"]) == (both == 2) == ("+" in one["encoder"]["given"])
    same = {one["cell"]: set() for one in found.values()}
    for one in found.values():
        same[one["cell"]].add(one[one["metric"]])
    assert len(same["retrieval"]) == 1  # twice the same encoder says what it says alone
    assert "strips" in next(one for one in found.values() if one["cell"] == "retrieval")
    (tmp_path / "p").mkdir()
    result, _ = ask(tmp_path / "p", SUITE, *nets[:2], *data, *cache, "--clips", "2")
    assert tells(result.stderr, "--clips")


def test_a_pair_is_described_by_both():
    of = open_evaluated_encoder(f"{NET}+{NET}", "two", UNCHANGED, "auto")
    one = of.streams[0].info
    assert of.info.parameters == 2 * one.parameters and of.info.hash != one.hash
    assert of.info.weights.startswith("random") and [e.given for e in of.info.streams] == [NET] * 2
    trained = [
        part._replace(info=replace(one, weights="trained", licence="X")) for part in of.fused
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
    of = open_evaluated_encoder(f"{NET}+{NET}", "two", UNCHANGED, "auto")
    known, bad, unknown = (
        Leak(checked=True, clips=0),
        Leak(checked=True, clips=3),
        Leak(checked=False),
    )
    for each, wanted in (
        ([known, bad], bad),
        ([unknown, bad], bad),
        ([known, unknown], unknown),
        ([known] * 2, known),
    ):
        told = iter(each)
        monkeypatch.setattr(late_fusion, "leak", lambda *_, told=told: next(told))
        assert find_leak(of, Manifest((), Path("nowhere"))) == wanted
