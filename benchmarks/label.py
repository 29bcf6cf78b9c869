"""videos + labels that the user makes up -> which label describes each video.

`python -m benchmarks.label VIDEO --labels "a dog sled, a slam dunk" --encoder E ...` writes
labels.csv, index.html and a record of each video. Clips and labels are compared in
benchmarks.labelling.
"""

import csv
import io
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.labelling.answers import LEAST_VIDEOS, NONE, Json, Threshold, choose_threshold
from benchmarks.labelling.labeller import open_labeller
from benchmarks.labelling.labels import read_labels
from benchmarks.labelling.reading import choose_window
from benchmarks.labelling.records import STRIP, TIMELINE, Work, decide_record, make_record
from ssvid.data import files
from ssvid.data.manifest import Manifest
from ssvid.data.quarantine import NAME as BAD_FILES
from ssvid.data.quarantine import Quarantine
from ssvid.data.store import path_of_video
from ssvid.engine.distributed import join
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.errors import DecodeError, UserError, check_positive, check_range
from ssvid.files import locked, remove_leftovers, write_text_whole
from ssvid.log import log
from ssvid.progress import progress_bar
from ssvid.shapes import Row
from ssvid.text.wording import BARE, read_templates

TABLE, PAGE, CALIBRATION = "labels.csv", "index.html", "calibration"
COLUMNS = ("video", "rank", "label", "probability", "similarity", "verdict")
PRINTED_VIDEOS, PRINTED_LABELS = 20, 5  # for people


class Videos(NamedTuple):
    """The videos of a file or folder that the user named."""

    name: str  # as the user wrote it
    ids: list[str]
    paths: list[Path]
    is_folder: bool


class Answers(NamedTuple):
    """What is said of some videos."""

    records: list[Json]
    counts: dict[str, int]
    bad: dict[str, str]  # video -> why it cannot be read


def label(
    video: str,  # a file, or a folder of them
    *,
    labels: str,  # two or more with commas between them, or a .txt file with one a line
    out: str,  # folder
    # a run of clip or xclip, or a published file of CLIP, X-CLIP or MIL-NCE
    encoder: str | None = None,
    words: str | None = None,  # vocabulary or word list of a published file
    # a file of wordings, one a line, with {} for the label; their vectors are averaged. Without
    # it the label stands alone.
    templates: str | None = None,
    clips: int = 4,  # of each video, whose probabilities are averaged
    per_second: bool = False,  # also label each second: NAME.seconds.csv and a picture
    # seconds that are looked at for each second, by an encoder of whole videos; 2 if it is not set
    window: float | None = None,
    # An answer is unsure if its label leads by less than this, in logits: with 0.7 it is less than
    # twice as likely as the next label.
    margin: float = 0.7,
    # A video is none of these if its best similarity does not exceed this. --calibrate finds it.
    none_below: float | None = None,
    calibrate: str | None = None,  # folder of 20 or more videos that show none of the labels
    false_alarms: float = 0.05,  # fraction of the videos of --calibrate that may get a label
    clip: ClipChange = UNCHANGED,  # changes to the clip of the encoder
    batch_size: int = 32,  # clips through the encoder at once
    devices: Literal["auto", "cpu", "cuda"] = "auto",  # auto: a GPU where there is one
) -> dict[str, Any]:
    """Say which of your labels describes a video, or each video of a folder.

    Probabilities compare the labels with each other and sum to 1 over them: they do not say that
    any of them fits. The same command continues where it stopped.
    """
    began = time.monotonic()
    check_positive(clips=clips, batch_size=batch_size, window=window)
    check_range(0, math.inf, margin=margin)
    check_range(0, 1, false_alarms=false_alarms)
    check_pairs(none_below, calibrate, window, per_second)
    texts = read_labels(labels)
    wordings = BARE if templates is None else read_templates(templates, "--templates")
    target = name_folder(out)
    videos = list_videos(video, "VIDEO")
    empty = None if calibrate is None else list_empty_videos(calibrate, video)
    device = join(devices).device
    labeller = open_labeller(encoder, words, clip, texts, wordings, batch_size, device)
    work = Work(labeller=labeller, target=target, clips=clips, margin=margin)
    full = use_seconds(work, window) if per_second else work
    with locked(target / "lock", wait=False, what=f"--out {out}"):
        remove_leftovers(target)
        threshold = None
        if none_below is not None:
            threshold = Threshold(none_below, f"The threshold {none_below:g} is that of the user.")
        elif empty is not None:
            threshold = find_threshold(work, empty, false_alarms)
        answers = label_all(full, videos, None if threshold is None else threshold.value)
        write_text_whole(target / TABLE, format_table(answers.records))
        write_text_whole(target / PAGE, draw_page(full, answers, phrase_notes(full, threshold)))
    printed = summarise(answers, threshold, videos.is_folder)
    printed |= {"seconds": round(time.monotonic() - began, 3), "out": out}
    printed["next"] = [f"open {target / PAGE} in a browser"]
    # Exit code 3 says that the run ended, but that some videos could not be read.
    return printed | ({"exit_code": 3} if answers.bad else {})


