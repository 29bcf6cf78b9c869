"""A score whose test clips pretraining read is marked wherever it stands."""

import csv
from operator import itemgetter
from pathlib import Path

from benchmarks.compare import compare
from benchmarks.linear_probe import summarise
from benchmarks.reports import board, sweep_columns, sweep_page, sweep_rows, tables
from benchmarks.reports.sweep_choice import describe_best
from ssvid.results import Leak, Result
from ssvid.results.rows import row_from_json, row_score, row_to_json
from ssvid.results.text import NOT_VALID, format_line, format_table
from tests.benchmarks.made import make_whole_result, pick_keys, put
from tests.benchmarks.sweeps import make_page, read_choice, score
from tests.benchmarks.sweeps import put as put_sweep
from tests.helpers import tells


def make_pair_of(cell: str) -> tuple[Result, Result]:
    """(a result with a leak, a sound one)."""
    leak = Leak(checked=True, clips=18)
    return make_whole_result("leaky", cell, leak=leak), make_whole_result("sound", cell)


def test_tables_mark_it_and_no_other():
    leaky, sound = make_pair_of("one")
    for text in (format_line, format_table, lambda result: tables.markdown([result], [])):
        assert NOT_VALID in text(leaky) and NOT_VALID not in text(sound)
    lines = tables.latex([leaky, sound]).splitlines()
    (marked,) = [line for line in lines if NOT_VALID in line]
    assert marked.startswith("leaky")
    rows = list(csv.DictReader(tables.comma([leaky, sound]).splitlines()))
    assert set(map(itemgetter("encoder", "leak"), rows)) == {("leaky", "18"), ("sound", "")}
    printed = board.summarise_results([leaky, sound])
    assert pick_keys(printed, "leak") == [18, None]


def test_the_probe_says_it_before_its_table(caplog):
    leaky, _ = make_pair_of("classify.linear")
    with caplog.at_level("INFO", logger="ssvid"):
        summary = summarise(leaky, [leaky])
    first, *others = caplog.records
    assert first.levelname == "WARNING" and tells(first.getMessage(), "leaky", "18")
    assert summary["leak"] == 18 and format_table(leaky) in others[0].getMessage()
    assert tells(summary["reading"], "18")


def test_a_comparison_warns_of_either_side(tmp_path: Path):
    leaky, sound = make_pair_of("one")
    put(tmp_path / "a", leaky)
    put(tmp_path / "b", sound)
    compared = compare(str(tmp_path / "b"), str(tmp_path / "a"))
    assert tells(compared["warnings"][0], "B", "18", "one") and compared["cells"][0]["leaks"] == [
        0,
        18,
    ]
    assert "18" not in str(compare(str(tmp_path / "b"), str(tmp_path / "b"))["warnings"])


def test_a_sweep_carries_it_from_the_result_to_its_page(tmp_path: Path):
    leaky, sound = make_pair_of("a")
    assert row_score(leaky).leak == 18 and row_from_json(row_to_json(row_score(leaky))).leak == 18
    assert row_from_json(row_to_json(row_score(sound))).leak is None
    assert row_from_json({"test": 0.5}).leak is None  # a row of an earlier version
    scores = [{"a": score(0.5, 0.5, leak=18)}, {"a": score(0.3, 0.3)}]
    put_sweep(tmp_path, {"lr": [1, 2]}, scores)
    sweep, choice = read_choice(tmp_path)
    first, second = sweep_page.make_table(sweep, choice).rows
    assert str(first.cells).count(NOT_VALID) == 1 and NOT_VALID not in str(second.cells)
    assert "better" not in str(first.cells)  # nor is its gain one
    page = make_page(tmp_path).text
    assert page.index("WARNING") < page.index("Best by val")
    markdown = (tmp_path / "rows.md").read_text()
    assert markdown.index("WARNING") < markdown.index(NOT_VALID)
    lead = describe_best(choice).text
    assert NOT_VALID in lead and "above" not in lead
    rows = list(csv.DictReader(sweep_columns.comma(sweep_rows.read_sweep(tmp_path)).splitlines()))
    assert pick_keys(rows, "a leak") == ["18", ""]
