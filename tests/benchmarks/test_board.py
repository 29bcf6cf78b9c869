"""The report of results, from made-up ones: its tables, the data of its page, and the page as a browser shows it."""

import base64
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import report
from benchmarks.reports import board, board_page, classes, figures, tables
from benchmarks.tasks.film_strips import FRAMES, GAP, SIDE, describe_attention, find_middles
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.results import TUNED, Answers, Cost, Fold, Result
from ssvid.results.text import line
from ssvid.shapes import ClipSpec, Row
from tests.benchmarks.browser import LAYOUT, measure_page, read_page
from tests.benchmarks.made import ROWS, encoder_info, make_result, old_result, put
from tests.helpers import command, facts, sentence, squares, tells, write_video


def jpeg(frames: int, shade: int) -> str:
    with io.BytesIO() as file:
        Image.fromarray(np.full((24, 24 * frames, 3), shade, dtype=np.uint8)).save(file, "jpeg")
        return base64.b64encode(file.getvalue()).decode()


def made(title: str, cell: str, classes: int = 4, seed: int = 0, **more: Any) -> Result:
    """A result with every part that one may have."""
    names = [f"class {i % classes}" for i in range(4)]
    clip = {"path": "a.mp4", "label": names[0], "jpeg": jpeg(5, 90)}
    near = [{**clip, "label": names[i], "cosine": 0.9 - 0.1 * i} for i in range(3)]
    looked = [
        {**clip, "predicted": name, "jpeg": jpeg(4, 60 * i), "weights": [0.1, 0.2, 0.6, 0.1]}
        for i, name in enumerate(names)
    ]
    pictures = {
        "strips": [{**clip, "predicted": name, "near": near} for name in names],
        "attention": {"mean": [0.2, 0.3, 0.4, 0.1], "clips": looked},
        "cost": Cost(
            gflops_per_clip=1.0 + 40 * seed, extract_cpu_s=100.0 + 9 * seed, probe_cpu_s=10.0
        ),
    }
    return make_result(title, cell, classes, seed, **{**pictures, **more})


def written(folder: Path, *more: Path, **options: Any) -> dict[str, str]:
    """Name -> text of all four files."""
    place = board.write(folder, *more, **options).parent
    return {
        name: (place / name).read_text()
        for name in ("board.md", "board.csv", "board.tex", "report.html")
    }


def test_every_number_is_in_every_table(tmp_path: Path):
    found = [
        made(title, cell, skill=skill)
        for title, skill in (("a", 0.9), ("b", 0.4))
        for cell in ("one", "two")
    ]
    texts = written(put(tmp_path, *found))
    rows = list(csv.DictReader(texts["board.csv"].splitlines()))
    for result in found:
        own = [
            row
            for row in rows
            if (row["cell"], row["encoder"]) == (result.cell, result.encoder.title)
        ]
        assert [row["row"] for row in own] == list(ROWS)
        for row in own:
            score = result.rows[row["row"]]
            assert (float(row["score"]), float(row["low"]), float(row["high"])) == (
                score.value,
                *score.interval,
            )
        low, high = (f"{100 * end:.1f}" for end in result.score.interval)
        score = f"{100 * result.score.value:.1f}"
        for name in ("board.md", "board.tex", "report.html"):
            assert all(number in texts[name] for number in (score, low, high)), name
        assert str(result.command) in read_page(texts["report.html"]).text
    assert [row["cell"] + row["encoder"] for row in rows[:: len(ROWS)]] == [
        "onea",
        "oneb",
        "twoa",
        "twob",
    ]


