"""The report of results, from made-up ones: its files and tables, and which results it takes."""

import copy
import csv
import json
import re
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import report
from benchmarks.reports import board, board_sections, citation, figures, tables
from ssvid.errors import UserError
from ssvid.results import TUNED, Answers, Cost, Fold, Leak, Result
from ssvid.results.evidence import correct_gains
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


GAIN_KEYS = ("gain", "gain_low", "gain_high", "gain_level", "gain_p", "gain_least")


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_every_number_is_in_every_table(tmp_path: Path):
    results = []
    for title, skill in (("a", 0.9), ("b", 0.4)):
        for cell in ("one", "two"):
            results.append(make_whole_result(title, cell, skill=skill))
    texts = write_files(put(tmp_path, *results))
    rows = read_csv(texts["board.csv"])
    for result in correct_gains(results):
        pair = (result.cell, result.encoder.title)
        members = [row for row in rows if (row["cell"], row["encoder"]) == pair]
        assert pick_keys(members, "row") == [*ROWS, "time"]
        for row in members:
            if row["row"] in result.gains:
                gain = result.gains[row["row"]]
                numbers = (gain.difference, *gain.interval, gain.level, gain.p, gain.least)
                assert list(map(float, itemgetter(*GAIN_KEYS)(row))) == list(numbers)
                assert row["gain_shown"] == str(gain.shown)
            if row["row"] == "time":
                continue
            score = result.rows[row["row"]]
            numbers = (float(row["score"]), float(row["low"]), float(row["high"]))
            assert numbers == (score.value, *score.interval)
        for number in (result.score.value, *result.score.interval):
            for name in ("board.md", "board.tex", "report.html"):
                assert f"{100 * number:.1f}" in texts[name], name
        assert str(result.command) in read_page(texts["report.html"]).text
    order = [row["cell"] + row["encoder"] for row in rows[:: len(ROWS) + 1]]
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
    assert pick_keys(rows[:: len(ROWS) + 1], "cell") == ["set.order.fold1", "first"]


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
    assert board.summarise_results([bare])[0]["gain_over_random"] is None
    parts = ["confusion", "gains by class", "nearest neighbours", "attention"]
    assert board_sections.explain(whole, [whole], "random", "red").names == parts


def test_folders_become_one_report(tmp_path: Path):
    """As a user starts it."""
    a = put(tmp_path / "a", make_whole_result("a", "one"), make_whole_result("a", "two"))
    b = put(tmp_path / "b", make_whole_result("b", "one", seed=1))
    out = tmp_path / "new" / "all"
    done = command("benchmarks.report", str(a), str(b), "--out", str(out), "--baseline", "floor")
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
            line_of_row = rows[cell, "floor" if row == "pixels" else row]
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


CONFIG = {"suite": "mini", "layers": "auto", "clips": 1}
CLIP = {"frames": 8, "size": 64, "clips": 1, "crops": 1, "average": "features"}
PROTOCOL = {
    "cell": {"task": "classify", "probe": "linear", "with": {"epochs": 20}},
    "clip": CLIP,
    "poolings": ["mean", "time"],
    "calibrate_bn": 0,
}


def change(result: Result, key: str, value: Any) -> Result:
    """The result with another value of a dotted key of its protocol."""
    protocol = copy.deepcopy(result.protocol)
    *outer, last = key.split(".")
    content = protocol
    for name in outer:
        content = content[name]
    content[last] = value
    return replace(result, protocol=protocol)


def has_note(results: list[Result], *parts: str) -> bool:
    return any(tells(note, *parts) for note in board.list_notes(results))


def make_pair() -> tuple[Result, Result]:
    options = {"protocol": PROTOCOL, "config": CONFIG}
    return make_whole_result("a", "one", **options), make_whole_result("b", "one", **options)


@pytest.mark.parametrize(
    ("key", "value", "fact"),
    [
        ("clip.clips", 4, "clips of a video"),
        ("clip.crops", 3, "crops"),
        ("clip.average", "scores", "scores"),
        ("poolings", ["mean"], "poolings"),
        ("calibrate_bn", 256, "256"),
        ("recalibrate_bn", True, "true"),
        ("folds", "group", "folds"),
        ("layers_choice", "last", "layers"),
        ("cell.probe", "knn", "knn"),
        ("cell.with.epochs", 50, "with.epochs"),
        ("cell.share", 0.1, "share"),
    ],
)
def test_unlike_results_are_refused(key: str, value: Any, fact: str, tmp_path: Path):
    a, b = make_pair()
    folder = put(tmp_path, a, change(b, key, value))
    with pytest.raises(UserError, match=facts("a.one.json", "b.one.json", fact)):
        board.write_board(folder)
    assert not (folder / "board.md").exists()


