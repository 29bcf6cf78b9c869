"""A fine-tuning beside the same from random weights: when there is one, and what it tells."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import reports
from ssvid.errors import UserError
from ssvid.finetune import is_cheap
from ssvid.hub import open_encoder
from ssvid.results import read_result
from ssvid.results.twins import SINGLE, add_twins
from ssvid.weights.encoders import hash_encoder, load_encoder
from tests.helpers import facts, tells
from tests.test_finetune import run, same, save_start, weights, write_data


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    return save_start(tmp_path_factory.mktemp("start") / "mine")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("labelled"))


def tell_pretraining(result: dict[str, Any]) -> tuple[float, float]:
    """The difference from the twins as the answers give it, and as the result tells it."""
    correct = result["test"]["correct"]
    ours, theirs = correct["encoder"], correct["random"]
    return (sum(ours) - sum(theirs)) / len(ours), result["gains"]["random"]["difference"]


def test_a_cheap_run_has_a_twin(start, data, tmp_path):
    """The same training from random weights, paired with the encoder by test clip."""
    last = run(start, data, tmp_path / "t", "--twins", "null")
    result, twin = (
        json.loads((tmp_path / "t" / name / "result.json").read_text()) for name in ("", "twin0")
    )
    assert twin["encoder"]["weights"].startswith("random") and twin["controls"] == {}
    assert twin["encoder"]["hash"] == hash_encoder(open_encoder(f"{start}@random0"))
    assert twin["protocol_hash"] == result["protocol_hash"]
    row = result["controls"]["random"]
    assert row["top1"] == twin["top1"] and row["mean_class"] == twin["mean_class"]
    assert result["test"]["correct"]["random"] == twin["test"]["correct"]["encoder"]
    ours, theirs = tell_pretraining(result)
    assert theirs == pytest.approx(ours)
    assert result["notes"] == [SINGLE] and last["gain_over_random"]["shown"] is False
    page = Path(reports([str(tmp_path / "t")])["report"]).read_text()
    assert "random weights" in page and "Fine-tuning of mine" in page


def test_twins_go_on_where_they_were_killed(start, data, tmp_path):
    """Two twins; the second run is cut off, and a command with fewer flags finds both."""
    run(start, data, tmp_path / "t", "--twins", "2")
    before = (tmp_path / "t" / "result.json").read_text()
    second = tmp_path / "t" / "twin1"
    trained = weights(second)
    (second / "checkpoints" / "step_00000006.pt").unlink()
    (second / "result.json").unlink()
    run(start, data, tmp_path / "t", "--twins", "2")
    assert same(weights(second), trained)
    result, again = json.loads(before), json.loads((tmp_path / "t" / "result.json").read_text())
    assert again["gains"] == result["gains"] and again["controls"] == result["controls"]
    assert len(result["controls"]["random"]["of_nets"]) == 2 and "notes" not in result
    assert result["rank"] in (1, 2, 3)
    twins = [load_encoder(tmp_path / "t" / name) for name in ("twin0", "twin1")]
    assert hash_encoder(twins[0]) != hash_encoder(twins[1])


def test_a_dear_run_has_no_twin_unless_it_is_asked_for(start, data, tmp_path, caplog):
    assert is_cheap(900.0) and not is_cheap(901.0)
    dear = tmp_path / "dear"
    run(start, data, dear)
    log = dear / "metrics.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows[-1]["wall_s"] = 3600.0
    log.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with caplog.at_level("INFO", logger="ssvid"):
        run(start, data, dear, "--twins", "null")
    assert tells(caplog.text, "60 minutes", "--twins 1")
    assert not (dear / "twin0").exists()
    result = json.loads((dear / "result.json").read_text())
    assert result["controls"] == {}
    with pytest.raises(UserError, match=facts("--twins", "2", "random")):
        run(Path("test_small_vit"), data, tmp_path / "n", "--twins", "2")
    with pytest.raises(UserError, match=facts("--twins", "-1")):
        run(start, data, tmp_path / "n", "--twins=-1")
    assert not (tmp_path / "n").exists()


def test_files_that_changed_between_run_and_twin_are_refused(start, data, tmp_path):
    run(start, data, tmp_path / "t", "--steps", "1")
    result = read_result(tmp_path / "t" / "result.json")
    assert result is not None
    other = replace(result, test=replace(result.test, paths=["else.mp4", *result.test.paths[1:]]))
    with pytest.raises(UserError, match=facts("clips")):
        add_twins(result, [other])
