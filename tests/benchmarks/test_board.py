"""The report of benchmarks.run, from made-up results: its tables, its page, and the page as a browser shows it."""

import base64
import csv
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import board, board_page, plots, report, results
from benchmarks.strips import FRAMES, GAP, SIDE, attended, middles
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.shapes import ClipSpec, Row
from tests.benchmarks.browser import Browser
from tests.helpers import command, facts, sentence, squares, tells, write_video

ROWS = ("encoder", "random", "pixels", "single_frame", "shuffled")


def jpeg(frames: int, shade: int) -> str:
    with io.BytesIO() as file:
        Image.fromarray(np.full((24, 24 * frames, 3), shade, dtype=np.uint8)).save(file, "jpeg")
        return base64.b64encode(file.getvalue()).decode()


def made(title: str, cell: str, classes: int = 4, seed: int = 0, skill: float = 0.8, clips: int = 40) -> dict[str, Any]:
    """A result with every part that one may have."""
    rng = np.random.default_rng(seed)
    names = [f"class {i}" for i in range(classes)]
    labels = [i % classes for i in range(clips)]
    shares = dict(zip(ROWS, (skill, skill / 2, 0.3, skill / 1.5, skill / 1.2), strict=True))
    said = {
        row: [label if rng.random() < share else int(rng.integers(classes)) for label in labels]
        for row, share in shares.items()
    }
    correct = {row: [float(a == b) for a, b in zip(said[row], labels, strict=True)] for row in ROWS}

    def entry(row: str) -> dict[str, Any]:
        score = float(np.mean(correct[row]))
        return {"top1": score, "interval": [max(0.0, score - 0.1), min(1.0, score + 0.08)], "top5": 0.5}

    main = entry("encoder")
    gain = {"interval": [0.05, 0.4], "shown": True}
    clip = {"path": "a.mp4", "label": names[0], "jpeg": jpeg(5, 90)}
    near = [{**clip, "label": names[i % classes], "cosine": 0.9 - 0.1 * i} for i in range(3)]
    looked = [
        {**clip, "predicted": names[i % classes], "jpeg": jpeg(4, 60 * i), "weights": [0.1, 0.2, 0.6, 0.1]}
        for i in range(4)
    ]
    return {
        "kind": "benchmark",
        "cell": cell,
        **main,
        "metric": "top1",
        "chance": 1 / classes,
        "controls": {row: entry(row) for row in ROWS[1:]},
        "gains": {row: {"difference": main["top1"] - entry(row)["top1"], **gain} for row in ROWS[1:]},
        "test": {
            "paths": [f"{i}.mp4" for i in range(clips)],
            "groups": [f"g{i // 2}" for i in range(clips)],
            "labels": labels,
            "correct": correct,
            "predictions": said,
        },
        "strips": [{**clip, "predicted": names[i % classes], "near": near} for i in range(4)],
        "attention": {"mean": [0.2, 0.3, 0.4, 0.1], "clips": looked},
        "encoder": {"title": title, "weights": "trained", "licence": None, "hash": f"hash-{title}", "given": title},
        "data": {"hash": "d" * 64, "classes": names, "clips": {"train": 80, "val": 40, "test": clips}},
        "protocol": {"cell": {"task": cell}, "clip": {"frames": 8}},
        "protocol_hash": "0123456789abcdef",
        "leak": {"checked": False},
        "cost": {"gflops_per_clip": 1.0 + 40 * seed, "extract_cpu_s": 100.0 + 9 * seed, "probe_cpu_s": 10.0},
        "seed": 0,
        "git": "abcdef0123456789+",
        "command": f"python -m benchmarks.run --encoder {title} --suite mini --out out",
    }


