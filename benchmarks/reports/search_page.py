"""moments that fit sentences -> search.html: a frame of each, with a link to its time."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from benchmarks.reports.label_timeline import format_time
from benchmarks.reports.page import Picture, make_picture, render_page
from benchmarks.reports.page_heads import Head, count, join_facts

Json = dict[str, Any]


class ShownMoment(NamedTuple):
    rank: int
    video: str
    time: str
    score: str
    link: str  # the video, from the folder of the page on, at the time of the moment
    picture: Picture | None


class ShownQuery(NamedTuple):
    text: str
    moments: list[ShownMoment]


def make_search_page(
    answers: Sequence[Json],
    frames: Mapping[tuple[str, float], bytes | None],
    paths: Mapping[str, Path],
    folder: Path,
    notes: Sequence[str],
    bad: Mapping[str, str],
    encoder: str,
) -> str:
    """HTML. `frames`: JPEG by video and start. `folder`: where the page will lie.

    `bad`: video -> why it could not be read. `notes`: sentences on what the numbers mean.
    """
    queries = []
    for answer in answers:
        shown = []
        for rank, row in enumerate(answer["moments"], start=1):
            jpeg = frames[row["video"], row["start"]]
            shown.append(
                show_moment(rank, row, jpeg, link_moment(paths[row["video"]], folder, row))
            )
        queries.append(ShownQuery(answer["query"], shown))
    number = "1 query" if len(queries) == 1 else f"{len(queries)} queries"
    about = [encoder, count(len(paths), "video"), number]
    return render_page(
        "search.html",
        head=Head("When is this seen?", join_facts(about)),
        notes=notes,
        bad=sorted(bad.items()),
        queries=queries,
    )


def show_moment(rank: int, row: Json, jpeg: bytes | None, link: str) -> ShownMoment:
    span = f"{format_clock(row['start'])} - {format_clock(row['end'])}"
    picture = None if jpeg is None else make_picture(jpeg, f"{row['video']} at {span}", "jpeg")
    return ShownMoment(rank, row["video"], span, f"{row['score']:.4f}", link, picture)


def format_clock(seconds: float) -> str:
    """Hours, minutes and seconds, with tenths where there are any."""
    tenths = round(seconds * 10) % 10
    return f"{format_time(round(seconds * 10) / 10)}{f'.{tenths}' if tenths else ''}"


def link_moment(path: Path, folder: Path, row: Json) -> str:
    """A relative link: a browser plays the part of the file that its fragment names."""
    file = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return f"{quote(os.fsencode(file))}#t={row['start']:g},{row['end']:g}"
