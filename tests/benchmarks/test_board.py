"""The report of results, from made-up ones: its files and tables, and which results it takes."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import report
from benchmarks.reports import board, board_sections, citation, figures, tables
from ssvid.errors import UserError
from ssvid.results import TUNED, Answers, Cost, Fold, Leak, Result
from ssvid.results.text import format_line
from tests.benchmarks.browser import read_page
from tests.benchmarks.made import (
    ROWS,
    encoder_info,
    make_whole_result,
    old_result,
    pick,
    pick_keys,
    put,
)
from tests.helpers import command, facts, sentence, tells


def write_files(folder: Path, *folders: Path, **options: Any) -> dict[str, str]:
    """Name -> text of all four files."""
    target = board.write_board(folder, *folders, **options).parent
    texts = {}
    for name in ("board.md", "board.csv", "board.tex", "report.html"):
        texts[name] = (target / name).read_text()
    return texts


def make_cells(title: str, count: int) -> list[Result]:
    return [make_whole_result(title, f"cell{i}") for i in range(count)]


def contains(text: str, *parts: str) -> bool:
    return all(part in text for part in parts)


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_every_number_is_in_every_table(tmp_path: Path):
    results = []
    for title, skill in (("a", 0.9), ("b", 0.4)):
        for cell in ("one", "two"):
            results.append(make_whole_result(title, cell, skill=skill))
    texts = write_files(put(tmp_path, *results))
    rows = read_csv(texts["board.csv"])
    for result in results:
        pair = (result.cell, result.encoder.title)
        members = [row for row in rows if (row["cell"], row["encoder"]) == pair]
        assert pick_keys(members, "row") == list(ROWS)
        for row in members:
            score = result.rows[row["row"]]
            numbers = (float(row["score"]), float(row["low"]), float(row["high"]))
            assert numbers == (score.value, *score.interval)
        for number in (result.score.value, *result.score.interval):
            for name in ("board.md", "board.tex", "report.html"):
                assert f"{100 * number:.1f}" in texts[name], name
        assert str(result.command) in read_page(texts["report.html"]).text
    order = [row["cell"] + row["encoder"] for row in rows[:: len(ROWS)]]
    assert order == ["onea", "oneb", "twoa", "twob"]


def test_cells_stand_in_the_order_of_their_suite(tmp_path: Path):
    """Not by name; what no suite lists comes last. A suite of one's own is read where it lies."""
    cells = ("retrieval", "classify.knn", "classify.linear", "another", "order.linear")
    config = {"suite": "mini"}
    for cell in cells:
        put(tmp_path / "a", make_whole_result("a", cell, config=config))
    rows = read_csv(write_files(tmp_path / "a")["board.csv"])
    order = ["classify.linear", "classify.knn", "retrieval", "order.linear", "another"]
    assert list(dict.fromkeys(pick_keys(rows, "cell"))) == order
    suite = tmp_path / "mine.yaml"
    suite.write_text("cells: [{task: order, data: set}, {task: classify, probe: knn, name: first}]")
    config, first = {"suite": str(suite)}, make_whole_result("a", "first", config={"suite": "x"})
    fold = Fold(cell="set.order", number=1, folds=[1, 2])
    results = [first, make_whole_result("a", "set.order.fold1", fold=fold, config=config)]
    rows = read_csv(write_files(put(tmp_path / "b", *results))["board.csv"])
    assert pick_keys(rows[:: len(ROWS)], "cell") == ["set.order.fold1", "first"]


def test_latex_turns_where_cells_are_many():
    few = tables.latex(make_cells("a", tables.ACROSS))
    head = " & ".join(pick(make_cells("a", tables.ACROSS), "cell"))
    assert few.splitlines()[2] == f" & {head} \\\\"
    # head; encoder, untrained, pixels; chance
    assert few.count("\\\\") == 1 + 3 + 1 and "chance & 25.0" in few
    results = make_cells("a", tables.ACROSS + 1) + make_cells("b", tables.ACROSS + 1)
    many = tables.latex(results)
    assert many.splitlines()[2] == " & a & b & chance \\\\"
    assert many.count("\\\\") == 1 + 3 * (tables.ACROSS + 1)
    widths = {line.count("&") for line in many.splitlines() if line.endswith("\\\\")}
    assert widths == {3}