def test_latex_turns_where_cells_are_many():
    few = tables.latex([made("a", f"cell{i}") for i in range(tables.ACROSS)])
    assert (
        few.splitlines()[2]
        == " & " + " & ".join(f"cell{i}" for i in range(tables.ACROSS)) + " \\\\"
    )
    assert (
        few.count("\\\\") == 1 + 3 + 1 and "chance & 25.0" in few
    )  # head; encoder, untrained, pixels; chance
    many = tables.latex(
        [made(title, f"cell{i}") for title in "ab" for i in range(tables.ACROSS + 1)]
    )
    assert many.splitlines()[2] == " & a & b & chance \\\\"
    assert many.count("\\\\") == 1 + 3 * (tables.ACROSS + 1)
    widths = {line.count("&") for line in many.splitlines() if line.endswith("\\\\")}
    assert widths == {3}


def test_hostile_names_are_text(tmp_path: Path):
    bad = 'a<img src="http://x">&_|$x_{$\\~^'
    result = made(bad, "_cell_ `x` *y*")
    result.data.classes[:] = [bad, "$\\frac", "c%", "d"]
    (result.strips or [])[0] |= {"path": bad, "label": bad, "predicted": bad}
    (result.attention or {})["clips"][0] |= {"label": bad, "predicted": bad}
    texts = written(put(tmp_path, result))
    assert read_page(texts["report.html"]).text.count(bad) >= 5
    row = texts["board.md"].splitlines()[3 + 1]
    assert "a\\<img" in row and "\\&\\_\\|" in row and "\\_cell\\_ \\`x\\` \\*y\\*" in row
    assert r"$x\_{$\\~^" in row and len(re.findall(r"(?<!\\)\|", row)) == len(tables.HEAD) + 1
    assert "a\\textless{}img" in texts["board.tex"]
    assert "\\&\\_\\textbar{}\\$x\\_\\{\\$\\textbackslash{}" in texts["board.tex"]
    assert next(csv.DictReader(texts["board.csv"].splitlines()))["encoder"] == bad


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
    bare = replace(made("a", "one"), controls={}, gains={}, test=test, **lacking)
    texts = written(put(tmp_path, bare), baseline="a")
    assert not read_page(texts["report.html"]).tags["img"] and "chance" not in texts["board.tex"]
    assert (
        board_page.explained(bare, [bare], "a", "red") == {}
        and figures.cost([bare], {"a": "red"}) is None
    )
    assert (
        line(bare).startswith("a, one: ") and board.brief(tmp_path)[0]["gain_over_random"] is None
    )
    whole = made("a", "one")
    parts = ["confusion", "gains by class", "nearest neighbours", "attention"]
    assert list(board_page.explained(whole, [whole], "random", "red")) == parts


def test_folders_become_one_report(tmp_path: Path):
    """As a user starts it."""
    a = put(tmp_path / "a", made("a", "one"), made("a", "two"))
    b, out = put(tmp_path / "b", made("b", "one", seed=1)), tmp_path / "new" / "all"
    done = command("benchmarks.report", str(a), str(b), "--out", str(out), "--baseline", "pixels")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"report": str(out / "report.html")}
    assert not (a / "report.html").exists()
    rows = list(csv.DictReader((out / "board.csv").read_text().splitlines()))
    assert {(row["cell"], row["encoder"]) for row in rows} == {
        ("one", "a"),
        ("two", "a"),
        ("one", "b"),
    }
    assert report.reports([str(a), str(b)]) == {
        "report": str(a / "report.html")
    }  # the first, where none is named
    assert report.reports([str(b)]) == report.report(b) == {"report": str(b / "report.html")}


@pytest.mark.parametrize("kinds", [("linear_probe", "fine_tuning"), ("benchmark",)])
def test_results_of_before_are_reported(tmp_path: Path, kinds: tuple[str, ...]):
    """Of commit eba6741, which had no schema and three kinds of results."""
    for kind in kinds:
        (tmp_path / f"{kind}.json").write_text(json.dumps(old_result(kind)))
    assert report.reports([str(tmp_path)]) == {"report": str(tmp_path / "report.html")}
    rows = {
        (row["cell"], row["row"]): row
        for row in csv.DictReader((tmp_path / "board.csv").read_text().splitlines())
    }
    for kind in kinds:
        content = old_result(kind)
        cell = TUNED if kind == "fine_tuning" else "classify.linear"
        for row, score in {"encoder": content, **content["controls"]}.items():
            numbers = [float(rows[cell, row][key]) for key in ("score", "low")]
            assert numbers == [score["top1"], score["interval"][0]]
    if len(kinds) == 2:
        assert content["confusion"] == board_page.confusion(
            board.read_all(tmp_path)[tmp_path / "fine_tuning.json"]
        )