def check_pairs(
    none_below: float | None, calibrate: str | None, window: float | None, per_second: bool
) -> None:
    """Raise a UserError for flags that contradict each other."""
    if none_below is not None and calibrate is not None:
        raise UserError("--none_below and --calibrate both set the threshold: give one of the two.")
    if window is not None and not per_second:
        raise UserError("--window belongs to --per_second: give both, or neither.")


def name_folder(out: str) -> Path:
    """The folder of --out. A UserError if it is a file."""
    target = Path(out).expanduser()
    if target.is_file():
        raise UserError(f"--out {out} is a file; name a folder.")
    return target


def list_videos(video: str, flag: str) -> Videos:
    """The videos of a file or folder. A UserError where there are none; `flag` names it."""
    path = Path(video).expanduser()
    if not path.is_dir():
        return Videos(video, [path.stem], [files.need_file(path, flag)], False)
    contents = files.list_contents(path)
    if not contents.videos:
        raise UserError(f"{path} holds no video files: check {flag}.")
    files.log_skipped_files(path, contents.suffixes, files.VIDEO_SUFFIXES)
    paths = [path / name for name in contents.videos]
    manifest = Manifest.build([Row(name) for name in contents.videos], path)
    return Videos(video, manifest.video_ids, paths, True)


def list_empty_videos(folder: str, video: str) -> Videos:
    """The videos of --calibrate, of which there are enough."""
    path = files.need_folder(folder, "--calibrate")
    if path.resolve() == Path(video).expanduser().resolve():
        raise UserError(
            f"--calibrate {folder} is also VIDEO: name a folder of other videos, which show none "
            "of the labels."
        )
    videos = list_videos(folder, "--calibrate")
    if len(videos.ids) < LEAST_VIDEOS:
        raise UserError(
            f"--calibrate {folder} has {len(videos.ids)} videos: a threshold needs {LEAST_VIDEOS} "
            "or more that show none of the labels."
        )
    return videos


def use_seconds(work: Work, window: float | None) -> Work:
    """The work with a timeline of each video. A UserError where the window does not fit."""
    from benchmarks.reports.label_timeline import draw_timeline

    choose_window(work.labeller.net.spec, window)
    return replace(work, window=window, draw=draw_timeline)


def find_threshold(work: Work, empty: Videos, false_alarms: float) -> Threshold:
    """The threshold of --calibrate. Its videos have records of their own, below the out folder."""
    answers = label_all(replace(work, target=work.target / CALIBRATION), empty, None)
    similarities = [record["best_similarity"] for record in answers.records]
    threshold = choose_threshold(similarities, false_alarms, empty.name)
    log.info(threshold.sentence)
    return threshold


def label_all(work: Work, videos: Videos, threshold: float | None) -> Answers:
    """Make or read the record of every video, and answer.

    A single video that cannot be read raises a UserError. Those of a folder are listed.
    """
    (work.target / BAD_FILES).unlink(missing_ok=True)  # every bad video is tried again
    bad = Quarantine(work.target, len(videos.ids), 1.0)
    records: list[Json] = []
    counts = {"videos": len(videos.ids), "labelled": 0, "kept": 0}
    names = progress_bar(
        len(videos.ids), "video", iterable=videos.ids, desc="label", disable=not videos.is_folder
    )
    for name, path in zip(names, videos.paths, strict=True):
        try:
            record, is_new = make_record(work, name, path)
        except DecodeError as error:
            if not videos.is_folder:
                raise UserError(f"The video cannot be read: {error}.") from error
            bad.add(name, error.time, str(error))
            continue
        counts["labelled" if is_new else "kept"] += 1
        records.append(decide_record(work, record, threshold))
    return Answers(records, {**counts, "bad": len(bad)}, bad.bad)