def test_hostile_names_are_text(tmp_path: Path):
    bad = 'a<img src="http://x">&_|$x_{$\\~^'
    result = make_whole_result(bad, "_cell_ `x` *y*")
    result.data.classes[:] = [bad, "$\\frac", "c%", "d"]
    (result.strips or [])[0] |= {"path": bad, "label": bad, "predicted": bad}
    (result.attention or {})["clips"][0] |= {"label": bad, "predicted": bad}
    leak, data = Leak(checked=True, clips=3), replace(result.data, set={"name": bad})
    texts = write_files(put(tmp_path, replace(result, leak=leak, data=data)))
    assert read_page(texts["report.html"]).text.count(bad) >= 5
    row = texts["board.md"].splitlines()[3 + 1]
    assert "a\\<img" in row and "\\&\\_\\|" in row and "\\_cell\\_ \\`x\\` \\*y\\*" in row
    assert r"$x\_{$\\~^" in row and len(re.findall(r"(?<!\\)\|", row)) == len(tables.HEAD) + 1
    assert "a\\textless{}img" in texts["board.tex"]
    assert "\\&\\_\\textbar{}\\$x\\_\\{\\$\\textbackslash{}" in texts["board.tex"]
    assert read_csv(texts["board.csv"])[0]["encoder"] == bad


def test_what_a_result_lacks_is_left_out(tmp_path: Path):
    test = Answers(paths=["0.mp4"], groups=["0"], correct={"encoder": [1.0]}, predictions={})
    lacking = {
        "strips": None,
        "attention": None,
        "chance": None,
        "command": None,
        "git": None,
        "cost": Cost(),
    }
    whole = make_whole_result("a", "one")
    bare = replace(whole, controls={}, gains={}, test=test, **lacking)
    texts = write_files(put(tmp_path, bare), baseline="a")
    assert not read_page(texts["report.html"]).tags["img"] and "chance" not in texts["board.tex"]
    assert board_sections.explain(bare, [bare], "a", "red").names == []
    assert figures.draw_cost([bare], {"a": "red"}) is None
    assert format_line(bare).startswith("a, one: ")
    assert board.summarise_folder(tmp_path)[0]["gain_over_random"] is None
    parts = ["confusion", "gains by class", "nearest neighbours", "attention"]
    assert board_sections.explain(whole, [whole], "random", "red").names == parts


def test_folders_become_one_report(tmp_path: Path):
    """As a user starts it."""
    a = put(tmp_path / "a", make_whole_result("a", "one"), make_whole_result("a", "two"))
    b = put(tmp_path / "b", make_whole_result("b", "one", seed=1))
    out = tmp_path / "new" / "all"
    done = command("benchmarks.report", str(a), str(b), "--out", str(out), "--baseline", "pixels")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"report": str(out / "report.html")}
    assert not (a / "report.html").exists()
    rows = read_csv((out / "board.csv").read_text())
    pairs = set(zip(pick_keys(rows, "cell"), pick_keys(rows, "encoder"), strict=True))
    assert pairs == {("one", "a"), ("two", "a"), ("one", "b")}
    # the first, where none is named
    assert report.reports([str(a), str(b)]) == {"report": str(a / "report.html")}
    assert report.reports([str(b)]) == report.report(b) == {"report": str(b / "report.html")}


@pytest.mark.parametrize("kinds", [("linear_probe", "fine_tuning"), ("benchmark",)])
def test_results_of_before_are_reported(tmp_path: Path, kinds: tuple[str, ...]):
    """Of commit eba6741, which had no schema and three kinds of results."""
    for kind in kinds:
        (tmp_path / f"{kind}.json").write_text(json.dumps(old_result(kind)))
    assert report.reports([str(tmp_path)]) == {"report": str(tmp_path / "report.html")}
    table = read_csv((tmp_path / "board.csv").read_text())
    rows = {(row["cell"], row["row"]): row for row in table}
    for kind in kinds:
        content = old_result(kind)
        cell = TUNED if kind == "fine_tuning" else "classify.linear"
        for row, score in {"encoder": content, **content["controls"]}.items():
            line_of_row = rows[cell, row]
            numbers = (float(line_of_row["score"]), float(line_of_row["low"]))
            assert numbers == (score["top1"], score["interval"][0])
    if len(kinds) == 2:
        result = board.read_results(tmp_path)[tmp_path / "fine_tuning.json"]
        assert content["confusion"] == board_sections.count_confusion(result)