def test_other_data_layers_or_metrics_are_refused(tmp_path: Path):
    """A result whose command is not known tells nothing of the layers that were asked for."""
    a, b = make_pair()
    unlike = {
        "data": replace(b, data=replace(b.data, hash="e" * 64)),
        "layers": replace(b, config={**CONFIG, "layers": "last"}),
        "metric": replace(b, metric="map"),
    }
    for fact, other in unlike.items():
        with pytest.raises(UserError, match=facts("a.json", "b.json", fact)):
            board.refuse_unlike({Path("a.json"): a, Path("b.json"): other})
    done = command("benchmarks.report", str(put(tmp_path, a, unlike["layers"])))
    assert done.returncode == 2 and tells(sentence(done), "a.one.json", "b.one.json", "layers")
    for other in (replace(b, config=None), replace(b, cell="two", metric="map")):
        board.refuse_unlike({Path("a.json"): a, Path("b.json"): other})


@pytest.mark.parametrize("part", ["groups", "answers of a row"])
def test_a_result_that_cannot_be_tested_is_named(part: str, tmp_path: Path):
    result, _ = make_pair()
    if part == "groups":
        test = replace(result.test, groups=[])
    else:
        test = replace(result.test, correct={**(result.test.correct or {}), "floor": [1.0]})
    folder = put(tmp_path, replace(result, test=test))
    with pytest.raises(UserError, match=facts("a.one.json", "groups")):
        board.write_board(folder)


def test_each_encoder_may_have_its_own_clip_and_seed():
    a, b = make_pair()
    for key in ("clip.frames", "clip.size", "seed"):
        board.refuse_unlike({Path("a.json"): a, Path("b.json"): change(b, key, 16)})
    other = change(change(b, "clip.frames", 16), "clip.size", 32)
    assert has_note([a, other], "one", "frames", "size")
    assert not has_note([a, b], "frames", "size")
    tuned = []
    for seed in (0, 1):
        training = {"lr": 1, "encoder": f"net{seed}", "seed": seed, "clip": {"frames": 8 + seed}}
        result = replace(a, kind=TUNED, cell=TUNED, protocol={"training": training})
        tuned.append(replace(result, encoder=encoder_info(str(seed))))
    board.refuse_unlike({Path("a.json"): tuned[0], Path("b.json"): tuned[1]})
    other = change(tuned[1], "training.lr", 2)
    with pytest.raises(UserError, match=facts("lr")):
        board.refuse_unlike({Path("a.json"): tuned[0], Path("b.json"): other})


def test_notes_say_what_the_rows_need():
    a, b = make_pair()
    groups = [f"g{i % 6}" for i in range(len(a.test.paths))]
    few = replace(a, test=replace(a.test, groups=groups))
    score = replace(a.score, details={"warnings": ["rate at the edge"]})
    noted = replace(b, ledger=7, notes=["5 nets instead of 8"], score=score)
    single = replace(a, data=replace(a.data, groups={**a.data.groups, "val": 1}), ledger=3)
    assert not has_note([a, b], "too few") and has_note([few, b], "one", "6 groups", "too few")
    for parts in (("val", "one group"), ("7 distinct encoders",), ("rate at the edge", "b")):
        assert has_note([single, noted], *parts), parts
    assert "b: 5 nets instead of 8" in board.list_notes([single, noted])
    shared = replace(a, notes=["5 nets instead of 8"])
    assert "5 nets instead of 8" in board.list_notes([shared, noted])
    other = replace(make_whole_result("a", "two"), encoder=replace(a.encoder, hash="other"))
    assert tells(board.list_notes([a, other])[0], "WARNING", "a")


def test_old_inference_is_marked_in_every_table(tmp_path: Path):
    content = old_result("benchmark")
    (tmp_path / "old.json").write_text(json.dumps(content))
    texts = write_files(tmp_path)
    assert {row["inference"] for row in read_csv(texts["board.csv"])} == {"old"}
    row = texts["board.md"].splitlines()[4]
    assert tells(row, "old inference") and "four of five" not in row
    assert read_page(texts["report.html"]).text.count("old inference") >= 3
    assert "Old inference" in texts["board.tex"].splitlines()[0]


def test_only_what_belongs_together_is_merged(tmp_path: Path):
    a = put(tmp_path / "a", make_whole_result("a", "one"))
    empty, absent = tmp_path / "empty", tmp_path / "absent"
    empty.mkdir()
    refusals = [([a, empty], "--out"), ([absent], str(absent)), ([empty], str(empty))]
    for folders, fact in refusals:
        with pytest.raises(UserError, match=facts(fact)):
            report.reports(list(map(str, folders)))
    message = sentence(command("benchmarks.report", str(a), "--baseline", "randm"))
    assert tells(message, "--baseline", "random")


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
        assert pick_keys(members, "row") == [*ROWS, "time"]
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