def summarise(answers: Answers, threshold: Threshold | None, is_folder: bool) -> Json:
    """What the command prints: counts, and the answer where there is one video."""
    printed: Json = dict(answers.counts)
    verdicts = [record["verdict"] for record in answers.records]
    for kind in ("sure", "unsure", "none"):
        printed[kind] = verdicts.count(kind)
    if threshold is not None:
        printed |= {"threshold": threshold.value, "threshold_from": threshold.sentence}
    if not is_folder:
        record = answers.records[0]
        for key in ("answer", "verdict", "margin", "best_similarity"):
            printed[key] = record[key]
        printed["top"] = record["top"][:PRINTED_LABELS]
    return {**printed, "page": format_for_people(answers, threshold)}


def format_table(records: Sequence[Json]) -> str:
    """The best labels of every video as CSV."""
    with io.StringIO() as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for record in records:
            for rank, line in enumerate(record["top"], start=1):
                numbers = [f"{line['probability']:.6f}", f"{line['similarity']:.6f}"]
                verdict = record["verdict"] if rank == 1 else ""
                writer.writerow([record["video"], rank, line["label"], *numbers, verdict])
        return file.getvalue()


def phrase_notes(work: Work, threshold: Threshold | None) -> list[str]:
    """What the numbers of the page mean, in sentences."""
    labeller = work.labeller
    clips = f"{work.clips} clips" if work.clips > 1 else "one clip"
    kind = "cosine" if labeller.joint.cosine else "product"
    factor = f"; times {labeller.factor:.4g}, which training found, it is a logit"
    if labeller.factor == 1.0:
        factor = ", which is also its logit"
    notes = [
        f"A probability compares the {len(labeller.labels)} labels with each other. The softmax of "
        f"each clip sums to 1 over them, and that of {clips} of a video is averaged. One of the "
        "labels is always the likeliest, also where none fits.",
        f"A similarity is the {kind} of a clip and a label{factor}. Other labels change every "
        "probability and no similarity.",
        "An answer is unsure where its label leads by less than "
        f"{work.margin:g} logits, which is less than {math.exp(work.margin):.3g} times as likely "
        "as the next label.",
    ]
    if threshold is None:
        notes.append(
            f'No threshold was asked for, so no video is "{NONE}". --calibrate finds one from '
            "videos that show no label."
        )
    else:
        notes.append(threshold.sentence)
        notes.append(
            "A threshold holds for the labels, wordings, clips, weights and kind of videos that it "
            "was found with. It is for whole videos and not applied to seconds."
        )
    templates = labeller.templates
    if len(templates) > 1:
        notes.append(f"The vectors of {len(templates)} wordings of each label are averaged.")
    else:
        notes.append(f"A label is worded {templates[0]!r}.")
    if work.draw is not None and labeller.net.spec.whole:
        spec, _ = choose_window(labeller.net.spec, work.window)
        seconds = spec.frames / (spec.fps or 1.0)
        notes.append(f"Each second is labelled by a window of {seconds:g} seconds around it.")
    return notes


def draw_page(work: Work, answers: Answers, notes: Sequence[str]) -> str:
    from benchmarks.reports.label_page import make_label_page  # matplotlib is imported at the end

    pictures: list[tuple[Path, Path | None]] = []
    for record in answers.records:
        strip = path_of_video(work.target, record["video"], STRIP)
        timeline = path_of_video(work.target, record["video"], TIMELINE)
        pictures.append((strip, None if work.draw is None else timeline))
    sizes = (work.labeller.net.name, len(work.labeller.labels))
    return make_label_page(answers.records, pictures, answers.bad, notes, *sizes)


def format_for_people(answers: Answers, threshold: Threshold | None) -> str:
    """A short table of each video, for the terminal."""
    records = answers.records
    lines = []
    for record in records[:PRINTED_VIDEOS]:
        lines.append(f"{record['video']}: {record['answer']}")
        for line in record["top"][:PRINTED_LABELS]:
            numbers = f"{100 * line['probability']:5.1f} %  {line['similarity']:7.4f}"
            lines.append(f"  {numbers}  {line['label']}")
    if len(records) > PRINTED_VIDEOS:
        lines.append(f"... and {len(records) - PRINTED_VIDEOS} more videos: {TABLE}")
    lines += [f"not read: {name} ({why})" for name, why in answers.bad.items()]
    if threshold is not None:
        lines.append(threshold.sentence)
    return "\n".join(lines)


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("label")
