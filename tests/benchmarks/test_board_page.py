"""The page of results: the data that its template gets, and the page as a browser shows it."""

import base64
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import report
from benchmarks.reports import board, board_page, board_sections, classes, figures
from benchmarks.reports.bars import Bar, chart_differences, chart_scores
from benchmarks.reports.cell_titles import title_cell
from benchmarks.reports.figure_style import RED
from benchmarks.reports.page import render_page
from benchmarks.reports.page_heads import Head, date_of, head_of_results, print_text
from benchmarks.reports.summary import summarise
from benchmarks.reports.verdict import verdict
from benchmarks.tasks.film_strips import FRAMES, GAP, SIDE, describe_attention, find_middles
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.results import Gain, Leak, Result
from ssvid.results.evidence import correct_gains
from ssvid.shapes import ClipSpec, Row
from tests.benchmarks.browser import LAYOUT, measure_page, read_page
from tests.benchmarks.made import make_gain, make_whole_result, pick, pick_keys, put
from tests.helpers import facts, squares, tells, write_video

BETTER, WORSE = make_gain(0.1, 0.05, 0.2), make_gain(-0.1, -0.2, -0.05)
UNCLEAR = make_gain(0.01, -0.1, 0.2)


def with_gains(result: Result, **gains: Gain) -> Result:
    return replace(result, gains={**result.gains, **gains})


def sum_up(results: list[Result]) -> str:
    return " ".join(summarise(results))


def make_overview(*results: Result) -> list[board_page.OverviewCell]:
    colours = dict.fromkeys(pick(results, "encoder.title"), "red")
    return board_page.make_overview(list(results), colours)


def test_the_head_names_data_clips_and_date(tmp_path: Path):
    """The date is that of the newest file, so that a page is made again the same."""
    result = make_whole_result("net", "one", clips=16)
    folder = {"name": "folder", "root": "/videos/mini6"}
    head = head_of_results([replace(result, data=replace(result.data, set=folder))], "2026-11-30")
    assert "net" in head.title and head.about == "mini6 - 16 test clips - 2026-11-30"
    sets = []
    for name in ("ucf101", "hmdb51"):
        data = replace(result.data, set={"name": name})
        sets.append(replace(result, data=data))
    other = make_whole_result("net", "two", clips=240)
    assert head_of_results([*sets, other], "").about == "ucf101, hmdb51 - 16 to 240 test clips"
    files = [tmp_path / "a", tmp_path / "b"]
    for seconds, file in zip((86_400 * 2, 86_400), files, strict=True):
        file.touch()
        os.utime(file, (seconds, seconds))
    assert date_of(files) == "1970-01-03" and date_of([]) == ""


def test_a_cell_has_a_title_in_words():
    result = make_whole_result("a", "low_label_1pct.linear")
    protocol = {"cell": {"task": "low_label", "probe": "linear", "share": 0.01}}
    title = title_cell(replace(result, protocol=protocol))
    assert title == "Classification with few labels, linear probe, 1 % of the labels"
    (cell,) = make_overview(replace(result, protocol=protocol))
    assert (cell.title, cell.code) == (title, "low_label_1pct.linear")
    (cell,) = make_overview(result)  # its task is none of ours
    assert (cell.title, cell.code) == ("low_label_1pct.linear", "")


def test_only_what_is_shown_is_marked():
    result = make_whole_result("a", "one")
    kinds = {}
    for name, gain in (("better", BETTER), ("worse", WORSE), ("", UNCLEAR)):
        (cell,) = make_overview(with_gains(result, random=gain, floor=gain))
        (row,) = cell.rows
        assert row.gain is not None
        kinds[name] = (row.gain.kind, row.floor_leads, row.leak)
    assert kinds == {
        "better": ("better", False, 0),
        "worse": ("worse", True, 0),
        "": ("", False, 0),
    }


