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
from ssvid.results import TUNED, Answers, Cost, Fold, Leak
from ssvid.results.text import line
from tests.benchmarks.browser import read_page
from tests.benchmarks.made import ROWS, encoder_info, make_whole_result, old_result, put
from tests.helpers import command, facts, sentence, tells


def write_files(folder: Path, *folders: Path, **options: Any) -> dict[str, str]:
    """Name -> text of all four files."""
    target = board.write_board(folder, *folders, **options).parent
    names = ("board.md", "board.csv", "board.tex", "report.html")
    return {name: (target / name).read_text() for name in names}


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
        assert [row["row"] for row in members] == list(ROWS)
        for row in members:
            score = result.rows[row["row"]]
            numbers = (float(row["score"]), float(row["low"]), float(row["high"]))
            assert numbers == (score.value, *score.interval)
        low, high = (f"{100 * end:.1f}" for end in result.score.interval)
        number = f"{100 * result.score.value:.1f}"
        for name in ("board.md", "board.tex", "report.html"):
            assert all(text in texts[name] for text in (number, low, high)), name
        assert str(result.command) in read_page(texts["report.html"]).text
    order = [row["cell"] + row["encoder"] for row in rows[:: len(ROWS)]]
    assert order == ["onea", "oneb", "twoa", "twob"]


def test_cells_stand_in_the_order_of_their_suite(tmp_path: Path):
    """Not by name; what no suite lists comes last. A suite of one's own is read where it lies."""
    cells = ("retrieval", "classify.knn", "classify.linear", "another", "order.linear")
    config = {"suite": "mini"}
    put(tmp_path / "a", *(make_whole_result("a", cell, config=config) for cell in cells))
    rows = read_csv(write_files(tmp_path / "a")["board.csv"])
    order = ["classify.linear", "classify.knn", "retrieval", "order.linear", "another"]
    assert list(dict.fromkeys(row["cell"] for row in rows)) == order
    suite = tmp_path / "mine.yaml"
    suite.write_text("cells: [{task: order, data: set}, {task: classify, probe: knn, name: first}]")
    config, first = {"suite": str(suite)}, make_whole_result("a", "first", config={"suite": "x"})
    fold = Fold(of="set.order", number=1, folds=[1, 2])
    results = [first, make_whole_result("a", "set.order.fold1", fold=fold, config=config)]
    rows = read_csv(write_files(put(tmp_path / "b", *results))["board.csv"])
    assert [row["cell"] for row in rows[:: len(ROWS)]] == ["set.order.fold1", "first"]


def test_latex_turns_where_cells_are_many():
    few = tables.latex([make_whole_result("a", f"cell{i}") for i in range(tables.ACROSS)])
    head = " & ".join(f"cell{i}" for i in range(tables.ACROSS))
    assert few.splitlines()[2] == f" & {head} \\\\"
    # head; encoder, untrained, pixels; chance
    assert few.count("\\\\") == 1 + 3 + 1 and "chance & 25.0" in few
    results = []
    for title in "ab":
        results += [make_whole_result(title, f"cell{i}") for i in range(tables.ACROSS + 1)]
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
    assert line(bare).startswith("a, one: ")
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
    pairs = {(row["cell"], row["encoder"]) for row in rows}
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
            numbers = [float(rows[cell, row][key]) for key in ("score", "low")]
            assert numbers == [score["top1"], score["interval"][0]]
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
    warnings = [board.warn_of_unlike_results([a, other]) for other in unlike]
    assert [len(texts) for texts in warnings] == [1, 1, 1]
    assert len({texts[0] for texts in warnings}) == 3
    assert warnings[0][0] in board.list_notes([a, unlike[0]])
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
            report.reports([str(folder) for folder in folders])
    message = sentence(command("benchmarks.report", str(a), "--baseline", "pixel"))
    assert tells(message, "--baseline", "pixels")


def test_means_have_their_spread_in_every_table(tmp_path: Path):
    """Over seeds of the probe, and over folds."""
    result = make_whole_result("a", "one", seeds=[0, 1, 2])
    rows = {name: replace(row, std_over_seeds=0.02) for name, row in result.controls.items()}
    score = replace(result.score, std_over_seeds=0.0123)
    seeds, folds = replace(result, score=score, controls=rows), []
    for n in (1, 2):
        fold = Fold(of="set", number=n, folds=[1, 2])
        skill = 0.4 + 0.2 * n
        folds.append(make_whole_result("a", f"set.fold{n}", seed=n, skill=skill, fold=fold))
    texts = write_files(put(tmp_path, seeds, *folds))
    scores = [result.score.value for result in folds]
    table = read_csv(texts["board.csv"])
    for cell, over, value, std in (
        ("one", "3 seeds", seeds.score.value, 0.0123),
        ("set", "folds 1, 2", sum(scores) / 2, float(np.std(scores, ddof=1))),
    ):
        members = [row for row in table if row["cell"] == cell]
        assert [row["row"] for row in members] == list(ROWS)
        assert {row["mean_over"] for row in members} == {over}
        assert float(members[0]["score"]) == pytest.approx(value)
        assert float(members[0]["std"]) == pytest.approx(std)
        assert f"{100 * value:.1f} +- {100 * std:.1f} % ({over})" in texts["board.md"]
        assert f"{100 * value:.1f} $\\pm$ {100 * std:.1f} " in texts["board.tex"]


def test_how_to_cite_names_software_code_data_and_protocols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    results = [make_whole_result("a", "one"), make_whole_result("a", "two")]
    cited = citation.cite(results)
    parts = ("@software{ssvid", "abcdef0123456789+", "d" * 16)
    parts += ("one 0123456789abcdef", "two 0123456789abcdef")
    assert all(part in cited.bibtex + cited.line for part in parts)
    cff = {"title": "T", "version": "2.0", "date-released": "2026-02-01", "doi": "10.1/x"}
    cff["authors"] = [{"family-names": "Doe", "given-names": "J."}, {"name": "Lab"}]
    (tmp_path / "c.cff").write_text(json.dumps(cff))
    monkeypatch.setattr(citation, "FILE", tmp_path / "c.cff")
    entry = citation.write_bibtex()
    assert all(part in entry for part in ("{Doe, J. and {Lab}}", "{{T}}", "{2.0}", "{2026}", "doi"))
    monkeypatch.setattr(citation, "FILE", tmp_path / "absent")
    assert citation.cite([results[0]]).bibtex == ""
