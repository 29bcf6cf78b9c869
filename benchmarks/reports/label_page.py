"""records of labelled videos -> index.html: frames of each video beside bars of its labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.reports.bars import Bar, Chart, chart_scores
from benchmarks.reports.figure_style import BLUE, GREY
from benchmarks.reports.label_timeline import format_time
from benchmarks.reports.page import Picture, Table, make_picture, render_page
from benchmarks.reports.page_heads import Head, count, join_facts

BARS = 5  # labels of a video with a bar
SEGMENTS = 12  # of a video that are listed
MOST = 200  # videos of a page
HEAD = ("rank", "label", "probability", "similarity")
KINDS = {"sure": "sure", "unsure": "unsure", "none": "unsure"}  # verdict -> class of the style
Json = dict[str, Any]


class LabelledVideo(NamedTuple):
    """What the page shows of one video."""

    name: str
    answer: str
    kind: str  # class of the style
    reason: str  # why the answer is no plain label; empty: it is one
    strip: Picture
    chart: Chart
    table: Table
    timeline: Picture | None
    segments: list[tuple[str, str]]  # time, answer
    more_segments: int


def make_label_page(
    records: Sequence[Json],
    files: Sequence[tuple[Path, Path | None]],
    bad: dict[str, str],
    notes: Sequence[str],
    encoder: str,
    labels: int,
) -> str:
    """HTML. `files`: of each record its strip and the picture of its timeline.

    `bad`: video -> why it could not be read. `notes`: sentences on what the numbers mean.
    """
    shown = []
    for record, (strip, timeline) in zip(records[:MOST], files[:MOST], strict=True):
        shown.append(show_video(record, strip, timeline))
    about = [encoder, count(labels, "label"), count(len(records), "video")]
    return render_page(
        "label.html",
        head=Head("What is happening in these videos?", join_facts(about)),
        summary=summarise(records),
        notes=notes,
        bad=sorted(bad.items()),
        videos=shown,
        missing=len(records) - len(shown),
    )


def summarise(records: Sequence[Json]) -> list[str]:
    """How many videos got which kind of answer."""
    verdicts = [record["verdict"] for record in records]
    sure, unsure, none = (verdicts.count(kind) for kind in KINDS)
    parts = [f"{sure} of {count(len(records), 'video')} got a label"]
    if unsure:
        parts.append(f"{unsure} an unsure one")
    if none:
        parts.append(f"{none} none of these")
    return [", ".join(parts) + "."]


def show_video(record: Json, strip: Path, timeline: Path | None) -> LabelledVideo:
    top, verdict = record["top"], record["verdict"]
    bars = []
    for rank, line in enumerate(top[:BARS]):
        is_answer = rank == 0 and verdict == "sure"
        bars.append(
            Bar(line["label"], line["probability"], None, BLUE if is_answer else GREY, rank == 0)
        )
    segments = []
    for part in record.get("segments", [])[:SEGMENTS]:
        segments.append(
            (f"{format_time(part['start'])}-{format_time(part['end'])}", part["answer"])
        )
    picture = None
    if timeline is not None:
        picture = make_picture(timeline.read_bytes(), f"labels over time of {record['video']}")
    return LabelledVideo(
        name=record["video"],
        answer=record["answer"],
        kind=KINDS[verdict],
        reason=explain(record),
        strip=make_picture(strip.read_bytes(), f"frames of {record['video']}", "jpeg"),
        chart=chart_scores([bars], None, "probability in %"),
        table=Table(HEAD, list_rows(top)),
        timeline=picture,
        segments=segments,
        more_segments=max(0, len(record.get("segments", [])) - SEGMENTS),
    )


def explain(record: Json) -> str:
    """Why the answer is no plain label; empty where it is one."""
    if record["verdict"] == "none":
        return (
            f"its best similarity, {record['best_similarity']:.4g}, does not exceed the threshold "
            f"of {record['threshold']:.4g}"
        )
    if record["verdict"] == "unsure":
        return (
            f"the best two labels are {record['margin']:.2f} logits apart, less than "
            f"{record['least_margin']:.2f}"
        )
    return ""


def list_rows(top: Sequence[Json]) -> list[list[str]]:
    rows = []
    for rank, line in enumerate(top, start=1):
        percent, similarity = f"{100 * line['probability']:.1f} %", f"{line['similarity']:.4f}"
        rows.append([str(rank), line["label"], percent, similarity])
    return rows