def test_two_folders_may_hold_the_same_but_not_differ(tmp_path: Path):
    again = replace(made("a", "one"), cost=Cost(probe_cpu_s=77.0), command="another path")
    a, b = put(tmp_path / "a", made("a", "one")), put(tmp_path / "b", again)
    assert len(board.read_all(a, b)) == 1
    put(b, made("a", "one", seed=1))
    with pytest.raises(UserError, match=facts("a/a.one.json", "b/a.one.json")):
        board.read_all(a, b)
    assert not (a / "report.html").exists()


def test_rows_that_are_no_fair_comparison_are_warned_of():
    a, b = made("a", "one"), made("b", "one")
    assert board.mixed([a, b]) == []
    others = [
        replace(b, data=replace(b.data, hash="e" * 64)),
        replace(b, protocol={"cell": {"task": "one", "probe": "knn"}}),
        replace(made("a", "two"), encoder=replace(a.encoder, hash="other")),
    ]
    warnings = [board.mixed([a, other]) for other in others]
    assert [len(said) for said in warnings] == [1, 1, 1] and len(
        {said[0] for said in warnings}
    ) == 3
    assert warnings[0][0] in board.notes([a, others[0]])
    for kind in (a, replace(a, kind=TUNED, protocol={"training": {"lr": 1, "encoder": "x"}})):
        moved = replace(kind, encoder=encoder_info("b"))
        assert board.mixed([kind, moved]) == []  # another encoder is what one wants to compare


def test_only_what_belongs_together_is_merged(tmp_path: Path):
    a = put(tmp_path / "a", made("a", "one"))
    empty, absent = tmp_path / "empty", tmp_path / "absent"
    empty.mkdir()
    refusals = [([a, empty], "--out"), ([absent], str(absent)), ([empty], str(empty))]
    for folders, fact in refusals:
        with pytest.raises(UserError, match=facts(fact)):
            report.reports([str(folder) for folder in folders])
    said = sentence(command("benchmarks.report", str(a), "--baseline", "pixel"))
    assert tells(said, "--baseline", "pixels")


def test_gains_by_class_are_those_of_the_answers():
    result = made("a", "one", classes=2, clips=8)
    (result.test.labels or [])[:] = [0, 0, 0, 0, 1, 1, 1, 1]
    correct = result.test.correct or {}
    correct |= {
        "encoder": [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0],
        "random": [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0],
    }
    gains = classes.class_gains(result, result, "random")
    assert [(g.name, g.clips, g.difference) for g in gains] == [
        ("class 0", 4, 0.5),
        ("class 1", 4, -0.25),
    ]
    low, high = classes.with_interval(gains[0], result, result, "random").interval or (1, -1)
    assert low <= 0.5 <= high
    over_chance = classes.class_gains(result, result, "chance")
    assert [g.difference for g in over_chance] == [0.75 - 0.5, 0.25 - 0.5]
    other = replace(result, test=replace(result.test, correct={"encoder": [1.0] * 8}))
    assert [g.difference for g in classes.class_gains(result, other, "encoder")] == [-0.25, -0.75]
    scores = {"run": 0.9, "walk": 0.2, "sit": 1.0, "lie": None}  # None: test has none of it
    theirs = {"run": 0.1, "walk": 0.4, "sit": None, "lie": None}
    controls = {"random": replace(result.controls["random"], per_class=theirs)}
    result = replace(result, score=replace(result.score, per_class=scores), controls=controls)
    gains = classes.class_gains(result, result, "random")
    assert [(g.name, g.clips, round(g.difference, 6)) for g in gains] == [
        ("run", None, 0.8),
        ("walk", None, -0.2),
    ]
    assert classes.with_interval(gains[0], result, result, "random").interval is None
    assert (
        classes.class_gains(result, result, "chance") == []
    )  # one number for all classes says nothing of one
    result = replace(
        result, test=replace(result.test, labels=[[0], [0, 1], [], [1], [1], [1], [0], [0]])
    )
    assert classes.clips_of(result) == {} and board_page.confusion(result) is None