def test_a_leak_stands_first_and_marks_its_number(tmp_path: Path):
    leak = Leak(checked=True, clips=18)
    leaky = replace(with_gains(make_whole_result("a", "one"), random=BETTER), leak=leak)
    sound = make_whole_result("b", "one", seed=1)
    assert tells(verdict(leaky)[0], "WARNING", "18") and "WARNING" not in " ".join(verdict(sound))
    first, second = make_overview(leaky, sound)[0].rows
    assert (first.leak, second.leak) == (18, 0) and first.gain is not None
    assert first.gain.kind == ""  # a gain of a number that is not valid is none
    bars = [board_sections.score_bars(result, "blue")[0] for result in (leaky, sound)]
    assert pick(bars, "wrong") == [True, False] and pick(bars, "colour") == [RED, "blue"]
    assert "LEAK" in bars[0].name and tells(board.list_notes([sound, leaky])[0], "WARNING", "a")
    text = read_page(Path(board.write_board(put(tmp_path, leaky, sound))).read_text()).text
    first = print_text(summarise(correct_gains([sound, leaky]))[0])
    assert text.index("WARNING") < text.index(first)
    assert "a" not in sum_up([leaky, sound]).split() and sum_up([leaky])


def test_a_control_that_is_better_has_its_own_sentence():
    result = make_whole_result("a", "one")
    for row in ("single_frame", "bag", "shuffled", "floor"):
        worse, unclear = with_gains(result, **{row: WORSE}), with_gains(result, **{row: UNCLEAR})
        assert tells(" ".join(verdict(worse)), "BETTER", "10.0", "-20.0", "-5.0")
        assert "BETTER" not in " ".join(verdict(unclear))


def test_a_page_is_summed_up_in_one_sentence():
    best = with_gains(make_whole_result("best", "one", skill=0.9), random=BETTER)
    second = with_gains(make_whole_result("second", "one", skill=0.2), random=UNCLEAR)
    percent = f"{100 * best.score.value:.1f}"
    assert tells(sum_up([second, best]), "best", percent, "10.0", "+5.0", "+20.0", "above")
    unclear, worse = with_gains(best, random=UNCLEAR), with_gains(best, random=WORSE)
    assert tells(sum_up([unclear]), percent, "not shown", "12.0") and "BELOW" in sum_up([worse])
    others = [replace(unclear, cell="two"), replace(second, cell="two")]
    assert tells(sum_up([best, second, *others]), "best", "2 of 2", "1 of 2", "in 1")
    assert tells(sum_up([best, replace(worse, cell="two")]), "best", "1 of 2", "BELOW", "in 1")
    assert tells(sum_up([unclear, replace(unclear, cell="two")]), "not shown", "2 tasks")


def test_bars_have_their_places():
    bar = Bar("a", 0.4, (0.3, 0.6), "red")
    chart = chart_scores([[bar, bar], [bar]], 0.25, "top1")
    assert pick(chart.bars, "begins_group") == [False, False, True] and chart.chance == "25.00"
    drawn = chart.bars[0]
    assert (drawn.left, drawn.width, drawn.whisker) == ("0.00", "40.00", ("30.00", "30.00"))
    assert (drawn.text, drawn.interval) == ("40.0", "30.0 to 60.0")
    chart = chart_differences([Bar("a", 0.1, None, "red"), Bar("b", -0.1, None, "red")], "points")
    places = [(bar.left, bar.width, bar.text) for bar in chart.bars]
    assert places == [("50.00", "50.00", "+10.0"), ("0.00", "50.00", "-10.0")]
    assert [text for _, text in chart.ticks] == ["-10", "-5", "0", "+5", "+10"]


def test_gains_by_class_are_those_of_the_answers():
    result = make_whole_result("a", "one", classes=2, clips=8)
    (result.test.labels or [])[:] = [0, 0, 0, 0, 1, 1, 1, 1]
    correct = result.test.correct or {}
    correct |= {
        "encoder": [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0],
        "random": [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0],
    }
    gains = classes.class_gains(result, result, "random")
    assert gains == [("class 0", 4, 0.5, None), ("class 1", 4, -0.25, None)]
    low, high = classes.add_interval(gains[0], result, result, "random").interval or (1, -1)
    assert low <= 0.5 <= high
    over_chance = classes.class_gains(result, result, "chance")
    assert pick(over_chance, "difference") == [0.75 - 0.5, 0.25 - 0.5]
    other = replace(result, test=replace(result.test, correct={"encoder": [1.0] * 8}))
    over_other = classes.class_gains(result, other, "encoder")
    assert pick(over_other, "difference") == [-0.25, -0.75]