def put(folder: Path, *found: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, result in enumerate(found):
        (folder / f"{i}.json").write_text(json.dumps(result))
    return folder


def written(folder: Path, *more: Path, **options: Any) -> dict[str, str]:
    """Name -> text of all four files."""
    place = board.write(folder, *more, **options).parent
    return {name: (place / name).read_text() for name in ("board.md", "board.csv", "board.tex", "report.html")}


def stands_alone(page: str) -> bool:
    outside = re.search(r"<script|<link|<iframe|@import|url\(", page)
    return not outside and not re.findall(r'(?:src|href)="(?!data:image/(?:png|jpeg);base64,|#)', page)


def summaries(page: str) -> list[str]:
    return re.findall(r"<summary>(.*?)</summary>", page)


def test_every_number_is_in_every_table(tmp_path: Path):
    found = [made(title, cell, skill=skill) for title, skill in (("a", 0.9), ("b", 0.4)) for cell in ("one", "two")]
    texts = written(put(tmp_path, *found))
    rows = list(csv.DictReader(texts["board.csv"].splitlines()))
    for result in found:
        low, high = (f"{100 * end:.1f}" for end in result["interval"])
        score = f"{100 * result['top1']:.1f}"
        (own,) = (
            r
            for r in rows
            if (r["cell"], r["encoder"], r["row"]) == (result["cell"], result["encoder"]["title"], "encoder")
        )
        assert float(own["score"]) == result["top1"] and float(own["low"]) == result["interval"][0]
        assert f"| {score} % | {low} to {high} " in texts["board.md"]
        assert f"{score} {{\\tiny [{low}, {high}]}}" in texts["board.tex"]
        assert (
            f"<b>{score} %</b>" in texts["report.html"] and f'<td class="">{low} to {high}</td>' in texts["report.html"]
        )
        assert html.escape(result["command"]) in texts["report.html"]
    assert [row["cell"] + row["encoder"] for row in rows[:: len(ROWS)]] == ["onea", "oneb", "twoa", "twob"]


def test_latex_turns_where_cells_are_many(tmp_path: Path):
    few = board.latex([made("a", f"cell{i}") for i in range(board.ACROSS)])
    assert few.splitlines()[2] == " & " + " & ".join(f"cell{i}" for i in range(board.ACROSS)) + " \\\\"
    assert few.count("\\\\") == 1 + 3 + 1 and "chance & 25.0" in few  # head; encoder, untrained, pixels; chance
    many = board.latex([made(title, f"cell{i}") for title in "ab" for i in range(board.ACROSS + 1)])
    assert many.splitlines()[2] == " & a & b & chance \\\\" and many.count("\\\\") == 1 + 3 * (board.ACROSS + 1)
    widths = {line.count("&") for line in many.splitlines() if line.endswith("\\\\")}
    assert widths == {3}


def test_hostile_names_are_text(tmp_path: Path):
    bad = 'a<img src="http://x">&_|$x_{$\\~^'
    result = made(bad, "_cell_ `x` *y*")
    result["data"]["classes"] = [bad, "$\\frac", "c%", "d"]
    result["strips"][0] |= {"path": bad, "label": bad, "predicted": bad}
    result["attention"]["clips"][0] |= {"label": bad, "predicted": bad}
    texts = written(put(tmp_path, result))
    assert '<img src="http' not in texts["report.html"] and texts["report.html"].count(html.escape(bad)) >= 5
    assert stands_alone(texts["report.html"])
    row = texts["board.md"].splitlines()[3 + 1]
    assert "a\\<img" in row and "\\&\\_\\|" in row and "\\_cell\\_ \\`x\\` \\*y\\*" in row
    assert r"$x\_{$\\~^" in row and len(re.findall(r"(?<!\\)\|", row)) == len(board.HEAD) + 1
    assert (
        "a\\textless{}img" in texts["board.tex"]
        and "\\&\\_\\textbar{}\\$x\\_\\{\\$\\textbackslash{}" in texts["board.tex"]
    )
    assert next(csv.DictReader(texts["board.csv"].splitlines()))["encoder"] == bad


def test_what_a_result_lacks_is_left_out(tmp_path: Path):
    bare = made("a", "one")
    for key in ("strips", "attention", "chance", "command"):
        del bare[key]
    bare |= {"controls": {}, "gains": {}, "cost": {}, "git": None}
    bare["test"] = {"paths": ["0.mp4"], "groups": ["0"], "correct": {"encoder": [1.0]}, "predictions": {}}
    texts = written(put(tmp_path, bare), baseline="a")
    assert summaries(texts["report.html"]) == ["How to cite", "Further numbers", "a: command, protocol, cost"]
    assert "<img" not in texts["report.html"] and "Accuracy against cost" not in texts["report.html"]
    assert "chance" not in texts["board.tex"] and board.line(bare).startswith("a, one: ")
    assert board.brief(tmp_path)[0]["gain_over_random"] is None
    page = written(put(tmp_path, made("a", "one")))["report.html"]
    assert "a: confusion, gains by class, nearest neighbours, attention" in summaries(page)


def test_folders_become_one_report(tmp_path: Path):
    a, b = put(tmp_path / "a", made("a", "one"), made("a", "two")), put(tmp_path / "b", made("b", "one", seed=1))
    done = report.reports([str(a), str(b)], out=str(tmp_path / "new" / "all"))
    assert done == {"report": str(tmp_path / "new" / "all" / "report.html")} and not (a / "report.html").exists()
    rows = list(csv.DictReader((tmp_path / "new" / "all" / "board.csv").read_text().splitlines()))
    assert {(row["cell"], row["encoder"]) for row in rows} == {("one", "a"), ("two", "a"), ("one", "b")}
    assert report.reports([str(a), str(b)]) == {"report": str(a / "report.html")}  # the first, where none is named
    assert report.reports([str(b)]) == report.report(str(b)) == {"report": str(b / "report.html")}


def test_two_folders_may_hold_the_same_but_not_differ(tmp_path: Path):
    again = made("a", "one") | {"cost": {"probe_cpu_s": 77.0}, "command": "another path"}
    a, b = put(tmp_path / "a", made("a", "one")), put(tmp_path / "b", again)
    assert len(board.read_all(a, b)) == 1
    put(b, made("a", "one", seed=1))
    with pytest.raises(UserError, match=facts("a/0.json", "b/0.json")):
        board.read_all(a, b)
    assert not (a / "report.html").exists()


def test_rows_that_are_no_fair_comparison_are_warned_of():
    a, b = made("a", "one"), made("b", "one")
    assert board.mixed([a, b]) == []
    b["data"]["hash"] = "e" * 64
    assert board.mixed([a, b]) == ["WARNING: the results of one are of different data: do not compare them."]
    b = made("b", "one")
    b["protocol"]["cell"]["probe"] = "knn"
    assert "different tasks or probes" in board.mixed([a, b])[0]
    b = made("a", "two")
    b["encoder"]["hash"] = "other"
    assert "several encoders (of different hashes) are called a" in board.mixed([a, b])[0]
    assert "called a" in board.markdown([a, b]) and "called a" in board_page.html_page(
        [a, b], board.notes([a, b]), "random"
    )


def test_only_what_belongs_together_is_merged(tmp_path: Path):
    a = put(tmp_path / "a", made("a", "one"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=facts("benchmarks.run")):
        report.reports([str(a), str(tmp_path / "empty")])
    with pytest.raises(UserError, match="There is no folder .*absent"):
        report.reports([str(tmp_path / "absent")])
    with pytest.raises(UserError, match=facts("benchmarks.run")):
        report.reports([str(tmp_path / "empty")])
    (a / "probe.json").write_text(json.dumps({"kind": "linear probe"}))
    with pytest.raises(UserError, match=facts("benchmarks.run")):
        report.reports([str(a)])


def test_gains_by_class_are_those_of_the_answers():
    result = made("a", "one", classes=2, clips=8)
    result["test"]["labels"] = [0, 0, 0, 0, 1, 1, 1, 1]
    result["test"]["correct"] |= {"encoder": [1, 1, 1, 0, 1, 0, 0, 0], "random": [0, 0, 1, 0, 1, 1, 0, 0]}
    gains = results.class_gains(result, result, "random")
    assert [(g.name, g.clips, g.difference) for g in gains] == [("class 0", 4, 0.5), ("class 1", 4, -0.25)]
    low, high = results.with_interval(gains[0], result, result, "random").interval or (1, -1)
    assert low <= 0.5 <= high
    over_chance = results.class_gains(result, result, "chance")
    assert [g.difference for g in over_chance] == [0.75 - 0.5, 0.25 - 0.5]
    other = made("b", "one", classes=2, clips=8)
    other["test"]["labels"], other["test"]["correct"]["encoder"] = result["test"]["labels"], [1] * 8
    assert [g.difference for g in results.class_gains(result, other, "encoder")] == [-0.25, -0.75]
    result["per_class"] = {"run": 0.9, "walk": 0.2, "sit": 1.0, "lie": None}  # None: test has none of it
    result["controls"]["random"]["per_class"] = {"run": 0.1, "walk": 0.4, "sit": None, "lie": None}
    gains = results.class_gains(result, result, "random")
    assert [(g.name, g.clips, round(g.difference, 6)) for g in gains] == [("run", None, 0.8), ("walk", None, -0.2)]
    assert results.with_interval(gains[0], result, result, "random").interval is None
    assert results.class_gains(result, result, "chance") == []  # one number for all classes says nothing of one
    result["test"]["labels"] = [[0], [0, 1], [], [1], [1], [1], [0], [0]]
    assert results.clips_of(result) == {} and board_page.confused(result) == ""


def test_the_baseline_may_be_a_row_an_encoder_or_chance(tmp_path: Path):
    folder = put(tmp_path, made("mine", "one"), made("theirs", "one", seed=1), made("mine", "alone"))
    for baseline, said, times in (
        ("random", "Gain by class over: same net, untrained", 3),
        ("pixels", "Gain by class over: raw pixels", 3),
        ("chance", "Gain by class over: chance", 3),
        ("theirs", "Gain by class over: theirs", 1),
    ):
        page = written(folder, baseline=baseline)["report.html"]
        assert page.count(said) == times, baseline
    assert page.count("Gain over theirs by class: this cell has no such row.") == 1
    mine, theirs = made("mine", "one"), made("theirs", "one", seed=1)
    expected = [f"{100 * gain.difference:+.1f}" for gain in results.class_gains(mine, theirs, "encoder")]
    shown = board_page.gains(mine, [mine, theirs], "theirs", "red")
    assert re.findall(r"<span>([+-][\d.]+) <small>", shown) == expected
    with pytest.raises(UserError, match=facts("--baseline")):
        board.write(folder, baseline="their")


def test_many_classes_are_cut_down_and_their_worst_pairs_told():
    some, many = made("a", "one", classes=40, clips=200), made("a", "one", classes=70, clips=210)
    assert board_page.gains(some, [some], "random", "red").count("<i ") == 2 * board_page.ENDS
    assert "the 10 largest and the 10 smallest of 40" in board_page.gains(some, [some], "random", "red")
    assert "taken for" not in board_page.confused(some)
    shown = board_page.confused(many)
    counts = np.zeros((70, 70), dtype=int)
    np.add.at(counts, (many["test"]["labels"], many["test"]["predictions"]["encoder"]), 1)
    counts[3, 5] = 9
    assert shown.count("<tr>") == 1 + plots.WORST and "taken for" in shown
    first = re.findall(r'<td class="n">(.*?)</td>', plots.worst(counts.tolist(), many["data"]["classes"]))[:3]
    assert first == ["class 3", "class 5", f"9 of {counts[3].sum()}"]
    assert not plots.confusion(counts.tolist(), many["data"]["classes"]).axes[0].get_yticklabels()


def test_a_mean_over_seeds_has_its_spread(tmp_path: Path):
    result = made("a", "one") | {"seeds": [0, 1, 2], "std_over_seeds": 0.0123}
    for row in result["controls"].values():
        row["std_over_seeds"] = 0.02
    texts, score = written(put(tmp_path, result)), f"{100 * result['top1']:.1f}"
    assert f"{score} +- 1.2 % (3 seeds)" in texts["board.md"] and f"{score} $\\pm$ 1.2 " in texts["board.tex"]
    assert f"<b>{score} &plusmn; 1.2 %</b> <small>(3 seeds)</small>" in texts["report.html"]
    rows = list(csv.DictReader(texts["board.csv"].splitlines()))
    assert [(row["mean_over"], row["std"]) for row in rows[:2]] == [("3 seeds", "0.0123"), ("3 seeds", "0.02")]


def test_folds_have_a_mean_in_every_table(tmp_path: Path):
    folds = [made("a", f"set.fold{n}", seed=n, skill=0.4 + 0.2 * n) for n in (1, 2)]
    for n, result in enumerate(folds, 1):
        result["fold"] = {"of": "set", "number": n, "folds": [1, 2]}
    texts, mean = written(put(tmp_path, *folds)), (folds[0]["top1"] + folds[1]["top1"]) / 2
    std = float(np.std([result["top1"] for result in folds], ddof=1))
    shown = f"{100 * mean:.1f} +- {100 * std:.1f} % (folds 1, 2)"
    assert shown in texts["board.md"] and f"{100 * mean:.1f} $\\pm$ {100 * std:.1f} " in texts["board.tex"]
    rows = [row for row in csv.DictReader(texts["board.csv"].splitlines()) if row["cell"] == "set"]
    assert [row["row"] for row in rows] == list(ROWS) and {row["mean_over"] for row in rows} == {"folds 1, 2"}
    assert float(rows[0]["score"]) == pytest.approx(mean) and float(rows[0]["std"]) == pytest.approx(std)
    assert "a: mean over folds 1, 2." in texts["report.html"]
    assert summaries(texts["report.html"]).count("a: command, protocol, cost") == 2  # of the folds alone


def test_how_to_cite_names_software_code_data_and_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = written(put(tmp_path, made("a", "one"), made("a", "two")))["report.html"]
    assert "@software{ssvid,\n  author = {{The ssvid authors}}," in page
    line = "Measured with ssvid, code abcdef0123456789+; data dddddddddddddddd; protocols: one 0123456789abcdef, two"
    assert line in page
    (tmp_path / "c.cff").write_text(
        "title: T\nversion: 2.0\nauthors: [{family-names: Doe, given-names: J.}, {name: Lab}]\n"
        "date-released: 2026-02-01\ndoi: 10.1/x\n"
    )
    monkeypatch.setattr(board_page, "CITATION", tmp_path / "c.cff")
    assert (
        "author = {Doe, J. and {Lab}},\n  title = {{T}},\n  version = {2.0},\n  year = {2026},\n  doi"
        in board_page.bibtex()
    )
    monkeypatch.setattr(board_page, "CITATION", tmp_path / "absent")
    assert "@software" not in board_page.cite([made("a", "one")])


def test_attention_over_time(tmp_path: Path):
    for i in range(6):
        write_video(tmp_path / f"{i}.mp4", squares(i))
    rows = [Row(f"{i}.mp4", label="ab"[i % 2], split="train" if i < 2 else "test", group=str(i)) for i in range(6)]
    data = Manifest(tuple(rows), tmp_path, ("a", "b"))
    weights = torch.tensor([[1.0, 3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0], [0.5, 0.5, 0.5, 0.5]])
    seen = attended(data, ClipSpec(frames=8, stride=1, size=16), [2, 3, 4, 5], torch.tensor([0, 0, 1, 1]), weights)
    assert seen["mean"] == [round((0.25 + 0.25 + 0.25) / 4, 4), 0.3125, 0.125, 0.375]
    assert [clip["path"] for clip in seen["clips"]] == ["2.mp4", "4.mp4", "3.mp4", "5.mp4"]  # by class
    assert seen["clips"][0]["weights"] == [0.25, 0.75, 0.0, 0.0] and json.loads(json.dumps(seen)) == seen
    assert [(clip["label"], clip["predicted"]) for clip in seen["clips"]] == [
        ("a", "a"),
        ("a", "b"),
        ("b", "a"),
        ("b", "b"),
    ]
    strip = Image.open(io.BytesIO(base64.b64decode(seen["clips"][0]["jpeg"])))
    assert strip.size == (4 * (SIDE + GAP) - GAP, SIDE)
    assert middles(8, 4).tolist() == [1, 3, 5, 7] and middles(8, 8).tolist() == list(range(8))
    one = attended(data, ClipSpec(frames=8, stride=1, size=16), [2], None, torch.ones(1, 1))
    assert one["clips"][0]["predicted"] is None and one["mean"] == [1.0]
    assert Image.open(io.BytesIO(base64.b64decode(one["clips"][0]["jpeg"]))).size == (FRAMES * (SIDE + GAP) - GAP, SIDE)
    shown = board_page.attention(seen)
    assert shown.count('height:100.0%"') == 1 and shown.count("bottom:25.0%") == 5  # of the largest weight, 1.0


def test_as_a_user_starts_it(tmp_path: Path):
    a, b = put(tmp_path / "a", made("a", "one")), put(tmp_path / "b", made("b", "one", seed=1))
    done = command("benchmarks.report", str(a), str(b), "--baseline", "pixels", "--out", str(tmp_path / "all"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"report": str(tmp_path / "all" / "report.html")}
    assert "Gain by class over: raw pixels" in (tmp_path / "all" / "report.html").read_text()
    said = sentence(command("benchmarks.report", str(a), str(b), "--baseline", "pixel"))
    assert tells(said, "--baseline")


MEASURE = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(one => one.open = true);
  const images = [...document.images], wide = document.documentElement.clientWidth;
  const all = [...document.querySelectorAll("img, .bars, .track, .look, figure")];
  document.title = JSON.stringify({images: images.length, broken: images.filter(one => !one.naturalWidth).length,
    wide: document.documentElement.scrollWidth - wide,
    out: all.filter(one => one.getBoundingClientRect().right > wide + 1).length});
});</script>"""


@pytest.mark.parametrize("width", [1100, 500])
def test_a_browser_shows_it_whole(tmp_path: Path, width: int):
    """Nothing broken, nothing cut off at the side, folded parts unfolded; and the picture is no white sheet."""
    browser = Browser(width, tmp_path)
    cells = {"a": 4, "cell.with_quite_a_long_name": 48, "c": 70}
    found = [
        made(title, cell, classes=n, clips=3 * n, seed=i)
        for i, title in enumerate(("mae_vit_small", "an_encoder_with_a_rather_long_name"))
        for cell, n in cells.items()
    ]
    page = Path(report.reports([str(put(tmp_path, *found))])["report"])
    seen = browser.measured(page, MEASURE)
    assert seen["images"] == 1 + 6 * (1 + 4 * (1 + 3) + 4)  # cost; confusion, film strips, attention
    assert (seen["broken"], seen["wide"], seen["out"]) == (0, 0, 0), seen
    ink, blue = browser.inked(page)
    assert ink.mean() > 0.01
    assert blue.any(1).mean() > 0.01 and ink[-200:].any()  # bars, and it goes on to the bottom