def test_the_baseline_may_be_a_row_an_encoder_or_chance(tmp_path: Path):
    mine, theirs = made("mine", "one"), made("theirs", "one", seed=1)
    found = [mine, theirs, made("mine", "alone")]
    for baseline, row in (
        ("random", "random"),
        ("pixels", "pixels"),
        ("chance", "chance"),
        ("theirs", "encoder"),
    ):
        shown = board_page.class_bars(mine, found, baseline, "red")
        assert shown is not None
        expected = classes.class_gains(mine, theirs if baseline == "theirs" else mine, row)
        assert [bar.value for bar in shown.bars] == [gain.difference for gain in expected]
        assert [bar.name for bar in shown.bars] == [
            f"{gain.name} ({gain.clips})" for gain in expected
        ]
    assert board_page.class_bars(theirs, found, "theirs", "red") is None
    alone = board_page.class_bars(found[2], found, "theirs", "red")
    assert alone is not None and alone.bars == []  # this cell has no such row
    with pytest.raises(UserError, match=facts("--baseline", "theirs")):
        board.write(put(tmp_path, *found), baseline="their")


def test_many_classes_are_cut_down_and_their_worst_pairs_told():
    some, many = made("a", "one", classes=40, clips=200), made("a", "one", classes=70, clips=210)
    shown = board_page.class_bars(some, [some], "random", "red")
    assert shown is not None and len(shown.bars) == 2 * board_page.ENDS and shown.cut_from == 40
    counts = np.array(board_page.confusion(many))
    counts[3, 5] = 9
    names = many.data.classes
    assert figures.worst_pairs(counts.tolist(), names)[0] == (
        "class 3",
        "class 5",
        f"9 of {counts[3].sum()}",
    )
    assert len(figures.worst_pairs(counts.tolist(), names)) == figures.WORST
    assert not figures.confusion(counts.tolist(), names).axes[0].get_yticklabels()


def test_means_have_their_spread_in_every_table(tmp_path: Path):
    """Over seeds of the probe, and over folds."""
    result = made("a", "one", seeds=[0, 1, 2])
    rows = {name: replace(row, std_over_seeds=0.02) for name, row in result.controls.items()}
    score = replace(result.score, std_over_seeds=0.0123)
    seeds, folds = replace(result, score=score, controls=rows), []
    for n in (1, 2):
        fold = Fold(of="set", number=n, folds=[1, 2])
        folds.append(made("a", f"set.fold{n}", seed=n, skill=0.4 + 0.2 * n, fold=fold))
    texts = written(put(tmp_path, seeds, *folds))
    scores = [result.score.value for result in folds]
    table = list(csv.DictReader(texts["board.csv"].splitlines()))
    for cell, over, value, std in (
        ("one", "3 seeds", seeds.score.value, 0.0123),
        ("set", "folds 1, 2", sum(scores) / 2, float(np.std(scores, ddof=1))),
    ):
        own = [row for row in table if row["cell"] == cell]
        assert [row["row"] for row in own] == list(ROWS) and {row["mean_over"] for row in own} == {
            over
        }
        assert float(own[0]["score"]) == pytest.approx(value) and float(
            own[0]["std"]
        ) == pytest.approx(std)
        assert f"{100 * value:.1f} +- {100 * std:.1f} % ({over})" in texts["board.md"]
        assert f"{100 * value:.1f} $\\pm$ {100 * std:.1f} " in texts["board.tex"]