def test_two_folders_may_hold_the_same_but_not_differ(tmp_path: Path):
    first = make_whole_result("a", "one")
    again = replace(first, cost=Cost(probe_cpu_s=77.0), command="another path")
    a, b = put(tmp_path / "a", first), put(tmp_path / "b", again)
    assert len(board.read_results(a, b)) == 1
    put(b, make_whole_result("a", "one", seed=1))
    with pytest.raises(UserError, match=facts("a/a.one.json", "b/a.one.json")):
        board.read_results(a, b)
    assert not (a / "report.html").exists()


def test_rows_that_are_no_fair_comparison_are_warned_of():
    a, b = make_whole_result("a", "one"), make_whole_result("b", "one")
    assert board.warn_of_unlike_results([a, b]) == []
    unlike = [
        replace(b, data=replace(b.data, hash="e" * 64)),
        replace(b, protocol={"cell": {"task": "one", "probe": "knn"}}),
        replace(make_whole_result("a", "two"), encoder=replace(a.encoder, hash="other")),
    ]
    warnings = []
    for other in unlike:
        (warning,) = board.warn_of_unlike_results([a, other])
        warnings.append(warning)
    assert len(set(warnings)) == 3
    assert warnings[0] in board.list_notes([a, unlike[0]])
    for kind in (a, replace(a, kind=TUNED, protocol={"training": {"lr": 1, "encoder": "x"}})):
        moved = replace(kind, encoder=encoder_info("b"))
        # another encoder is what one wants to compare
        assert board.warn_of_unlike_results([kind, moved]) == []


def test_only_what_belongs_together_is_merged(tmp_path: Path):
    a = put(tmp_path / "a", make_whole_result("a", "one"))
    empty, absent = tmp_path / "empty", tmp_path / "absent"
    empty.mkdir()
    refusals = [([a, empty], "--out"), ([absent], str(absent)), ([empty], str(empty))]
    for folders, fact in refusals:
        with pytest.raises(UserError, match=facts(fact)):
            report.reports(list(map(str, folders)))
    message = sentence(command("benchmarks.report", str(a), "--baseline", "pixel"))
    assert tells(message, "--baseline", "pixels")


def test_means_have_their_spread_in_every_table(tmp_path: Path):
    """Over seeds of the probe, and over folds."""
    result = make_whole_result("a", "one", seeds=[0, 1, 2])
    rows = {name: replace(row, std_over_seeds=0.02) for name, row in result.controls.items()}
    score = replace(result.score, std_over_seeds=0.0123)
    seeds, folds = replace(result, score=score, controls=rows), []
    for n in (1, 2):
        fold = Fold(cell="set", number=n, folds=[1, 2])
        skill = 0.4 + 0.2 * n
        folds.append(make_whole_result("a", f"set.fold{n}", seed=n, skill=skill, fold=fold))
    texts = write_files(put(tmp_path, seeds, *folds))
    scores = pick(folds, "score.value")
    table = read_csv(texts["board.csv"])
    for cell, over, value, std in (
        ("one", "3 seeds", seeds.score.value, 0.0123),
        ("set", "folds 1, 2", sum(scores) / 2, float(np.std(scores, ddof=1))),
    ):
        members = [row for row in table if row["cell"] == cell]
        assert pick_keys(members, "row") == list(ROWS)
        assert set(pick_keys(members, "mean_over")) == {over}
        assert float(members[0]["score"]) == pytest.approx(value)
        assert float(members[0]["std"]) == pytest.approx(std)
        assert f"{100 * value:.1f} +- {100 * std:.1f} % ({over})" in texts["board.md"]
        assert f"{100 * value:.1f} $\\pm$ {100 * std:.1f} " in texts["board.tex"]


def test_how_to_cite_names_software_code_data_and_protocols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    results = [make_whole_result("a", "one"), make_whole_result("a", "two")]
    cited = citation.cite(results)
    parts = ("abcdef0123456789+", "d" * 16, "one 0123456789abcdef", "two 0123456789abcdef")
    assert contains(cited.line, *parts) and contains(cited.bibtex, "@software{ssvid")
    cff = {"title": "T", "version": "2.0", "date-released": "2026-02-01", "doi": "10.1/x"}
    cff["authors"] = [{"family-names": "Doe", "given-names": "J."}, {"name": "Lab"}]
    (tmp_path / "c.cff").write_text(json.dumps(cff))
    monkeypatch.setattr(citation, "FILE", tmp_path / "c.cff")
    entry = citation.write_bibtex()
    assert contains(entry, "{Doe, J. and {Lab}}", "{{T}}", "{2.0}", "{2026}", "doi")
    monkeypatch.setattr(citation, "FILE", tmp_path / "absent")
    assert citation.cite([results[0]]).bibtex == ""
