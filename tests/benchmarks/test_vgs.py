"""The VideoGLUE score: a hand-computed table, result files in it, and tables that make no sense."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks.vgs import vgs
from ssvid.errors import UserError
from tests.benchmarks.made import put, result_of
from tests.helpers import for_each, tells

GROUPS = {"A": {"k400": 80, "mit": 40}, "M": {"ssv2": 62, "d48": 58}, "ML": {"charades": 38}}
FROZEN = {"gflops": 10, "scores": {**GROUPS, "TAL": {"anet": 36}, "STAL": {"ava": 30, "avak": 32}}}


def write_table(folder: Path, content: object) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "table.yaml")


def test_a_table_by_hand(tmp_path: Path):
    """Frozen: (60 + 60 + 38 + 36 + 31) / 5 = 45. End to end, without TAL: (70 + 70 + 50 + 30) / 4.

    The weights are 1 / log10(10) and 1 / log10(1000).
    """
    groups = {"A": {"k400": 70}, "M": {"d48": 70}, "ML": {"charades": 50}, "STAL": {"ava": 30}}
    whole = {"gflops": 1000, "scores": groups}
    computed = vgs(write_table(tmp_path, {"frozen": FROZEN, "whole": whole}))
    assert computed["adaptations"]["frozen"]["score"] == pytest.approx(45)
    assert computed["adaptations"]["whole"]["score"] == pytest.approx(55)
    assert computed["vgs"] == pytest.approx((45 + 55 / 3) / (1 + 1 / 3))
    missing = {name: row["missing"] for name, row in computed["adaptations"].items()}
    assert missing == {"frozen": [], "whole": ["TAL"]}


def test_a_result_file_stands_for_its_score(tmp_path: Path):
    saved = result_of("net", "probe", {"encoder": [1.0, 0.0, 1.0, 1.0]})
    file = put(tmp_path / "results", replace(saved, score=replace(saved.score, value=0.75)))
    name = str(next(file.glob("*.json")).relative_to(tmp_path))
    table = write_table(tmp_path, {"frozen": {"gflops": 50, "scores": {"A": {"k400": name}}}})
    assert vgs(table)["vgs"] == pytest.approx(75)


@for_each(
    "entry, word",
    [
        ({"scores": GROUPS}, "gflops"),
        ({**FROZEN, "gflops": 1}, "above 1"),
        ({**FROZEN, "gflops": float("inf")}, "above 1"),
        ({"gflops": 10, "scores": {"B": {"k400": 80}}}, "TAL"),
        ({"gflops": 10, "scores": {"A": {}}}, "no data set"),
        ({"gflops": 10, "scores": {"A": {"k400": 101}}}, "k400"),
        ({"gflops": 10, "scores": {"A": {"k400": True}}}, "k400"),
        ({"gflops": 10, "scores": {"A": {"k400": "absent.json"}}}, "absent.json"),
        ({"gflops": 10, "scores": {"A": {"k400": "table.yaml"}}}, "table.yaml"),
    ],
)
def test_a_table_that_makes_no_sense_is_one_sentence(entry, word, tmp_path):
    with pytest.raises(UserError) as refused:
        vgs(write_table(tmp_path, {"frozen": entry}))
    assert tells(str(refused.value), word)


def test_an_empty_table_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no adaptation"):
        vgs(write_table(tmp_path, {}))
