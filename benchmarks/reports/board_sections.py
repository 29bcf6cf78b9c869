"""results of a cell -> its section on the page.

It has bars of all rows, then each encoder with what explains its score.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.reports.bars import Bar, Chart, chart_differences, chart_scores
from benchmarks.reports.cell_titles import group_cells, title_cell
from benchmarks.reports.classes import add_interval, class_gains, score_classes
from benchmarks.reports.figure_style import GREY, RED
from benchmarks.reports.figures import COUNTED, NAMED, draw_confusion, worst_pairs
from benchmarks.reports.page import Clip, Film, Picture, Table, draw_sharp, make_clip, make_film
from benchmarks.reports.page_heads import print_text
from benchmarks.reports.verdict import select_others, select_warnings, verdict
from ssvid.results import Result, Score
from ssvid.results.json_form import to_json
from ssvid.results.text import ROW_NAMES, name_row

MANY, ENDS = 30, 10  # classes: more are cut down to the best and the worst
OPEN = 8  # results whose pictures are shown unfolded; of more a reader picks
SLOTS = 16  # of time: of more the shares are not written
LONG = (  # keys that the details leave out
    "grid",
    "test",
    "protocol",
    "config",
    "controls",
    "gains",
    "strips",
    "attention",
    "per_class",
    "confusion",
    "command",
)


class Confusion(NamedTuple):
    picture: Picture
    broad: bool  # its names want the whole width
    worst: Table | None  # pairs of classes, where they are too many to have names


class ClassBars(NamedTuple):
    baseline: str
    bars: list[Bar]  # of each class, the largest gain first; none: this cell has no such row
    cut_from: int  # number of classes, where they are too many to be shown
    counted: bool  # the names hold numbers of clips


class ClassGains(NamedTuple):
    caption: str
    chart: Chart | None


class Weights(NamedTuple):
    """Attention on each slot of time; heights in per cent of the chart."""

    heights: list[str]
    even: str  # height of the line: all slots get the same
    texts: list[str]


class Attention(NamedTuple):
    mean: Weights | None
    clips: list[tuple[Clip, Weights]]


class Explanation(NamedTuple):
    confusion: Confusion | None
    gains: ClassGains | None
    films: list[Film]
    attention: Attention | None

    @property
    def names(self) -> list[str]:
        """What there is, in the order of the page."""
        parts = {
            "confusion": self.confusion,
            "gains by class": self.gains,
            "nearest neighbours": self.films,
            "attention": self.attention,
        }
        return [name for name, part in parts.items() if part]


class EncoderPart(NamedTuple):
    title: str
    mean_over: str  # of several results, which have their own pictures and commands
    warnings: list[str]
    sentences: list[str]
    answerer: str  # who gave the answers that pictures show
    explanation: Explanation | None
    details: str
    command: str


class Section(NamedTuple):
    anchor: str
    title: str
    code: str
    chart: Chart
    numbers: Table | None
    encoders: list[EncoderPart]
    opened: bool


def make_sections(results: list[Result], colours: dict[str, str], baseline: str) -> list[Section]:
    sections = []
    for i, (name, members) in enumerate(group_cells(results).items()):
        title = title_cell(members[0])
        bars = [score_bars(result, colours[result.encoder.title]) for result in members]
        chart = chart_scores(bars, members[0].chance, f"{members[0].metric} on test, %")
        encoders = []
        for result in members:
            colour = colours[result.encoder.title]
            encoders.append(describe_encoder(result, results, baseline, colour))
        code = name if name != title else ""
        opened = len(results) <= OPEN
        numbers = list_numbers(members)
        sections.append(Section(f"cell{i}", title, code, chart, numbers, encoders, opened))
    return sections


def score_bars(result: Result, colour: str) -> list[Bar]:
    """The encoder, then its controls. A score that a leak makes invalid is red and says why."""
    title, score = result.encoder.title, result.score
    if result.leak.clips:
        title, colour = f"{title}: LEAK, not valid", RED
    bars = [Bar(title, score.value, score.interval, colour, True, bool(result.leak.clips))]
    for name, row in result.controls.items():
        bars.append(Bar(name_row(result, name), row.value, row.interval, GREY))
    return bars


def list_numbers(members: list[Result]) -> Table | None:
    """Other numbers of the same answers, as they are in the files."""
    rows: dict[str, dict[str, float]] = {}
    for result in members:
        title = result.encoder.title
        for row, score in result.rows.items():
            name = title if row == "encoder" else f"{title}, {name_row(result, row)}"
            rows[name] = numbers_of(score, result.metric)
    keys: dict[str, None] = {}
    for numbers in rows.values():
        keys |= dict.fromkeys(numbers)
    if not keys:
        return None
    table = []
    for name, numbers in rows.items():
        table.append((name, *(f"{numbers[key]:.3f}" if key in numbers else "" for key in keys)))
    return Table(("", *keys), table)


def numbers_of(score: Score, metric: str) -> dict[str, float]:
    """Of a row; `4_shot: {top1: ...}` gives its top1. Val is for choosing, not for reading."""
    numbers: dict[str, float] = {}
    for key, content in score.details.items():
        value = content.get(metric) if isinstance(content, dict) else content
        if key.startswith("val") or isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            numbers[key] = value
    return numbers


def describe_encoder(
    result: Result, results: list[Result], baseline: str, colour: str
) -> EncoderPart:
    title = result.encoder.title
    details = describe_details(result)
    if result.over is not None:
        return EncoderPart(title, result.over, [], [], "", None, details, "")
    sentences = verdict(result, results)
    return EncoderPart(
        title=title,
        mean_over="",
        warnings=select_warnings(sentences),
        sentences=list(map(print_text, select_others(sentences))),
        answerer="answer of the probe" if result.question.get("probe") else "answer of this task",
        explanation=explain(result, results, baseline, colour),
        details=details,
        command=result.command or "",
    )


def describe_details(result: Result) -> str:
    """The rest of the result's file, as JSON."""
    content = {key: value for key, value in to_json(result).items() if key not in LONG}
    return json.dumps({**content, "protocol": result.protocol}, indent=1)


