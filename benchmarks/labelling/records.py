"""a video -> its record: NAME.json with the pictures and the timeline beside it.

A record whose key is that of the same inputs is read and not measured again.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.labelling.answers import (
    Json,
    Measured,
    Timeline,
    decide,
    join_seconds,
    measure_seconds,
    measure_video,
    phrase_answer,
)
from benchmarks.labelling.labeller import Labeller
from benchmarks.labelling.reading import (
    choose_window,
    draw_strip,
    join_blocks,
    read_clips,
    read_seconds,
)
from ssvid.data.store import path_of_video
from ssvid.errors import DecodeError
from ssvid.files import write_bytes_whole, write_json_whole, write_text_whole

VERSION = 1  # of the records; records of another version are measured again
STRIP, SECONDS, TIMELINE = ".jpg", ".seconds.csv", ".seconds.png"
FAULTS = (OSError, ValueError, TypeError, KeyError)  # of a record that is damaged


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the record of every video needs."""

    labeller: Labeller
    target: Path  # folder of the records
    clips: int  # of a video
    margin: float  # in logits
    window: float | None = None  # seconds; see `choose_window`
    # Draws the timeline of a video from its name, labels and probabilities, as a PNG. None: only
    # whole videos are labelled.
    draw: Callable[[str, list[str], list[list[float]]], bytes] | None = None

    def list_settings(self) -> Json:
        """What decides the numbers of a record, beside the video and the weights."""
        settings: Json = {
            "clip": vars(self.labeller.net.spec),
            "clips": self.clips,
            "labels": hash_texts(self.labeller.labels),
            "templates": list(self.labeller.templates),
        }
        if self.draw is not None:
            spec, shift = choose_window(self.labeller.net.spec, self.window)
            settings["seconds"] = {"clip": vars(spec), "shift": shift, "margin": self.margin}
        return settings

    def name_files(self, video: str) -> list[Path]:
        """The files of a record; the JSON file is the last."""
        suffixes = [STRIP, *([SECONDS, TIMELINE] if self.draw is not None else []), ".json"]
        return [path_of_video(self.target, video, suffix) for suffix in suffixes]


def hash_texts(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]


def make_record(work: Work, video: str, path: Path) -> tuple[Json, bool]:
    """(the record of a video, whether it was measured now). It is written, the JSON file last.

    Raises a DecodeError for a video that cannot be read.
    """
    files = work.name_files(video)
    key = hash_inputs(work, path)
    earlier = read_record(files, key)
    if earlier is not None:
        return earlier, False
    files[-1].parent.mkdir(parents=True, exist_ok=True)
    clips, frames = read_clips(path, work.labeller.net.spec, work.clips)
    measured = measure_video(
        work.labeller.compare(clips), work.labeller.labels, work.labeller.factor
    )
    record: Json = {
        "video": video,
        "top": [line._asdict() for line in measured.top],
        "margin": measured.margin,
        "best_similarity": measured.best_similarity,
        "labels": len(work.labeller.labels),
        "settings": work.list_settings(),
        "weights": work.labeller.hash,
        "key": key,
    }
    if work.draw is not None:
        timeline = measure_timeline(work, path)
        record["seconds"] = len(timeline.answers)
        record["segments"] = [part._asdict() for part in join_seconds(timeline.answers)]
        write_text_whole(files[1], format_seconds(timeline))
        picture = work.draw(video, timeline.labels, timeline.probabilities.tolist())
        write_bytes_whole(files[2], picture)
    write_bytes_whole(files[0], draw_strip(frames))
    write_json_whole(files[-1], record, end="\n", indent=1)
    return record, True


def decide_record(work: Work, record: Json, threshold: float | None) -> Json:
    """The record with its answer. It is written again where the answer is another than before."""
    verdict = decide(Measured.from_json(record), work.margin, threshold)
    answer = {
        "answer": phrase_answer(verdict, record["top"][0]["label"]),
        "verdict": verdict,
        "least_margin": work.margin,
        "threshold": threshold,
    }
    decided = {**record, **answer}
    if decided != record:
        file = path_of_video(work.target, record["video"], ".json")
        write_json_whole(file, decided, end="\n", indent=1)
    return decided


def hash_inputs(work: Work, path: Path) -> str:
    """A file that has the same size and time of change counts as unchanged."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise DecodeError(path, "the file cannot be opened") from error
    video = (status.st_size, status.st_mtime_ns)
    inputs = (VERSION, video, work.labeller.hash, sorted(work.list_settings().items()))
    return hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]


def read_record(files: list[Path], key: str) -> Json | None:
    """The record that an earlier run of the same inputs wrote; None where it is not whole."""
    try:
        record: Json = json.loads(files[-1].read_text())
        if record["key"] != key or not all(map(Path.exists, files)):
            return None
        Measured.from_json(record)
        return record
    except FAULTS:
        return None


def measure_timeline(work: Work, path: Path) -> Timeline:
    labeller = work.labeller
    spec, shift = choose_window(labeller.net.spec, work.window)
    rows = []
    for block in join_blocks(read_seconds(path, spec, shift), labeller.batch_size):
        rows.append(labeller.compare(block))
    return measure_seconds(torch.cat(rows), labeller.labels, work.margin)


def format_seconds(timeline: Timeline) -> str:
    """CSV: a line for each second, with the probability of each of the best labels."""
    with io.StringIO() as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["second", "answer", *timeline.labels])
        rows = zip(timeline.answers, timeline.probabilities.tolist(), strict=True)
        for second, (answer, probabilities) in enumerate(rows):
            writer.writerow([second, answer, *map("{:.6f}".format, probabilities)])
        return file.getvalue()