def test_gains_by_class_where_the_result_has_scores_of_classes():
    result = make_whole_result("a", "one", classes=2, clips=8)
    scores = {"run": 0.9, "walk": 0.2, "sit": 1.0, "lie": None}  # None: test has none of it
    base = {"run": 0.1, "walk": 0.4, "sit": None, "lie": None}
    controls = {"random": replace(result.controls["random"], per_class=base)}
    result = replace(result, score=replace(result.score, per_class=scores), controls=controls)
    gains = classes.class_gains(result, result, "random")
    assert pick(gains, "name") == ["run", "walk"] and pick(gains, "clips") == [None, None]
    assert pick(gains, "difference") == pytest.approx([0.8, -0.2])
    assert classes.add_interval(gains[0], result, result, "random").interval is None
    # one number for all classes says nothing of one
    assert classes.class_gains(result, result, "chance") == []
    labels = [[0], [0, 1], [], [1], [1], [1], [0], [0]]
    result = replace(result, test=replace(result.test, labels=labels))
    assert classes.clips_of_classes(result) == {}
    assert board_sections.count_confusion(result) is None


@pytest.mark.parametrize("baseline", ["random", "floor", "chance", "theirs"])
def test_the_baseline_may_be_a_row_an_encoder_or_chance(baseline: str):
    mine, theirs = make_whole_result("mine", "one"), make_whole_result("theirs", "one", seed=1)
    results = [mine, theirs, make_whole_result("mine", "alone")]
    row, base = ("encoder", theirs) if baseline == "theirs" else (baseline, mine)
    shown = board_sections.class_bars(mine, results, baseline, "red")
    assert shown is not None
    expected = classes.class_gains(mine, base, row)
    assert pick(shown.bars, "value") == pick(expected, "difference")
    names = [f"{gain.name} ({gain.clips})" for gain in expected]
    assert pick(shown.bars, "name") == names


def test_a_baseline_that_a_cell_lacks(tmp_path: Path):
    mine, theirs = make_whole_result("mine", "one"), make_whole_result("theirs", "one", seed=1)
    results = [mine, theirs, make_whole_result("mine", "alone")]
    assert board_sections.class_bars(theirs, results, "theirs", "red") is None
    alone = board_sections.class_bars(results[2], results, "theirs", "red")
    assert alone is not None and alone.bars == []  # this cell has no such row
    with pytest.raises(UserError, match=facts("--baseline", "theirs")):
        board.write_board(put(tmp_path, *results), baseline="their")


def test_many_classes_are_cut_down_and_their_worst_pairs_listed():
    some = make_whole_result("a", "one", classes=40, clips=200)
    many = make_whole_result("a", "one", classes=70, clips=210)
    shown = board_sections.class_bars(some, [some], "random", "red")
    assert shown is not None and len(shown.bars) == 2 * board_sections.ENDS
    assert shown.cut_from == 40
    counts = np.array(board_sections.count_confusion(many))
    counts[3, 5] = 9
    names = many.data.classes
    pairs = figures.worst_pairs(counts.tolist(), names)
    assert pairs[0] == ("class 3", "class 5", f"9 of {counts[3].sum()}")
    assert len(pairs) == figures.WORST
    matrix, scale = figures.draw_confusion(counts.tolist(), names).axes
    assert not matrix.get_yticklabels() and scale.get_ylim() == (0, 100)


def test_cost_is_drawn_for_four_encoders_and_more():
    titles = "abcd"
    results = [make_whole_result(title, "one", seed=i) for i, title in enumerate(titles)]
    colours = dict.fromkeys(titles, "red")
    assert figures.draw_cost([*results[:3], make_whole_result("d", "two")], colours) is None
    drawn = figures.draw_cost(results, colours)
    assert drawn is not None
    axes = drawn.axes[0]
    assert axes.get_title("left") == "one" and axes.get_xlabel() == figures.AXES_OF_COST[0]
    rings = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    gflops = pick(results, "cost.gflops_per_clip")
    assert [line.get_xdata()[0] for line in rings] == gflops