def explain(result: Result, results: list[Result], baseline: str, colour: str) -> Explanation:
    return Explanation(
        confusion=show_confusion(result),
        gains=show_gains(result, results, baseline, colour),
        films=[make_film(query) for query in result.strips or []],
        attention=show_attention(result.attention) if result.attention else None,
    )


def show_confusion(result: Result) -> Confusion | None:
    names, counts = result.data.classes, count_confusion(result)
    if counts is None:
        return None
    alt = "Confusion matrix: rows are labels, columns are predictions"
    picture = draw_sharp(draw_confusion(counts, names), alt)
    worst = None
    if len(names) > NAMED:
        worst = Table(("label", "taken for", "test clips"), worst_pairs(counts, names))
    return Confusion(picture, COUNTED < len(names) <= NAMED, worst)


def count_confusion(result: Result) -> list[list[int]] | None:
    """Label x prediction; None where a clip has no single class."""
    names, labels = result.data.classes, result.test.labels
    predictions = (result.test.predictions or {}).get("encoder")
    if not labels or not predictions:
        return None
    counts = np.zeros((len(names), len(names)), dtype=int)
    for pair in zip(labels, predictions, strict=True):
        if not all(isinstance(x, int) and 0 <= x < len(names) for x in pair):
            return None
        counts[pair] += 1
    return counts.tolist()


def class_bars(
    result: Result, results: list[Result], baseline: str, colour: str
) -> ClassBars | None:
    """Gains over a row of the same result, over chance or over another encoder on the same cell."""
    if not score_classes(result, "encoder") or (baseline in ROW_NAMES and not result.controls):
        return None
    base, row = result, baseline
    if baseline not in result.controls and baseline != "chance":
        same = [r for r in results if r.cell == result.cell and r.encoder.title == baseline]
        if same and same[0] is result:
            return None  # the baseline itself
        base, row = (same[0], "encoder") if same else (result, baseline)
    gains = class_gains(result, base, row)
    shown = gains if len(gains) <= MANY else gains[:ENDS] + gains[-ENDS:]
    bars = []
    for gain in shown:
        name = gain.name if gain.clips is None else f"{gain.name} ({gain.clips})"
        interval = add_interval(gain, result, base, row).interval
        bars.append(Bar(name, gain.difference, interval, colour if gain.difference > 0 else RED))
    counted = bool(shown) and shown[0].clips is not None
    cut_from = len(gains) if len(gains) > MANY else 0
    return ClassBars(name_row(result, baseline), bars, cut_from, counted)


def show_gains(
    result: Result, results: list[Result], baseline: str, colour: str
) -> ClassGains | None:
    shown = class_bars(result, results, baseline, colour)
    if shown is None:
        return None
    if not shown.bars:
        return ClassGains(f"Gain over {shown.baseline} by class: this cell has no such row.", None)
    caption = f"Gain by class over: {shown.baseline}"
    if shown.cut_from:
        caption += f", the {ENDS} largest and the {ENDS} smallest of {shown.cut_from}"
    if shown.counted:
        caption += ". In brackets: test clips"
    if shown.bars[0].interval:
        caption += (
            ". Intervals are of each class by itself, not corrected for their number: "
            "they show nothing"
        )
    return ClassGains(caption, chart_differences(shown.bars, f"{result.metric}, points"))


def show_attention(attention: dict[str, Any]) -> Attention:
    """How much of the attention falls on each slot of time."""
    clips, mean = attention.get("clips", []), attention.get("mean")
    slots = len(mean or clips[0]["weights"])
    largest = max(2 / slots, *(mean or ()))
    for clip in clips:
        largest = max(largest, *clip["weights"])
    looks = [(make_clip(clip), scale_weights(clip["weights"], largest)) for clip in clips]
    return Attention(scale_weights(mean, largest) if mean else None, looks)


def scale_weights(shares: Sequence[float], largest: float) -> Weights:
    return Weights(
        heights=[f"{100 * share / largest:.1f}" for share in shares],
        even=f"{100 / len(shares) / largest:.1f}",
        texts=[f"{100 * share:.0f}" for share in shares] if len(shares) <= SLOTS else [],
    )