def test_how_to_cite_names_software_code_data_and_protocols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    page = board_page.cite([made("a", "one"), made("a", "two")])
    parts = ("@software{ssvid", "abcdef0123456789+", "d" * 16)
    parts += ("one 0123456789abcdef", "two 0123456789abcdef")
    assert all(part in page for part in parts)
    citation = {"title": "T", "version": "2.0", "date-released": "2026-02-01", "doi": "10.1/x"}
    citation["authors"] = [{"family-names": "Doe", "given-names": "J."}, {"name": "Lab"}]
    (tmp_path / "c.cff").write_text(json.dumps(citation))
    monkeypatch.setattr(board_page, "CITATION", tmp_path / "c.cff")
    entry = board_page.bibtex()
    assert all(part in entry for part in ("{Doe, J. and {Lab}}", "{{T}}", "{2.0}", "{2026}", "doi"))
    monkeypatch.setattr(board_page, "CITATION", tmp_path / "absent")
    assert "@software" not in board_page.cite([made("a", "one")])


def test_attention_over_time(tmp_path: Path):
    for i in range(6):
        write_video(tmp_path / f"{i}.mp4", squares(i))
    rows = [
        Row(f"{i}.mp4", label="ab"[i % 2], split="train" if i < 2 else "test", group=str(i))
        for i in range(6)
    ]
    data = Manifest(tuple(rows), tmp_path, ("a", "b"))
    weights = torch.tensor(
        [[1.0, 3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0], [0.5, 0.5, 0.5, 0.5]]
    )
    seen = describe_attention(
        data,
        ClipSpec(frames=8, stride=1, size=16),
        [2, 3, 4, 5],
        torch.tensor([0, 0, 1, 1]),
        weights,
    )
    assert seen["mean"] == [round((0.25 + 0.25 + 0.25) / 4, 4), 0.3125, 0.125, 0.375]
    assert [clip["path"] for clip in seen["clips"]] == [
        "2.mp4",
        "4.mp4",
        "3.mp4",
        "5.mp4",
    ]  # by class
    assert (
        seen["clips"][0]["weights"] == [0.25, 0.75, 0.0, 0.0]
        and json.loads(json.dumps(seen)) == seen
    )
    assert [clip["label"] + clip["predicted"] for clip in seen["clips"]] == ["aa", "ab", "ba", "bb"]
    strip = Image.open(io.BytesIO(base64.b64decode(seen["clips"][0]["jpeg"])))
    assert strip.size == (4 * (SIDE + GAP) - GAP, SIDE)
    assert find_middles(8, 4).tolist() == [1, 3, 5, 7] and find_middles(8, 8).tolist() == list(
        range(8)
    )
    one = describe_attention(
        data, ClipSpec(frames=8, stride=1, size=16), [2], None, torch.ones(1, 1)
    )
    assert one["clips"][0]["predicted"] is None and one["mean"] == [1.0]
    assert Image.open(io.BytesIO(base64.b64decode(one["clips"][0]["jpeg"]))).size == (
        FRAMES * (SIDE + GAP) - GAP,
        SIDE,
    )


@pytest.mark.parametrize("width", [1100, 500])
def test_a_browser_shows_it_whole(tmp_path: Path, width: int):
    """Nothing is broken, nothing is cut off at the side, folded parts are unfolded."""
    cells = {"a": 4, "cell.with_quite_a_long_name": 48, "c": 70}
    results = [
        made(title, cell, classes=n, clips=3 * n, seed=i)
        for i, title in enumerate(("mae_vit_small", "an_encoder_with_a_rather_long_name"))
        for cell, n in cells.items()
    ]
    page = Path(report.reports([str(put(tmp_path, *results))])["report"])
    images = 1 + 6 * (1 + 4 * (1 + 3) + 4)  # cost; confusion, film strips, attention
    assert measure_page(page, LAYOUT, width) == {"images": images, "broken": 0, "wide": 0, "out": 0}