def test_an_answer_is_no_neighbour():
    """Beside a test clip stands the answer of the probe; train clips are neighbours."""
    result = make_whole_result("a", "one", protocol={"cell": {"task": "classify", "probe": "knn"}})
    part = board_sections.describe_encoder(result, [result], "random", "red")
    assert part.answerer == "answer of the probe" and part.explanation is not None
    films = part.explanation.films
    assert pick(films, "clip.answer") == ["class 0", "class 1", "class 2", "class 3"]
    assert pick(films, "clip.right") == [True, False, False, False]
    near = films[0].neighbours
    assert pick(near, "right") == [True, False, False] and pick(near, "answer") == [""] * 3
    assert near[1].note.startswith("neighbour 2,")
    assert tells(near[0].note, "neighbour", "0.90")


def attend(folder: Path, labels: list[int], *parts: Any) -> dict[str, Any]:
    rows = []
    for i in range(6):
        split = "train" if i < 2 else "test"
        rows.append(Row(f"{i}.mp4", label="ab"[i % 2], split=split, group=str(i)))
    data = Manifest(tuple(rows), folder, ("a", "b"))
    return describe_attention(data, ClipSpec(frames=8, stride=1, size=16), labels, *parts)


def strip_size(clip: dict[str, Any]) -> tuple[int, int]:
    return Image.open(io.BytesIO(base64.b64decode(clip["jpeg"]))).size


def test_attention_over_time(tmp_path: Path):
    for i in range(6):
        write_video(tmp_path / f"{i}.mp4", squares(i))
    weights = torch.tensor(
        [[1.0, 3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0], [0.5, 0.5, 0.5, 0.5]]
    )
    attention = attend(tmp_path, [2, 3, 4, 5], torch.tensor([0, 0, 1, 1]), weights)
    assert attention["mean"] == [round((0.25 + 0.25 + 0.25) / 4, 4), 0.3125, 0.125, 0.375]
    clips = attention["clips"]
    assert pick_keys(clips, "path") == ["2.mp4", "4.mp4", "3.mp4", "5.mp4"]  # by class
    assert clips[0]["weights"] == [0.25, 0.75, 0.0, 0.0]
    assert json.loads(json.dumps(attention)) == attention
    assert [clip["label"] + clip["predicted"] for clip in clips] == ["aa", "ab", "ba", "bb"]
    assert strip_size(clips[0]) == (4 * (SIDE + GAP) - GAP, SIDE)
    assert find_middles(8, 4).tolist() == [1, 3, 5, 7] and find_middles(8, 8).tolist() == list(
        range(8)
    )
    one = attend(tmp_path, [2], None, torch.ones(1, 1))
    assert one["clips"][0]["predicted"] is None and one["mean"] == [1.0]
    assert strip_size(one["clips"][0]) == (FRAMES * (SIDE + GAP) - GAP, SIDE)
    shown = board_sections.show_attention(attention)
    assert shown.mean is not None and shown.mean.texts == ["19", "31", "12", "38"]
    assert shown.clips[0][1].heights == ["25.0", "75.0", "0.0", "0.0"]  # of the largest, 1.0


def test_no_python_file_holds_html():
    """Templates do, and jinja2 escapes what they show."""
    template = render_page("base.html", head=Head("<b>", "&"))
    assert "<h1>&lt;b&gt;</h1>" in template and ">&amp;<" in template
    for file in Path(board_page.__file__).parent.glob("*.py"):
        assert not re.search(r"</\w+>|html\.escape|Markup", file.read_text()), file


@pytest.mark.parametrize("width", [1280, 1100, 500])
def test_a_browser_shows_it_whole(tmp_path: Path, width: int):
    """Nothing is broken, nothing is cut off at the side, folded parts are unfolded."""
    cells = {"a": 4, "cell.with_quite_a_long_name": 48, "c": 70}
    results = []
    for i, title in enumerate(("mae_vit_small", "an_encoder_with_a_rather_long_name")):
        for cell, n in cells.items():
            results.append(make_whole_result(title, cell, classes=n, clips=3 * n, seed=i))
    page = Path(report.reports([str(put(tmp_path, *results))])["report"])
    images = 6 * (1 + 4 * (1 + 3) + 4)  # confusion, film strips, attention
    assert measure_page(page, LAYOUT, width) == {"images": images, "broken": 0, "wide": 0, "out": 0}
