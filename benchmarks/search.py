"""a folder of videos + sentences -> the moments that each sentence describes.

`python -m benchmarks.search FOLDER --encoder E --query "a dog sled"` builds an index of the folder
or goes on with it, and writes moments.csv and search.html. All is done in benchmarks.searching.
"""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks.label import Videos, list_videos, name_folder
from benchmarks.labelling.labeller import open_networks
from benchmarks.searching.index import Built, Reader, build_index, choose_pace
from benchmarks.searching.query import (
    Moment,
    check_queries,
    find_moments,
    needs_shortlist,
    phrase_order,
)
from benchmarks.searching.windows import draw_moment
from ssvid.engine.distributed import join
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.errors import DecodeError, UserError, check_positive, check_range
from ssvid.files import locked, write_text_whole
from ssvid.log import log
from ssvid.text.joint import JointSpace

TABLE, PAGE = "moments.csv", "search.html"
COLUMNS = ("query", "rank", "video", "start", "end", "score")
LEAST_S, MOST_S = 0.01, 86400.0  # of a window
Json = dict[str, Any]


def search(
    folder: str,  # of videos; a single file is a folder of one
    *,
    # a run of clip, xclip, video_text or mil_nce, or a published file of CLIP, X-CLIP or MIL-NCE
    encoder: str | None = None,
    words: str | None = None,  # vocabulary or word list of a published file
    # what should be seen, in a few words; may be given several times. Without it the index is
    # built and nothing is asked.
    query: list[str] | None = None,
    out: str = "runs/search",  # folder of the index and of the answers
    window: float | None = None,  # seconds of a moment; null: those of the index, or 4 of a new one
    step: float | None = None,  # seconds from a window to the next; null: as the index, or window
    top: int = 10,  # moments for each query
    # windows that are ordered anew, by an encoder whose text depends on the clip or that matches
    shortlist: int = 100,
    clip: ClipChange = UNCHANGED,  # changes to the clip of the encoder
    batch_size: int = 32,  # windows through the encoder at once
    devices: Literal["auto", "cpu", "cuda"] = "auto",  # auto: a GPU where there is one
) -> dict[str, Any]:
    """Find the moments of a folder of videos that fit a sentence.

    The first call reads every video; later ones read what is new or changed. The same command
    continues where it stopped.
    """
    began = time.monotonic()
    check_positive(batch_size=batch_size, top=top, shortlist=shortlist)
    target, sentences = name_folder(out), query or []
    pace = choose_pace(target, window, step)
    check_range(LEAST_S, MOST_S, window=pace.window_s, step=pace.step_s)
    videos = list_videos(folder, "FOLDER")
    net, joint = open_networks(encoder, words, clip, join(devices).device)
    reader = Reader(net, joint, batch_size)
    check_queries(sentences, reader)
    if needs_shortlist(reader) and shortlist < top:
        raise UserError(f"--shortlist {shortlist} has no room for --top {top} moments.")
    with locked(target / "lock", wait=False, what=f"--out {out}"):
        paths = name_videos(videos)
        built = build_index(reader, target, paths, pace, bar=videos.is_folder)
        if built.bad and not videos.is_folder:
            raise UserError(f"The video cannot be read: {next(iter(built.bad.values()))}.")
        printed: Json = {**built.counts}
        start = time.monotonic()
        moments = find_moments(built.index, reader, sentences, top, shortlist)
        answers = list_answers(sentences, moments)
        if answers:
            printed["order"] = phrase_order(reader, len(built.index), shortlist)
            log.info(printed["order"])
            write_text_whole(target / TABLE, format_table(answers))
            notes = [printed["order"], phrase_score(joint)]
            write_text_whole(
                target / PAGE, draw_page(target, paths, answers, notes, built, net.name)
            )
            printed["query_seconds"] = round(time.monotonic() - start, 3)
    printed |= {"queries": answers, "out": out, "seconds": round(time.monotonic() - began, 3)}
    printed["page"] = format_for_people(printed, built.bad)
    printed["next"] = [f"open {target / PAGE} in a browser"] if answers else []
    # Exit code 3 says that the run ended, but that some videos could not be read.
    return printed | ({"exit_code": 3} if built.bad else {})


def name_videos(videos: Videos) -> dict[str, Path]:
    """Each video by its path below the folder, with its suffix."""
    root = Path(videos.name).expanduser()
    paths = {}
    for path in videos.paths:
        paths[path.relative_to(root).as_posix() if videos.is_folder else path.name] = path
    return paths


def list_answers(sentences: Sequence[str], moments: Sequence[Sequence[Moment]]) -> list[Json]:
    """For each query its moments, with seconds to a millisecond."""
    answers: list[Json] = []
    for sentence, best in zip(sentences, moments, strict=True):
        rows = []
        for moment in best:
            times = {"start": round(moment.start_s, 3), "end": round(moment.end_s, 3)}
            rows.append({"video": moment.video, **times, "score": moment.score})
        answers.append({"query": sentence, "moments": rows})
    return answers


def phrase_score(joint: JointSpace) -> str:
    """What a score is, in a sentence."""
    if joint.can_match:
        kind = "what the matching head says of the window and the query"
    elif joint.cosine:
        kind = "the cosine of the vectors of the window and of the query"
    else:
        kind = "the product of the vectors of the window and of the query"
    return (
        f"A score is {kind}. It orders the windows of one query; it is no probability, and the "
        "best window has a score also where nothing fits."
    )


def format_table(answers: Sequence[Json]) -> str:
    """The moments of every query as CSV."""
    with io.StringIO() as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for answer in answers:
            for rank, row in enumerate(answer["moments"], start=1):
                times = [f"{row['start']:.3f}", f"{row['end']:.3f}"]
                score = f"{row['score']:.6f}"
                writer.writerow([answer["query"], rank, row["video"], *times, score])
        return file.getvalue()


def draw_page(
    target: Path,
    paths: Mapping[str, Path],
    answers: Sequence[Json],
    notes: Sequence[str],
    built: Built,
    encoder: str,
) -> str:
    """The page, with a frame of each moment from its middle."""
    from benchmarks.reports.search_page import make_search_page  # it imports matplotlib

    frames: dict[tuple[str, float], bytes | None] = {}  # by video and start
    for answer in answers:
        for row in answer["moments"]:
            name, start = row["video"], row["start"]
            if (name, start) not in frames:
                try:
                    frames[name, start] = draw_moment(paths[name], (start + row["end"]) / 2)
                except DecodeError as error:
                    log.warning(f"The page has no frame of a moment: {error}.")
                    frames[name, start] = None
    return make_search_page(answers, frames, paths, target, notes, built.bad, encoder)


def format_for_people(printed: Json, bad: Mapping[str, str]) -> str:
    """The counts, and a short table of each query, for the terminal."""
    counts = ", ".join(f"{printed[name]} {name}" for name in ("videos", "windows", "read", "kept"))
    lines = [counts]
    for answer in printed["queries"]:
        lines.append(answer["query"])
        for row in answer["moments"]:
            span = f"{row['start']:8.1f} - {row['end']:.1f} s"
            lines.append(f"  {row['score']:7.4f} {span}  {row['video']}")
    if printed["queries"]:
        lines.append(printed["order"])
    lines += [f"not read: {name} ({why})" for name, why in bad.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("search")
