"""Videos, or their stored features, and transcripts -> Manifest with sentences (HowTo100M)."""

from dataclasses import replace
from pathlib import Path

from ssvid.data import files
from ssvid.data.manifest import Manifest
from ssvid.data.narration import readers
from ssvid.data.narration.pairing import VideoFinder, read_durations
from ssvid.data.narration.readers import Narrations
from ssvid.data.narration.skipped import LeftOut
from ssvid.errors import UserError, check_range
from ssvid.registry import datasets
from ssvid.shapes import Row

MOST_VAL = 1000  # videos, as published


@datasets.register("narrated")
def narrated(
    # folder of the videos, or of their features if there are no videos; files are named by video id
    root: str,
    *,
    # file or folder (below root, or absolute): vtt, srt, json, json3, csv, tsv, plain lists
    transcripts: str,
    # where a video has several transcripts, the one to read: en of ID.en.vtt and ID.de.vtt
    language: str | None = None,
    # folder of stored features with one row per second
    features: str | None = None,
    held_out: str | None = None,  # list of ids that are never trained on, as htm_holdout_vid.txt
    durations: str | None = None,  # csv of ids and seconds, which saves the scan of each video
    least_s: float = 64.0,  # videos of this length or less are left out, as published
    most_s: float = 1000.0,  # videos of this length or more are left out, as published
    val: float = 0.05,  # share of the videos, 1000 at most: the first ones by id, as published
    left_out: str | None = None,  # a .jsonl file that lists what is left out, and why
) -> Manifest:
    """All videos are for training, except for the share that is val. For a test see `htm_align`."""
    check_range(0.0, 1.0, val=val)
    base = files.need_folder(root, "--data.root of narrated")
    seconds = read_durations(durations, "--data.durations")
    finder, left = VideoFinder(base, features, seconds), LeftOut()
    never_train = _read_ids(held_out) if held_out else set()
    source = base / Path(transcripts).expanduser()
    narrations = readers.read(
        source, length=finder.seconds, left_out=left, language=language, ids=finder.ids
    )
    rows = _pair(narrations, finder, never_train, (least_s, most_s), left)
    if left_out is not None:
        left.write(Path(left_out).expanduser())
    if not rows:
        raise UserError(f"{base}: no video of {source} can be used: {left.describe()}.")
    left.log(source)
    built = Manifest.build(rows, base, source=source)
    # The split comes after the checks of build, which would make a val without a test the test.
    n_val = min(int(val * len(rows)), MOST_VAL)
    split = [replace(row, split="val") for row in built.rows[:n_val]]
    return replace(built, rows=(*split, *built.rows[n_val:]))


def _pair(
    narrations: Narrations,
    finder: VideoFinder,
    never_train: set[str],
    limits_s: tuple[float, float],
    left: LeftOut,
) -> list[Row]:
    """A row for each video that can be used, in order of ids. The others are added to `left`."""
    least_s, most_s = limits_s
    rows = []
    for id in sorted(narrations):
        video = finder.find(id)
        if id in never_train:
            left.add(id, "held out")
        elif video.why:
            left.add(id, video.why, video.details)
        elif not least_s < video.seconds < most_s:
            left.add(id, f"not between {least_s:g} and {most_s:g} s", f"{video.seconds:.1f} s")
        else:
            row = Row(
                video.path,
                split="train",
                group=id,
                duration=video.seconds,
                sentences=tuple(narrations[id]),
                features=video.features,
                video_id=id,
            )
            rows.append(row)
    for id in sorted(finder.ids - set(narrations)):
        left.add(id, "no transcript")
    for id, path in finder.spare:
        left.add(id, "another file of the same id", path)
    return rows


def _read_ids(held_out: str) -> set[str]:
    file = files.need_file(held_out, "--data.held_out")
    ids = set(filter(None, map(str.strip, files.read_text(file).splitlines())))
    if not ids or any(len(id.split()) > 1 for id in ids):
        raise UserError(f"{file} (--data.held_out) is not a list of video ids, one a line.")
    return ids
