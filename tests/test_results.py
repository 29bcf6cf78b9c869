"""The schema of result files: what is written is read again, files of before are read, later ones
are refused.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssvid.errors import UserError
from ssvid.results import SCHEMA, Fold, read_folder, read_result, write_result
from ssvid.results.json_form import from_json, to_json
from ssvid.results.provenance import describe_recipe
from tests.benchmarks.made import encoder_info, make_result, old_result


def test_what_is_written_is_read_again(tmp_path: Path):
    result = make_result(
        "net",
        "classify.linear",
        text="0123",
        seeds=[0, 1],
        fold=Fold(cell="c", number=1, folds=[1, 2]),
    )
    score = replace(
        result.score, per_class={"a": 0.5, "b": None}, of_seeds=[0.4, 0.6], std_over_seeds=0.1
    )
    streams = (
        encoder_info("rgb"),
        encoder_info("flow", licence="X", recipe="r", pretraining_seed=3),
    )
    result = replace(result, score=score, encoder=replace(result.encoder, streams=streams))
    write_result(tmp_path / "a.json", result)
    assert read_result(tmp_path / "a.json") == result
    content = json.loads((tmp_path / "a.json").read_text())
    assert (
        content["schema"] == SCHEMA
        and content["top1"] == result.score.value
        and content["config"] is None
    )
    assert not {"score", "over", "member_count", "tuned", "inference"} & content.keys()


def test_a_file_of_today_has_the_keys_of_before():
    """benchmark.json was written by benchmarks.run before there was a schema."""
    content = old_result("benchmark")
    encoder = dict(content["encoder"])
    encoder["argument"] = encoder.pop("given")  # its name since schema 2
    expected = {"schema": SCHEMA, **content, "encoder": encoder, "inference": "old"}
    test = {}
    for key, rows in content["test"].items():
        test[key] = rename_pixels(rows) if isinstance(rows, dict) else rows
    for key in ("controls", "gains"):
        expected[key] = rename_pixels(content[key])
    expected["test"] = test
    assert to_json(from_json(content)) == expected
    assert to_json(from_json({"schema": 1, **content})) == expected
    content = old_result("fine_tuning")
    again = to_json(from_json(content))
    assert (
        again.pop("schema") == SCHEMA
        and again.pop("cell") == "fine-tuning"
        and again.pop("metric") == "top1"
    )
    assert again["test"].pop("correct") == {
        "encoder": [1.0 * (a == b) for a, b in hits(content["test"])]
    }
    content["encoder"]["argument"] = content["encoder"].pop("given")
    assert again == {**content, "inference": "old"}


def rename_pixels(rows: dict[str, Any]) -> dict[str, Any]:
    """The row `pixels` is called `floor` since schema 3."""
    return {name.replace("pixels", "floor"): row for name, row in rows.items()}


def test_results_of_this_schema_are_of_the_new_inference(tmp_path: Path):
    write_result(tmp_path / "a.json", make_result("net", "c"))
    saved = read_result(tmp_path / "a.json")
    assert saved is not None and saved.inference is None
    content = json.loads((tmp_path / "a.json").read_text())
    assert from_json({**content, "schema": 2}).inference == "old"


def hits(test) -> list[tuple[int, int]]:
    return list(zip(test["predictions"]["encoder"], test["labels"], strict=True))


def test_a_linear_probe_of_before_is_a_cell_of_today():
    content = old_result("linear_probe")
    result, suite = from_json(content), from_json(old_result("benchmark"))
    assert (result.kind, result.cell, result.cell_hash) == (suite.kind, suite.cell, suite.cell_hash)
    assert (
        result.question == suite.question
        and result.gains == suite.gains
        and result.test == suite.test
    )
    for name, row in suite.rows.items():
        details = {
            key: value for key, value in result.rows[name].details.items() if key != "knn"
        }  # nearest neighbours
        assert replace(result.rows[name], details=details) == row
    assert result.score.details["knn"] == content["knn"]


DAMAGED = {
    f"reads schemas up to {SCHEMA}": {"schema": SCHEMA + 1},
    "`encoder`": {"encoder": None},
    r"`controls\.random\.map`": {"metric": "map"},
    "`interval`": {"interval": 3},
    r"`controls\.random\.interval`": {"controls": {"random": {"top1": 0.5}}},
    r"`gains\.random\.interval`": {"gains": {"random": {"difference": 0.5}}},
    "could not convert": {"interval": ["a", "b"]},
    "`protocol.cell`": {"protocol": {}},
    "`data.clips`": {"data": {**to_json(make_result("net", "one"))["data"], "clips": "x"}},
    "`metric`": {"metric": [1]},
    "schema 0": {"schema": 0},
    "ValueError": {"gains": {"random": {"difference": "x", "interval": [0, 1], "shown": True}}},
}


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path):
    file, whole = tmp_path / "a.json", to_json(make_result("net", "one"))
    texts = {said: json.dumps({**whole, **change}) for said, change in DAMAGED.items()}
    for said, text in {"cannot be read": "{", **texts}.items():
        file.write_text(text)
        with pytest.raises(UserError, match=rf"a\.json .*{said}"):
            read_result(file)
    for text in ("[]", '{"kind": "recipe"}', "null"):  # of something else: passed over
        file.write_text(text)
        assert read_folder(tmp_path) == {}


def test_reading_needs_no_torch():
    code = "import sys, ssvid.results, ssvid.results.rows, ssvid.results.text; "
    code += "import ssvid.sweep.keeper as k; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_run_that_began_from_another_counts_by_the_recipe_of_that(tmp_path: Path):
    """Each seed of a recipe of stages begins from a folder of its own."""
    recipes = []
    for seed, rate in ((0, 1e-3), (1, 1e-3), (2, 1e-2)):
        first, second = tmp_path / f"{seed}" / "rgb", tmp_path / f"{seed}" / "rgb_1"
        configs = (
            (first, {"seed": seed, "lr": rate}),
            (second, {"seed": seed, "objective": {"name": "coclr", "init": str(first)}}),
        )
        for folder, config in configs:
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text(json.dumps(config))
        recipes.append(describe_recipe(str(second))["recipe"])
    assert recipes[0] == recipes[1] != recipes[2]


def test_the_main_number_stands_above_a_detail_of_its_name(tmp_path: Path):
    """`retrieval` tells recall1 among its recalls, of an untrained row that of one net alone."""
    result = make_result("net", "retrieval", metric="recall1")
    score = replace(result.score, value=0.5, details={"recall1": 0.7, "recall5": 0.9})
    write_result(tmp_path / "a.json", replace(result, score=score))
    saved = read_result(tmp_path / "a.json")
    assert saved is not None and saved.score.value == 0.5
